package repository

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/store"
)

// DirectorPrefix stands before the names of Director roots.
const DirectorPrefix = "director/"

// splitOffline takes policy/<product>.json and baseline/<product>/<profile>.json apart.
func splitOffline(p string) (kind, product, profile string) {
	kind, rest, _ := strings.Cut(p, "/")
	rest = strings.TrimSuffix(rest, ".json")
	switch kind {
	case "policy":
		return kind, rest, ""
	case "baseline":
		product, profile = path.Split(rest)
		return kind, strings.TrimSuffix(product, "/"), profile
	}
	return kind, "", ""
}

// view makes a catalog of one row version.
func (s *Service) view(ctx context.Context, repo store.Repo) (*Catalog, error) {
	var err error
	c := &Catalog{
		Timestamp: repo.TimestampDoc, TimestampVersion: repo.Timestamp, Beacon: digest.Of(repo.TimestampDoc),
		IssuedAt: repo.IssuedAt, Targets: repo.Targets, Products: map[string]*Product{},
	}
	if c.ImageRoots, err = s.roots(ctx, tufrepo.StorePrefix, repo.ImageRoot); err != nil {
		return nil, err
	}
	if c.DirectorRoots, err = s.roots(ctx, DirectorPrefix, repo.DirectorRoot); err != nil {
		return nil, err
	}
	if repo.Targets > 0 {
		if err := s.loadOffline(ctx, c, repo.Targets); err != nil {
			return nil, err
		}
	}
	for _, p := range c.Products {
		if err := s.loadBaselines(ctx, c, p); err != nil {
			return nil, err
		}
		if err := s.loadReleases(ctx, p); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// roots reads the roots of a repository up to the newest version, version 1 first.
func (s *Service) roots(ctx context.Context, prefix string, newest int64) ([][]byte, error) {
	var out [][]byte
	for v := int64(1); v <= newest; v++ {
		data, err := s.store.MetadataFile(ctx, prefix+tufrepo.FileName(v, tufrepo.RoleRoot))
		if err != nil {
			return nil, fmt.Errorf("cannot read root %d: %w", v, err)
		}
		out = append(out, data)
	}
	return out, nil
}

// loadOffline reads the policies and baselines that the offline targets sign.
func (s *Service) loadOffline(ctx context.Context, c *Catalog, version int64) error {
	doc, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.FileName(version, tufrepo.RoleTargets))
	if err != nil {
		return fmt.Errorf("cannot read the offline targets: %w", err)
	}
	spec, err := tufrepo.ParseTargets(doc)
	if err != nil {
		return fmt.Errorf("cannot read the offline targets: %w", err)
	}
	c.OfflineFiles = map[string][]byte{}
	for name := range spec.Products {
		c.Products[name] = &Product{Name: name, Baselines: map[string]Baseline{}}
	}
	for _, name := range sortedKeys(spec.Files) {
		sum := spec.Files[name].SHA256
		data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.TargetFileName(name, sum))
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", name, err)
		}
		c.OfflineFiles[name] = data
		if err := c.take(name, data, sum); err != nil {
			return err
		}
	}
	return nil
}

func (c *Catalog) take(name string, data []byte, sum digest.SHA256) error {
	kind, product, profile := splitOffline(name)
	p := c.Products[product]
	if p == nil {
		return nil
	}
	switch kind {
	case "policy":
		policy, err := artifacts.DecodePolicy(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.Policy, p.PolicyDigest = policy, sum
	case "baseline":
		baseline, err := reference.DecodeBaseline(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.Baselines[profile] = Baseline{Value: baseline, Digest: sum}
	}
	return nil
}

func (s *Service) loadReleases(ctx context.Context, p *Product) error {
	rows, err := s.store.ListReleases(ctx, p.Name)
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	for _, row := range rows {
		if row.State != api.ReleasePublished {
			continue
		}
		r, err := s.loadRelease(ctx, row)
		if err != nil {
			return fmt.Errorf("cannot load release %s: %w", row.Name, err)
		}
		p.Releases = append(p.Releases, r)
	}
	slices.SortFunc(p.Releases, func(a, b *Release) int {
		return cmp.Compare(b.Statement.Predicate.Counter, a.Statement.Predicate.Counter)
	})
	return nil
}

func (s *Service) loadRelease(ctx context.Context, row store.Release) (*Release, error) {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return nil, err
	}
	r := &Release{Name: row.Name, Statement: statement, Hold: row.Hold, Pruned: !row.PrunedAt.IsZero(), PublishedAt: row.PublishedAt,
		Values: map[string]reference.Values{}, Documents: documents(row, statement)}
	for component, sum := range row.Reference {
		if known, ok := s.known(row, component, sum); ok {
			r.Values[component] = known
			continue
		}
		data, err := s.readBlob(ctx, sum, reference.MaxBytes)
		if err != nil {
			return nil, fmt.Errorf("values of %s: %w", component, err)
		}
		if r.Values[component], err = reference.Decode(data); err != nil {
			return nil, fmt.Errorf("values of %s: %w", component, err)
		}
	}
	return r, nil
}

// known finds Reference Values that the current catalog has already. They are named by their digest, so a hold or a new
// release takes effect without the artifact store.
func (s *Service) known(row store.Release, component string, sum digest.SHA256) (reference.Values, bool) {
	p := s.Catalog().Products[row.Product]
	if p == nil {
		return reference.Values{}, false
	}
	old, ok := p.Release(row.Name)
	if !ok || old.Documents[component+artifacts.ReferenceSuffix] != sum {
		return reference.Values{}, false
	}
	values, ok := old.Values[component]
	return values, ok
}

// documents are the open files beside the components of a release.
func documents(row store.Release, statement artifacts.Statement) map[string]digest.SHA256 {
	out := map[string]digest.SHA256{}
	bundle := digest.Of(bundleDocument(row.Bundles))
	for _, c := range statement.Predicate.Components {
		out[c.Name+artifacts.BundleSuffix] = bundle
		if !c.ReferenceValues.IsZero() {
			out[c.Name+artifacts.ReferenceSuffix] = c.ReferenceValues
		}
		if sum, ok := row.SBOMs[c.Name]; ok {
			out[c.Name+artifacts.SBOMSuffix] = sum
		}
	}
	return out
}

// readBlob reads a small blob whole.
func (s *Service) readBlob(ctx context.Context, sum digest.SHA256, limit int64) ([]byte, error) {
	return readBlob(ctx, s.artifacts, sum, limit)
}
