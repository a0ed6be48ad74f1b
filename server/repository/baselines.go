package repository

import (
	"context"
	"fmt"
	"net/http"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// loadBaselines adds the newest generation of each profile that baseline signers signed. The signatures are verified each
// time, with the policy of now: one that does not verify counts as missing, and no older generation takes its place. What
// the offline targets role signs itself goes first.
func (s *Service) loadBaselines(ctx context.Context, c *Catalog, p *Product) error {
	rows, err := s.store.CurrentBaselines(ctx, p.Name)
	if err != nil {
		return fmt.Errorf("cannot read the baselines of %s: %w", p.Name, err)
	}
	for _, row := range rows {
		if _, offline := p.Baselines[row.Profile]; offline {
			continue
		}
		result, why := verifyBaseline(c, p.Policy, row)
		if why != "" {
			s.log.WarnContext(ctx, "a platform baseline does not verify and counts as missing", "product", p.Name, "profile", row.Profile, "generation", row.Generation, "detail", why)
			continue
		}
		p.Baselines[row.Profile] = Baseline{Value: result.Statement.Predicate.Baseline(), Digest: row.Digest, Generation: row.Generation, Signers: result.Signers}
	}
	return nil
}

// verifyBaseline holds a row against the policy; why is not empty when it does not count. What the row says beside its
// bundles proves nothing: it has to be what was signed. A policy that cannot be used makes nobody trusted, and nothing
// else of the repository unusable.
func verifyBaseline(c *Catalog, policy artifacts.Policy, row store.Baseline) (result provenance.BaselineResult, why string) {
	options := provenance.Options{TrustedRootJSON: c.OfflineFiles[artifacts.TrustedRootPath]}
	result, err := provenance.VerifyBaseline(row.Bundles, policy, options)
	if err != nil {
		return provenance.BaselineResult{}, err.Error()
	}
	if len(result.Refusals) > 0 {
		return provenance.BaselineResult{}, result.Refusals[0].Detail
	}
	signed := result.Statement.Predicate
	if signed.Product != row.Product || signed.Profile != row.Profile || signed.Generation != row.Generation || result.Statement.Subject[0].Digest.SHA256 != row.Digest {
		return provenance.BaselineResult{}, "the signed statement is another one than the database says"
	}
	return result, ""
}

// AddBaseline takes in a platform baseline that baseline signers signed. The same again changes nothing.
func (s *Service) AddBaseline(ctx context.Context, person string, bundles [][]byte) (api.Baseline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out api.Baseline
	err := s.retry(ctx, func() (err error) {
		out, err = s.addBaseline(ctx, person, bundles)
		return err
	})
	return out, err
}

func (s *Service) addBaseline(ctx context.Context, person string, bundles [][]byte) (api.Baseline, error) {
	product, result, err := s.proveBaseline(bundles)
	if err != nil {
		return api.Baseline{}, err
	}
	signed := result.Statement.Predicate
	row := store.Baseline{
		Product: signed.Product, Profile: signed.Profile, Generation: signed.Generation,
		Digest: result.Statement.Subject[0].Digest.SHA256, Bundles: bundles, By: person, At: s.now(),
	}
	newest, err := s.newestBaseline(ctx, signed.Product, signed.Profile)
	if err != nil {
		return api.Baseline{}, err
	}
	if newest.Generation == row.Generation && newest.Digest == row.Digest {
		return viewBaseline(s.Catalog(), newest, true), nil
	}
	if err := mayFollow(product, signed, newest.Generation); err != nil {
		return api.Baseline{}, err
	}
	if err := s.commitBaseline(ctx, row, result); err != nil {
		return api.Baseline{}, err
	}
	if err := s.follow(ctx); err != nil {
		return api.Baseline{}, err
	}
	out := viewBaseline(s.Catalog(), row, true)
	out.Changed = true
	return out, nil
}

// proveBaseline finds the product that the bundles claim to be for and verifies them.
func (s *Service) proveBaseline(bundles [][]byte) (*Product, provenance.BaselineResult, error) {
	if len(bundles) == 0 {
		return nil, provenance.BaselineResult{}, problem.Malformed("the request has no bundle")
	}
	claimed, err := provenance.ClaimedBaseline(bundles[0])
	if err != nil {
		return nil, provenance.BaselineResult{}, problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused, "the bundle cannot be read: %v", err)
	}
	catalog := s.Catalog()
	if !catalog.Initialised() {
		return nil, provenance.BaselineResult{}, problem.New(http.StatusServiceUnavailable, reason.ServerUninitialised, "the server has no signed root yet")
	}
	product := catalog.Products[claimed.Predicate.Product]
	if product == nil || product.PolicyDigest.IsZero() {
		return nil, provenance.BaselineResult{}, problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "the offline targets role has signed no policy for product %q", claimed.Predicate.Product)
	}
	result, err := provenance.VerifyBaseline(bundles, product.Policy, provenance.Options{TrustedRootJSON: catalog.OfflineFiles[artifacts.TrustedRootPath]})
	if err != nil {
		return nil, provenance.BaselineResult{}, fmt.Errorf("cannot verify the bundles: %w", err)
	}
	if len(result.Refusals) > 0 {
		return nil, provenance.BaselineResult{}, refused(result.Refusals[0])
	}
	return product, result, nil
}

// mayFollow: generations only grow, and in small steps, so that nobody uses them up.
func mayFollow(product *Product, signed artifacts.PlatformBaseline, newest uint64) error {
	if b, ok := product.Baselines[signed.Profile]; ok && b.Generation == 0 {
		return problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused,
			"the offline targets role signs the baseline of profile %s itself; that one goes first: the holders take it away with 'cordon-sign product baseline --remove'", signed.Profile)
	}
	if signed.Generation <= newest {
		return problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused,
			"generation %d of profile %s is not newer than %d, which is known already: learn or make it again", signed.Generation, signed.Profile, newest)
	}
	if signed.Generation > newest+artifacts.MaxCounterStep {
		return problem.New(http.StatusUnprocessableEntity, reason.BaselineRefused,
			"generation %d of profile %s is more than %d above %d", signed.Generation, signed.Profile, artifacts.MaxCounterStep, newest)
	}
	return nil
}

// newestBaseline is the row with the highest generation, whether it verifies or not; its zero value is none.
func (s *Service) newestBaseline(ctx context.Context, product, profile string) (store.Baseline, error) {
	rows, err := s.store.Baselines(ctx, product, profile, 1)
	if err != nil {
		return store.Baseline{}, fmt.Errorf("cannot read the baselines of %s: %w", product, err)
	}
	if len(rows) == 0 {
		return store.Baseline{}, nil
	}
	return rows[0], nil
}

// commitBaseline raises the version of the repository with it, so that every replica reads its baselines again.
func (s *Service) commitBaseline(ctx context.Context, row store.Baseline, result provenance.BaselineResult) error {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if repo.Version != s.seen {
		return fmt.Errorf("cannot add the baseline: %w", store.ErrConflict)
	}
	err = s.store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Repos, Key: store.RepoImage, Version: repo.Version}},
		Writes: []store.Write{store.AddBaseline{Baseline: row}, store.PutRepo{Repo: repo}},
		Events: []store.Event{{At: row.At, Type: audit.BaselineAdded, Actor: row.By, Subject: row.Product + "/" + row.Profile, Data: map[string]any{
			"product": row.Product, "profile": row.Profile, "generation": row.Generation, "sha256": row.Digest,
			"signers": result.Signers, "sets": result.Statement.Predicate.Sets,
		}}},
	})
	if err != nil {
		return fmt.Errorf("cannot commit the baseline: %w", err)
	}
	return nil
}

// maxBaselines bounds one list.
const maxBaselines = 1000

// ListBaselines shows the baselines of a product and a profile, or of all: what the offline targets role signed, then the
// others by rising age.
func (s *Service) ListBaselines(ctx context.Context, product, profile string) ([]api.Baseline, error) {
	out := []api.Baseline{}
	c := s.Catalog()
	for _, name := range sortedKeys(c.Products) {
		for _, platform := range sortedKeys(c.Products[name].Baselines) {
			b := c.Products[name].Baselines[platform]
			if b.Generation == 0 && (product == "" || product == name) && (profile == "" || profile == platform) {
				out = append(out, viewOffline(name, platform, b))
			}
		}
	}
	rows, err := s.store.Baselines(ctx, product, profile, maxBaselines)
	if err != nil {
		return nil, fmt.Errorf("cannot list baselines: %w", err)
	}
	newest := ""
	for _, row := range rows {
		key := row.Product + "/" + row.Profile
		view := viewBaseline(c, row, key != newest)
		newest, view.Bundles = key, nil
		out = append(out, view)
	}
	return out, s.tellSigners(ctx, out)
}

// Baseline shows one baseline with its bundles: the one with the generation, or the one that is newest when that is 0.
func (s *Service) Baseline(ctx context.Context, product, profile string, generation uint64) (api.Baseline, error) {
	c := s.Catalog()
	if p := c.Products[product]; p != nil && generation == 0 {
		if b, ok := p.Baselines[profile]; ok && b.Generation == 0 {
			return viewOffline(product, profile, b), nil
		}
	}
	rows, err := s.store.Baselines(ctx, product, profile, maxBaselines)
	if err != nil {
		return api.Baseline{}, fmt.Errorf("cannot list baselines: %w", err)
	}
	for i, row := range rows {
		if generation == 0 || row.Generation == generation {
			out := []api.Baseline{viewBaseline(c, row, i == 0)}
			err := s.tellSigners(ctx, out)
			return out[0], err
		}
	}
	return api.Baseline{}, problem.NotFound("baseline of product " + product + " for profile " + profile)
}

func viewOffline(product, profile string, b Baseline) api.Baseline {
	return api.Baseline{Product: product, Profile: profile, SHA256: b.Digest, State: api.BaselineInForce, Sets: setsOf(b.Value)}
}

// setsOf shows a baseline that no statement tells about.
func setsOf(b reference.Baseline) []artifacts.BaselineSet {
	out := []artifacts.BaselineSet{{Name: b.Name, PCRs: b.PCRs}}
	for _, v := range b.Variants {
		out = append(out, artifacts.BaselineSet{Name: v.Name, PCRs: v.PCRs})
	}
	return out
}

func viewBaseline(c *Catalog, row store.Baseline, newest bool) api.Baseline {
	at := row.At.UTC()
	out := api.Baseline{
		Product: row.Product, Profile: row.Profile, Generation: row.Generation, SHA256: row.Digest, By: row.By, At: &at,
		State: api.BaselineSuperseded, Sets: []artifacts.BaselineSet{}, Bundles: row.Bundles,
	}
	if len(row.Bundles) > 0 {
		if claimed, err := provenance.ClaimedBaseline(row.Bundles[0]); err == nil {
			out.Sets = append(out.Sets, claimed.Predicate.Sets...)
		}
	}
	p := c.Products[row.Product]
	switch {
	case p == nil:
		out.State, out.Detail = api.BaselineNotTrusted, "the offline targets role does not delegate the product any more"
	case newest && p.Baselines[row.Profile].Generation == row.Generation && p.Baselines[row.Profile].Digest == row.Digest:
		out.State, out.Signers = api.BaselineInForce, p.Baselines[row.Profile].Signers
	case newest && p.Baselines[row.Profile].Digest.IsZero():
		out.State = api.BaselineNotTrusted
		_, out.Detail = verifyBaseline(c, p.Policy, row)
	}
	return out
}

// Look loads a release that is staged or published, with its Reference Values. Nothing of the catalog changes.
func (s *Service) Look(ctx context.Context, name string) (*Release, error) {
	row, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	out, err := s.loadRelease(ctx, row)
	if err != nil {
		return nil, fmt.Errorf("cannot load release %s: %w", name, err)
	}
	return out, nil
}
