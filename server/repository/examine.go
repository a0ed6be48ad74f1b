package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// examine holds a request against everything that a device will check, and against the stored image.
func (s *Service) examine(ctx context.Context, actor string, req api.PublishRequest) (store.Release, error) {
	product, err := s.productOf(req.Bundles)
	if err != nil {
		return store.Release{}, err
	}
	result, err := s.prove(product, req.Bundles)
	if err != nil {
		return store.Release{}, err
	}
	release := result.Statement.Predicate
	if err := onlyComponents(release, req); err != nil {
		return store.Release{}, err
	}
	for component, sum := range req.SBOMs {
		if s.firmware(sum, release) {
			return store.Release{}, problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "the SBOM of %s is an image of a release", component)
		}
	}
	for _, c := range release.Components {
		if err := s.checkComponent(ctx, c, req); err != nil {
			return store.Release{}, err
		}
	}
	statement, err := result.Statement.Encode()
	if err != nil {
		return store.Release{}, fmt.Errorf("cannot encode the statement: %w", err)
	}
	return store.Release{
		Name: artifacts.ReleaseName(release.Product, release.Version), Product: release.Product, Counter: release.Counter,
		Recovery: release.Recovery, Statement: statement, Bundles: req.Bundles, Publishers: result.Signers,
		Reference: req.Reference, SBOMs: req.SBOMs, CreatedBy: actor, CreatedAt: s.now(),
	}, nil
}

// prove holds the bundles against the product's offline policy.
func (s *Service) prove(product *Product, bundles [][]byte) (provenance.Result, error) {
	root := s.Catalog().OfflineFiles[artifacts.TrustedRootPath]
	result, err := provenance.VerifyAll(bundles, product.Policy, provenance.Options{TrustedRootJSON: root})
	if err != nil {
		return provenance.Result{}, fmt.Errorf("cannot verify the bundles: %w", err)
	}
	if len(result.Refusals) > 0 {
		return provenance.Result{}, refused(result.Refusals[0])
	}
	if result.Statement.Predicate.Product != product.Name {
		return provenance.Result{}, problem.New(http.StatusUnprocessableEntity, reason.StatementMismatch, "the bundles name different products")
	}
	if refusals := artifacts.CheckRelease(product.Policy, result.Statement.Predicate); len(refusals) > 0 {
		return provenance.Result{}, refused(refusals[0])
	}
	return result, nil
}

// recheck holds a release that was examined, or staged, earlier against the policy of now.
func (s *Service) recheck(row store.Release) (artifacts.Policy, error) {
	product := s.Catalog().Products[row.Product]
	if product == nil || product.PolicyDigest.IsZero() {
		return artifacts.Policy{}, problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "product %q has no policy any more", row.Product)
	}
	_, err := s.prove(product, row.Bundles)
	return product.Policy, err
}

// onlyComponents refuses documents for components that the release does not have: nothing would ever check them.
func onlyComponents(r artifacts.Release, req api.PublishRequest) error {
	for _, named := range []map[string]digest.SHA256{req.Reference, req.SBOMs} {
		for name := range named {
			if _, ok := r.Component(name); !ok {
				return problem.Malformed("the release has no component %.80q", name)
			}
		}
	}
	return nil
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

// checkComponent checks that image and Reference Values lie in the store as stated, and predicts the values again. In a dry
// run only what lies there is checked: a client asks before it uploads.
func (s *Service) checkComponent(ctx context.Context, c artifacts.Component, req api.PublishRequest) error {
	size, err := s.artifacts.Stat(ctx, c.SHA256)
	absent := errors.Is(err, artifacts.ErrNotFound)
	if absent && !req.DryRun || err == nil && size != c.Length {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload component %s (%s, %d bytes) first", c.Name, c.SHA256, c.Length)
	}
	if err != nil && !absent {
		return problem.Busy(err, retryStore)
	}
	if sum, ok := req.SBOMs[c.Name]; ok {
		if err := s.checkSBOM(ctx, c.Name, sum, req.DryRun); err != nil {
			return err
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
	if req.DryRun && errors.Is(err, artifacts.ErrNotFound) {
		return nil
	}
	if errors.Is(err, artifacts.ErrUnavailable) {
		return problem.Busy(err, retryStore)
	}
	if err != nil {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the Reference Values of %s first", c.Name)
	}
	if int64(len(stated)) != c.ReferenceLength {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "the Reference Values of %s have %d bytes, the statement says %d", c.Name, len(stated), c.ReferenceLength)
	}
	claim, complete, err := s.claimed(ctx, c.Name, stated, req.DryRun)
	if err != nil || absent || !complete {
		return err
	}
	return s.predictAgain(ctx, c, stated, claim)
}

// firmware reports whether the blob is an image of the release or of a published one. An image may be a JSON object, too,
// and documents are open to everybody.
func (s *Service) firmware(sum digest.SHA256, release artifacts.Release) bool {
	has := func(r artifacts.Release) bool {
		return slices.ContainsFunc(r.Components, func(c artifacts.Component) bool { return c.SHA256 == sum })
	}
	for _, p := range s.Catalog().Products {
		if slices.ContainsFunc(p.Releases, func(r *Release) bool { return has(r.Statement.Predicate) }) {
			return true
		}
	}
	return has(release)
}

// checkSBOM takes JSON objects only: what is served openly beside a component must never be an image.
func (s *Service) checkSBOM(ctx context.Context, component string, sum digest.SHA256, dryRun bool) error {
	data, err := s.readBlob(ctx, sum, artifacts.MaxSBOMBytes)
	if dryRun && errors.Is(err, artifacts.ErrNotFound) {
		return nil
	}
	if errors.Is(err, artifacts.ErrUnavailable) {
		return problem.Busy(err, retryStore)
	}
	if err != nil {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the SBOM of %s first (at most %d bytes)", component, artifacts.MaxSBOMBytes)
	}
	if v := jsontext.Value(data); v.Kind() != '{' || !v.IsValid() {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "the SBOM of %s is not a JSON object", component)
	}
	return nil
}

// predictAgain predicts the Reference Values from the stored image, and from the stored boot loaders or boot chain that the
// claim names; any difference is a refusal.
func (s *Service) predictAgain(ctx context.Context, c artifacts.Component, stated []byte, claim reference.Values) error {
	image := &blobReader{ctx: ctx, blobs: s.artifacts, sum: c.SHA256}
	defer image.close()
	values, err := reference.PredictAgain(claim, reference.Source{R: image, Size: c.Length}, s.input(ctx))
	if errors.Is(err, reference.ErrNotUKI) {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "component %s has Reference Values but its image is no UKI: %v", c.Name, err)
	}
	if slices.ContainsFunc(unfounded, func(e error) bool { return errors.Is(err, e) }) {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "component %s has Reference Values that nothing supports: %v", c.Name, err)
	}
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot predict: %w", err), retryStore)
	}
	own, err := values.Encode()
	if err != nil {
		return fmt.Errorf("cannot encode Reference Values: %w", err)
	}
	if !bytes.Equal(own, stated) {
		return problem.New(http.StatusUnprocessableEntity, reason.ReferenceValuesMismatch, "the Reference Values of %s are not those that follow from its image", c.Name)
	}
	return nil
}

// unfounded are the errors of a prediction that asking again does not help against.
var unfounded = []error{reference.ErrUnpredictable, reference.ErrNotLoader, reference.ErrInputs, reference.ErrMalformed}

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
		b.close()
		r, err := b.blobs.Open(b.ctx, b.sum, off, -1)
		if err != nil {
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

// close ends the stream that the last read left open.
func (b *blobReader) close() {
	if b.r != nil {
		_ = b.r.Close() // it was only read
		b.r = nil
	}
}
