package publish

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/keys"
)

// Server is the part of the admin API that publishing needs; *api.Client is one. Every method retries by itself, may be
// called again after any error, and reports a refusal as *api.Error.
type Server interface {
	Releases(ctx context.Context, product, after string) (api.Page[api.Release], error)
	Uploaded(ctx context.Context, d digest.SHA256, length int64) (api.Upload, error)
	Send(ctx context.Context, d digest.SHA256, length int64, r io.ReaderAt, progress func(int64)) error
	Publish(ctx context.Context, r api.PublishRequest) (api.Release, error)
}

// Signer makes a Sigstore bundle over a payload. A run that was cut off asks again, and takes the newer bundle.
type Signer interface {
	Sign(ctx context.Context, payload []byte, payloadType string) ([]byte, error)
}

// Options are one publish as typed.
type Options struct {
	Product     string
	Version     string
	Counter     uint64 // 0: the highest of the product + 1, or what this version has already
	Floor       uint64
	Requires    uint64
	MinimumTier int
	Recovery    bool
	Components  []Spec
	SBOMs       map[string]string // component -> file
	Bundles     [][]byte          // of other publishers, over the same statement
	DryRun      bool
	Key         crypto.Signer // ECDSA P-256; nil with Signer
	// Signer is Optional: who signs instead of Key, as *keyless.Signer does. Called once per attempt to publish.
	Signer Signer
	// Progress is Optional: what is being done ("hash", "upload"), to what, and how far it is.
	Progress func(what, name string, done, total int64)
}

// Result is what became of it; cordon-sign prints it as JSON.
type Result struct {
	Name       string                `json:"name"`
	State      string                `json:"state"` // "staged", "published"; empty for a dry run
	Changed    bool                  `json:"changed"`
	DryRun     bool                  `json:"dry_run,omitzero"`
	Checked    string                `json:"checked,omitzero"` // of a dry run: "server", who has looked at everything but Missing
	Counter    uint64                `json:"counter"`
	Components []artifacts.Component `json:"components"`
	Uploaded   int64                 `json:"uploaded_bytes"`
	Approvals  int                   `json:"approvals_needed"`
	Timestamp  int64                 `json:"timestamp,omitzero"`
	Bundle     []byte                `json:"-"`                 // nil if nothing had to be signed; also of a dry run that was refused
	Missing    []string              `json:"missing,omitempty"` // of a dry run: what the server does not have yet
}

// blob is something that the server must have before the release can name it.
type blob struct {
	name   string
	digest digest.SHA256
	length int64
	data   io.ReaderAt
}

// Run publishes. A dry run that the server refuses returns its error and a Result with the Bundle. Errors to test for:
// ErrSpec, ErrImage, ErrNotUKI, ErrChanged, ErrConflict, *api.Error.
func Run(ctx context.Context, server Server, o Options) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, string, int64, int64) {}
	}
	p, err := prepare(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	out, err := p.run(ctx, server)
	for attempt := 0; attempt < counterAttempts && o.Counter == 0 && slices.Contains(races, api.ReasonOf(err)); attempt++ {
		out, err = p.run(ctx, server) // another pipeline took the counter in between; the list knows by now
	}
	return out, err
}

// races are what the server answers when another pipeline was faster: the counter, or the whole release, is there by now.
var races = []reason.Reason{reason.CounterRefused, reason.ReleaseConflict}

// counterAttempts is how often a publish begins again because another one was faster.
const counterAttempts = 3

func (p *plan) run(ctx context.Context, server Server) (Result, error) {
	known, err := releases(ctx, server, p.release.Product)
	if err != nil {
		return Result{}, err
	}
	if i := slices.IndexFunc(known, func(r api.Release) bool { return r.Release.Version == p.release.Version }); i >= 0 {
		return p.again(ctx, server, known[i])
	}
	p.release.Counter = p.options.Counter
	if p.release.Counter == 0 {
		p.release.Counter = nextCounter(known)
	}
	return p.publish(ctx, server)
}

func releases(ctx context.Context, server Server, product string) ([]api.Release, error) {
	var out []api.Release
	list := func(ctx context.Context, after string) (api.Page[api.Release], error) {
		return server.Releases(ctx, product, after)
	}
	for r, err := range api.All(ctx, list) {
		if err != nil {
			return nil, err
		}
		if r.Release.Product == product {
			out = append(out, r)
		}
	}
	return out, nil
}

func nextCounter(known []api.Release) uint64 {
	var highest uint64
	for _, r := range known {
		highest = max(highest, r.Release.Counter)
	}
	return highest + 1
}

// plan is a release that is ready to be signed.
type plan struct {
	options Options
	images  []image
	sboms   map[string]blob
	release artifacts.Release
}

func prepare(ctx context.Context, o Options) (*plan, error) {
	p := &plan{options: o, sboms: map[string]blob{}, release: artifacts.Release{
		Product: o.Product, Version: o.Version, Floor: o.Floor, Requires: o.Requires, MinimumTier: o.MinimumTier, Recovery: o.Recovery,
	}}
	if len(o.Components) < 1 || len(o.Components) > artifacts.MaxComponents {
		return nil, fmt.Errorf("%w: %d components, want 1 to %d", ErrSpec, len(o.Components), artifacts.MaxComponents)
	}
	// One order, so that independent rebuilds sign the same statement.
	specs := slices.SortedFunc(slices.Values(o.Components), func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range specs {
		im, err := openImage(ctx, s, func(n int64) { o.Progress("hash", s.Name, n, 0) })
		if err != nil {
			p.close()
			return nil, err
		}
		p.images = append(p.images, im)
		p.release.Components = append(p.release.Components, im.component)
	}
	for name, path := range o.SBOMs {
		if _, ok := p.release.Component(name); !ok {
			p.close()
			return nil, fmt.Errorf("%w: --sbom names component %.80q, which is not in the release", ErrSpec, name)
		}
		b, err := readSBOM(path)
		if err != nil {
			p.close()
			return nil, err
		}
		p.sboms[name] = bytesBlob(name+artifacts.SBOMSuffix, b)
	}
	return p, nil
}

func readSBOM(path string) ([]byte, error) {
	b, err := readSmall(path, artifacts.MaxSBOMBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read SBOM: %w", err)
	}
	return b, nil
}

func bytesBlob(name string, b []byte) blob {
	return blob{name: name, digest: digest.Of(b), length: int64(len(b)), data: bytes.NewReader(b)}
}

func (p *plan) close() {
	for _, im := range p.images {
		im.file.Close() // read only
	}
}

// again is the case that the version is on the server: the same release changes nothing, any other is a conflict.
func (p *plan) again(ctx context.Context, server Server, have api.Release) (Result, error) {
	p.release.Counter = p.options.Counter
	if p.options.Counter == 0 {
		p.release.Counter = have.Release.Counter
	}
	p.keep(have.Release)
	if differ := difference(have.Release, p.release); differ != "" {
		return Result{}, fmt.Errorf("%w: %s: %s", ErrConflict, artifacts.ReleaseName(p.release.Product, p.release.Version), differ)
	}
	if len(p.options.Bundles) > 0 && have.State == api.ReleaseStaged {
		return p.publish(ctx, server) // more publishers than before
	}
	have.Changed = false
	return p.result(have, nil, 0), nil
}

// keep takes the Reference Values of a release that was published before boot shapes were known, where they follow from the
// same image: publishing it again changes nothing.
func (p *plan) keep(have artifacts.Release) {
	for i := range p.images {
		im := &p.images[i]
		if h, ok := have.Component(im.component.Name); !ok || im.earlier == nil || h.ReferenceValues != digest.Of(im.earlier) {
			continue
		}
		im.refer(im.earlier)
		p.release.Components[i] = im.component
	}
}

// difference names the first field in which two releases are not the same; "" if they are.
func difference(have, want artifacts.Release) string {
	fields := []struct {
		name       string
		have, want any
	}{
		{"counter", have.Counter, want.Counter}, {"floor", have.Floor, want.Floor}, {"requires", have.Requires, want.Requires},
		{"minimum tier", have.MinimumTier, want.MinimumTier}, {"recovery", have.Recovery, want.Recovery},
		{"number of components", len(have.Components), len(want.Components)},
	}
	for _, f := range fields {
		if f.have != f.want {
			return fmt.Sprintf("%s is %v on the server and %v here", f.name, f.have, f.want)
		}
	}
	for _, w := range want.Components {
		h, ok := have.Component(w.Name)
		switch {
		case !ok:
			return fmt.Sprintf("component %s is not in it", w.Name)
		case h.SHA256 != w.SHA256:
			return fmt.Sprintf("component %s is %s on the server and %s here", w.Name, h.SHA256, w.SHA256)
		case h.Installer != w.Installer || !slices.Equal(h.HardwareIDs, w.HardwareIDs) || h.ReferenceValues != w.ReferenceValues:
			return fmt.Sprintf("component %s has another installer, other hardware ids or other Reference Values", w.Name)
		}
	}
	return ""
}

func (p *plan) publish(ctx context.Context, server Server) (Result, error) {
	statement, err := artifacts.NewStatement(p.release)
	if err != nil {
		return Result{}, err
	}
	payload, err := statement.Encode()
	if err != nil {
		return Result{}, err
	}
	bundle, err := p.sign(ctx, payload)
	if err != nil {
		return Result{}, err
	}
	crash.Here(crash.SignerSigned)
	// A refusal is learned before an image is uploaded for nothing.
	checked, err := p.ask(ctx, server, bundle, true)
	if p.options.DryRun {
		return p.dryRun(ctx, server, bundle, checked, err)
	}
	if err != nil {
		return Result{}, err
	}
	sent, err := p.upload(ctx, server)
	if err != nil {
		return Result{}, err
	}
	crash.Here(crash.SignerReady)
	published, err := p.ask(ctx, server, bundle, false)
	if err != nil {
		return Result{}, err
	}
	crash.Here(crash.SignerPublished)
	return p.result(published, bundle, sent), nil
}

func (p *plan) sign(ctx context.Context, payload []byte) ([]byte, error) {
	if p.options.Signer != nil {
		return p.options.Signer.Sign(ctx, payload, artifacts.PayloadType)
	}
	return keys.SignBundle(ctx, payload, artifacts.PayloadType, p.options.Key)
}

// ask hands the release to the server, or asks what it would say to it.
func (p *plan) ask(ctx context.Context, server Server, bundle []byte, dryRun bool) (api.Release, error) {
	out, err := server.Publish(ctx, p.request(bundle, dryRun))
	if api.ReasonOf(err) == reason.ReleaseConflict {
		return api.Release{}, fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return out, err
}

func (p *plan) request(bundle []byte, dryRun bool) api.PublishRequest {
	r := api.PublishRequest{Bundles: append([][]byte{bundle}, p.options.Bundles...), DryRun: dryRun}
	for _, im := range p.images {
		if im.reference == nil {
			continue
		}
		if r.Reference == nil {
			r.Reference = map[string]digest.SHA256{}
		}
		r.Reference[im.component.Name] = im.component.ReferenceValues
	}
	for name, b := range p.sboms {
		if r.SBOMs == nil {
			r.SBOMs = map[string]digest.SHA256{}
		}
		r.SBOMs[name] = b.digest
	}
	return r
}

// blobs in the order of upload: the small ones first, so that a refusal of a token costs little.
func (p *plan) blobs() []blob {
	var out []blob
	for _, im := range p.images {
		if im.reference != nil {
			out = append(out, bytesBlob(im.component.Name+artifacts.ReferenceSuffix, im.reference))
		}
	}
	for _, im := range p.images {
		out = append(out, im.inputs...)
	}
	for _, im := range p.images {
		if b, ok := p.sboms[im.component.Name]; ok {
			out = append(out, b)
		}
	}
	for _, im := range p.images {
		out = append(out, blob{name: im.component.Name, digest: im.component.SHA256, length: im.component.Length, data: im.file})
	}
	return out
}

func (p *plan) upload(ctx context.Context, server Server) (sent int64, err error) {
	for _, b := range p.blobs() {
		first := int64(-1)
		at := int64(0)
		err := server.Send(ctx, b.digest, b.length, b.data, func(done int64) {
			if first < 0 {
				first = done
			}
			at = done
			p.options.Progress("upload", b.name, done, b.length)
		})
		if api.ReasonOf(err) == reason.ArtifactMismatch {
			return sent, fmt.Errorf("component %s: %w: %w", b.name, ErrChanged, err)
		}
		if err != nil {
			return sent, fmt.Errorf("cannot upload %s: %w", b.name, err)
		}
		sent += max(0, at-max(first, 0))
		crash.Here(crash.SignerUploaded)
	}
	return sent, nil
}

// dryRun uploads nothing: it reports what the server said, and which blobs it could not look at yet.
func (p *plan) dryRun(ctx context.Context, server Server, bundle []byte, checked api.Release, refusal error) (Result, error) {
	out := p.result(api.Release{Release: p.release, Needed: checked.Needed}, bundle, 0)
	out.Checked = "server"
	if refusal != nil { // the bundle is what a second publisher needs, when the refusal is about who signed
		return out, refusal
	}
	for _, b := range p.blobs() {
		u, err := server.Uploaded(ctx, b.digest, b.length)
		if err != nil {
			return Result{}, err
		}
		if !u.Complete {
			out.Missing = append(out.Missing, b.name)
		}
	}
	return out, nil
}

func (p *plan) result(r api.Release, bundle []byte, sent int64) Result {
	return Result{
		Name: artifacts.ReleaseName(p.release.Product, p.release.Version), State: r.State, Changed: r.Changed, DryRun: p.options.DryRun,
		Counter: p.release.Counter, Components: p.release.Components, Uploaded: sent, Approvals: r.Needed, Timestamp: r.Timestamp, Bundle: bundle,
	}
}
