package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Publish checks a release and publishes it, or stages it when the product asks for approvals. The same release again
// changes nothing; another release under the same name is release_conflict.
// A dry run changes nothing and may come before the upload: a blob that is not there is no refusal then.
func (s *Service) Publish(ctx context.Context, actor string, req api.PublishRequest) (api.Release, error) {
	if err := s.Load(ctx); err != nil {
		return api.Release{}, err
	}
	row, err := s.examine(ctx, actor, req) // outside the lock: a large image must not keep a hold waiting
	if err != nil {
		return api.Release{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out api.Release
	err = s.retry(ctx, func() error {
		out, err = s.admit(ctx, actor, row, req.DryRun)
		return err
	})
	return out, err
}

// admit puts an examined release where it belongs.
func (s *Service) admit(ctx context.Context, actor string, row store.Release, dryRun bool) (api.Release, error) {
	policy, err := s.recheck(row)
	if err != nil {
		return api.Release{}, err
	}
	old, err := s.store.Release(ctx, row.Name)
	switch {
	case err == nil:
		return s.again(ctx, old, row)
	case !errors.Is(err, store.ErrNotFound):
		return api.Release{}, fmt.Errorf("cannot look the release up: %w", err)
	}
	if err := s.checkCounter(ctx, row, policy); err != nil {
		return api.Release{}, err
	}
	if dryRun {
		return s.View(ctx, row, false)
	}
	if err := s.keepBundles(ctx, row.Bundles); err != nil {
		return api.Release{}, err
	}
	if policy.Approvals > 0 {
		return s.stage(ctx, actor, row)
	}
	return s.release(ctx, actor, row)
}

// again answers a repeated publish.
func (s *Service) again(ctx context.Context, old, row store.Release) (api.Release, error) {
	if !bytes.Equal(old.Statement, row.Statement) {
		return api.Release{}, problem.New(http.StatusConflict, reason.ReleaseConflict, "%s is there already with another statement", row.Name)
	}
	if err := pruned(old); err != nil {
		return api.Release{}, err
	}
	return s.View(ctx, old, false)
}

// checkCounter holds the counter against the product's other releases: unique, growing, and no jump by more than the step
// that a device's TPM counter can follow. A recovery release may have a free counter below the newest. The policy's
// minimum counts as a release: a server that starts with a product half-way can publish its next release.
func (s *Service) checkCounter(ctx context.Context, row store.Release, policy artifacts.Policy) error {
	rows, err := s.store.ListReleases(ctx, row.Product)
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	var highest uint64
	for _, r := range rows {
		if r.Counter == row.Counter {
			return problem.New(http.StatusConflict, reason.CounterRefused, "counter %d belongs to %s already", row.Counter, r.Name)
		}
		highest = max(highest, r.Counter)
	}
	if row.Counter < highest && !row.Recovery {
		return problem.New(http.StatusConflict, reason.CounterRefused, "counter %d is below the highest one, %d", row.Counter, highest)
	}
	if highest = max(highest, policy.MinimumCounter); row.Counter > highest+artifacts.MaxCounterStep {
		return problem.New(http.StatusUnprocessableEntity, reason.CounterRefused, "counter %d is more than %d above the highest one, %d", row.Counter, artifacts.MaxCounterStep, highest)
	}
	return nil
}

// keepBundles puts the bundle document into the store, where clients fetch it.
func (s *Service) keepBundles(ctx context.Context, bundles [][]byte) error {
	doc := bundleDocument(bundles)
	sum := digest.Of(doc)
	offset, err := s.artifacts.Uploaded(ctx, sum, int64(len(doc)))
	if err == nil && offset < int64(len(doc)) {
		_, err = s.artifacts.Write(ctx, sum, int64(len(doc)), offset, bytes.NewReader(doc[offset:]))
	}
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot store the bundle: %w", err), retryStore)
	}
	crash.Here(crash.PublishBundleKept)
	return nil
}

func bundleDocument(bundles [][]byte) []byte { return append(bytes.Join(bundles, []byte("\n")), '\n') }

func (s *Service) stage(ctx context.Context, actor string, row store.Release) (api.Release, error) {
	row.State = api.ReleaseStaged
	keep, err := s.secure(ctx, row)
	if err != nil {
		return api.Release{}, err
	}
	err = s.store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Releases, Key: row.Name, Version: 0}},
		Writes: append(keep, store.PutRelease{Release: row}),
		Events: []store.Event{{At: s.now(), Type: audit.ReleaseStaged, Actor: actor, Subject: row.Name, Data: releaseData(row)}},
	})
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot stage the release: %w", err)
	}
	crash.Here(crash.ReleaseStaged)
	return s.View(ctx, row, true)
}

func releaseData(row store.Release) map[string]any {
	return map[string]any{"counter": row.Counter, "publishers": row.Publishers, "statement": digest.Of(row.Statement), "recovery": row.Recovery}
}

// release puts a checked release into signed metadata.
func (s *Service) release(ctx context.Context, actor string, row store.Release) (api.Release, error) {
	d, err := s.begin(ctx)
	if err != nil {
		return api.Release{}, err
	}
	keep, err := s.secure(ctx, row)
	if err != nil {
		return api.Release{}, err
	}
	if err := s.retain(ctx, row); err != nil {
		return api.Release{}, err
	}
	version := row.Version
	row.State, row.PublishedAt = api.ReleasePublished, s.now()
	rows, err := s.store.ListReleases(ctx, row.Product)
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot list releases: %w", err)
	}
	published := []store.Release{row}
	for _, r := range rows {
		if r.Name != row.Name {
			published = append(published, r)
		}
	}
	if err := s.signProduct(ctx, d, row.Product, published); err != nil {
		return api.Release{}, err
	}
	change := store.Change{Writes: keep}
	if err := s.sign(d, &change); err != nil {
		return api.Release{}, err
	}
	if err := s.check(ctx, d); err != nil {
		return api.Release{}, invalid(fmt.Errorf("the new metadata would be refused: %w", err))
	}
	row.Timestamp = d.repo.Timestamp
	change.Expect = append(change.Expect, store.Expect{Table: store.Releases, Key: row.Name, Version: version})
	change.Writes = append(change.Writes, store.PutRelease{Release: row})
	change.Events = append(change.Events, store.Event{At: s.now(), Type: audit.ReleasePublished, Actor: actor, Subject: row.Name, Data: releaseData(row)})
	if err := s.publish(ctx, d, change); err != nil {
		return api.Release{}, err
	}
	return s.View(ctx, row, true)
}

// signProduct signs the product role over its published releases and adds it to the draft. Releases with a withdrawn
// image are left out.
func (s *Service) signProduct(ctx context.Context, d *draft, product string, rows []store.Release) error {
	files := map[string]tufrepo.File{}
	for _, row := range rows {
		if row.State != api.ReleasePublished {
			continue
		}
		if err := s.addFiles(ctx, files, row, d.policies[product].Withdrawn); err != nil {
			return err
		}
	}
	version := s.after(d.repo.Products[product])
	doc, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: product, Version: version, Expires: expiry(s.now(), s.lives.Product), Files: files}, s.keys.Product)
	if err != nil {
		return fmt.Errorf("cannot sign product %s: %w", product, err)
	}
	d.repo.Products[product] = version
	d.docs[product] = tufrepo.DocOf(version, doc)
	d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.FileName(version, product), Data: doc})
	return nil
}

func (s *Service) addFiles(ctx context.Context, files map[string]tufrepo.File, row store.Release, images []digest.SHA256) error {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	bundle := bundleDocument(row.Bundles)
	r := statement.Predicate
	if withdrawn(images, r) {
		return nil
	}
	for _, c := range r.Components {
		custom, err := artifacts.CustomOf(r, c).Encode()
		if err != nil {
			return fmt.Errorf("cannot encode custom of %s: %w", c.Name, err)
		}
		path := artifacts.TargetPath(r.Product, r.Version, c.Name)
		files[path] = tufrepo.File{Length: c.Length, SHA256: c.SHA256, Custom: custom}
		files[path+artifacts.BundleSuffix] = tufrepo.File{Length: int64(len(bundle)), SHA256: digest.Of(bundle)}
		if !c.ReferenceValues.IsZero() {
			files[path+artifacts.ReferenceSuffix] = tufrepo.File{Length: c.ReferenceLength, SHA256: c.ReferenceValues}
		}
		if sum, ok := row.SBOMs[c.Name]; ok {
			size, err := s.artifacts.Stat(ctx, sum)
			if err != nil {
				return problem.Busy(fmt.Errorf("SBOM of %s: %w", c.Name, err), retryStore)
			}
			files[path+artifacts.SBOMSuffix] = tufrepo.File{Length: size, SHA256: sum}
		}
	}
	return nil
}

// withdrawn reports whether one of the release's images is among those that the offline role withdrew.
func withdrawn(images []digest.SHA256, r artifacts.Release) bool {
	return slices.ContainsFunc(r.Components, func(c artifacts.Component) bool { return slices.Contains(images, c.SHA256) })
}
