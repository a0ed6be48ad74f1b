package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Publish checks a release and publishes it, or stages it when the product asks for approvals. The same release again
// changes nothing; another release under the same name is release_conflict.
func (s *Service) Publish(ctx context.Context, actor string, req api.PublishRequest) (api.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, policy, err := s.examine(ctx, actor, req)
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
	if err := s.checkCounter(ctx, row); err != nil {
		return api.Release{}, err
	}
	if req.DryRun {
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

// examine holds a request against everything that a device will check, and against the stored image.
func (s *Service) examine(ctx context.Context, actor string, req api.PublishRequest) (store.Release, artifacts.Policy, error) {
	product, err := s.productOf(req.Bundles)
	if err != nil {
		return store.Release{}, artifacts.Policy{}, err
	}
	catalog := s.Catalog()
	result, err := provenance.VerifyAll(req.Bundles, product.Policy, provenance.Options{TrustedRootJSON: catalog.OfflineFiles[artifacts.TrustedRootPath]})
	if err != nil {
		return store.Release{}, artifacts.Policy{}, fmt.Errorf("cannot verify the bundles: %w", err)
	}
	if len(result.Refusals) > 0 {
		return store.Release{}, artifacts.Policy{}, refused(result.Refusals[0])
	}
	release := result.Statement.Predicate
	if release.Product != product.Name {
		return store.Release{}, artifacts.Policy{}, problem.New(http.StatusUnprocessableEntity, reason.StatementMismatch, "the bundles name different products")
	}
	if refusals := artifacts.CheckRelease(product.Policy, release); len(refusals) > 0 {
		return store.Release{}, artifacts.Policy{}, refused(refusals[0])
	}
	for _, c := range release.Components {
		if err := s.checkComponent(ctx, c, req); err != nil {
			return store.Release{}, artifacts.Policy{}, err
		}
	}
	statement, err := result.Statement.Encode()
	if err != nil {
		return store.Release{}, artifacts.Policy{}, fmt.Errorf("cannot encode the statement: %w", err)
	}
	return store.Release{
		Name: artifacts.ReleaseName(release.Product, release.Version), Product: release.Product, Counter: release.Counter,
		Recovery: release.Recovery, Statement: statement, Bundles: req.Bundles, Publishers: result.Signers,
		Reference: req.Reference, SBOMs: req.SBOMs, CreatedBy: actor, CreatedAt: s.now(),
	}, product.Policy, nil
}

func refused(r artifacts.Refusal) error {
	return problem.New(http.StatusUnprocessableEntity, r.Reason, "%s", r.Detail)
}

// productOf finds the policy that the bundles must be held against. It reads the product's name before anything is
// verified; the verified statement has to name the same one.
func (s *Service) productOf(bundles [][]byte) (*Product, error) {
	if len(bundles) == 0 {
		return nil, problem.Malformed("the request has no bundle")
	}
	name, err := provenance.ClaimedProduct(bundles[0])
	if err != nil {
		return nil, problem.New(http.StatusUnprocessableEntity, reason.PublisherRefused, "the bundle cannot be read: %v", err)
	}
	catalog := s.Catalog()
	if !catalog.Initialised() {
		return nil, problem.New(http.StatusServiceUnavailable, reason.ServerUninitialised, "the server has no signed root yet")
	}
	product := catalog.Products[name]
	if product == nil || product.PolicyDigest.IsZero() {
		return nil, problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "the offline targets role has signed no policy for product %q", name)
	}
	return product, nil
}

// checkComponent checks that image and Reference Values lie in the store as stated, and predicts the values again.
func (s *Service) checkComponent(ctx context.Context, c artifacts.Component, req api.PublishRequest) error {
	size, err := s.artifacts.Stat(ctx, c.SHA256)
	if errors.Is(err, artifacts.ErrNotFound) || err == nil && size != c.Length {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload component %s (%s, %d bytes) first", c.Name, c.SHA256, c.Length)
	}
	if err != nil {
		return problem.Busy(err, retryStore)
	}
	if sum, ok := req.SBOMs[c.Name]; ok {
		if size, err := s.artifacts.Stat(ctx, sum); err != nil || size > artifacts.MaxSBOMBytes {
			return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the SBOM of %s first (at most %d bytes)", c.Name, artifacts.MaxSBOMBytes)
		}
	}
	sum, ok := req.Reference[c.Name]
	if sum != c.ReferenceValues || ok == c.ReferenceValues.IsZero() {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "the Reference Values of %s are not those of the statement", c.Name)
	}
	if !ok {
		return nil
	}
	stated, err := s.readBlob(ctx, sum, reference.MaxBytes)
	if err != nil {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the Reference Values of %s first", c.Name)
	}
	return s.predictAgain(ctx, c, stated)
}

// predictAgain predicts the Reference Values from the stored image; any difference is a refusal.
func (s *Service) predictAgain(ctx context.Context, c artifacts.Component, stated []byte) error {
	values, err := reference.PredictUKI(&blobReader{ctx: ctx, blobs: s.artifacts, sum: c.SHA256}, c.Length)
	if errors.Is(err, reference.ErrNotUKI) {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "component %s has Reference Values but its image is no UKI: %v", c.Name, err)
	}
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot predict: %w", err), retryStore)
	}
	own, err := values.Encode()
	if err != nil {
		return fmt.Errorf("cannot encode Reference Values: %w", err)
	}
	if !bytes.Equal(own, stated) || int64(len(stated)) != c.ReferenceLength {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "the Reference Values of %s are not those that follow from its image", c.Name)
	}
	return nil
}

// again answers a repeated publish.
func (s *Service) again(ctx context.Context, old, row store.Release) (api.Release, error) {
	if !bytes.Equal(old.Statement, row.Statement) {
		return api.Release{}, problem.New(http.StatusConflict, reason.ReleaseConflict, "%s is there already with another statement", row.Name)
	}
	return s.View(ctx, old, false)
}

// checkCounter holds the counter against the product's other releases: unique, and no jump by more than the step that a
// device's TPM counter can follow.
func (s *Service) checkCounter(ctx context.Context, row store.Release) error {
	rows, err := s.store.ListReleases(ctx, row.Product)
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	var highest uint64
	for _, r := range rows {
		if r.Counter == row.Counter {
			return problem.New(http.StatusConflict, reason.ReleaseConflict, "counter %d belongs to %s already", row.Counter, r.Name)
		}
		highest = max(highest, r.Counter)
	}
	if row.Counter > highest+artifacts.MaxCounterStep {
		return problem.New(http.StatusUnprocessableEntity, reason.ReleaseConflict, "counter %d is more than %d above the highest one, %d", row.Counter, artifacts.MaxCounterStep, highest)
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
	return nil
}

func bundleDocument(bundles [][]byte) []byte { return append(bytes.Join(bundles, []byte("\n")), '\n') }

func (s *Service) stage(ctx context.Context, actor string, row store.Release) (api.Release, error) {
	row.State = api.ReleaseStaged
	err := s.store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Releases, Key: row.Name, Version: 0}},
		Writes: []store.Write{store.PutRelease{Release: row}},
		Events: []store.Event{{At: s.now(), Type: audit.ReleaseStaged, Actor: actor, Subject: row.Name, Data: releaseData(row)}},
	})
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot stage the release: %w", err)
	}
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
	change := store.Change{}
	if err := s.sign(d, &change); err != nil {
		return api.Release{}, err
	}
	if err := s.check(ctx, d); err != nil {
		return api.Release{}, fmt.Errorf("the new metadata would be refused: %w", err)
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

// signProduct signs the product role over its published releases and adds it to the draft.
func (s *Service) signProduct(ctx context.Context, d *draft, product string, rows []store.Release) error {
	files := map[string]tufrepo.File{}
	for _, row := range rows {
		if row.State != api.ReleasePublished {
			continue
		}
		if err := s.addFiles(ctx, files, row); err != nil {
			return err
		}
	}
	version := d.repo.Products[product] + 1
	doc, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: product, Version: version, Expires: expiry(s.now(), s.lives.Product), Files: files}, s.keys.Product)
	if err != nil {
		return fmt.Errorf("cannot sign product %s: %w", product, err)
	}
	d.repo.Products[product] = version
	d.docs[product] = tufrepo.DocOf(version, doc)
	d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.FileName(version, product), Data: doc})
	return nil
}

func (s *Service) addFiles(ctx context.Context, files map[string]tufrepo.File, row store.Release) error {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	bundle := bundleDocument(row.Bundles)
	r := statement.Predicate
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

// blobReader reads a stored blob at any offset; it keeps one stream open while reads follow each other.
type blobReader struct {
	ctx   context.Context
	blobs artifacts.Blobs
	sum   digest.SHA256
	r     io.ReadCloser
	at    int64
}

// ReadAt implements io.ReaderAt for one goroutine.
func (b *blobReader) ReadAt(p []byte, off int64) (int, error) {
	if b.r == nil || b.at != off {
		if b.r != nil {
			b.r.Close()
		}
		r, err := b.blobs.Open(b.ctx, b.sum, off, -1)
		if err != nil {
			b.r = nil
			return 0, err
		}
		b.r, b.at = r, off
	}
	n, err := io.ReadFull(b.r, p)
	b.at += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
