package repository_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/rollout"
)

// wantOffer says what an affirmed device of the product that has proven nothing yet may have now.
func wantOffer(t *testing.T, w *repositorytest.World, want string) {
	t.Helper()
	product := w.Service.Catalog().Products["lamp"]
	counter := uint64(1)
	device := fleet.Device{Counter: &counter, Lifecycle: fleet.Active, Standing: fleet.Affirmed, Product: "lamp", HardwareID: repositorytest.Hardware, Tier: 5}
	if got := rollout.Next(device, nil, product.Policy, product.Candidates()); got.Release != want {
		t.Errorf("offer: got %q %v, want %q", got.Release, got.Details, want)
	}
}

func TestPublishAndTheSameAgain(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	draft := w.Draft("lamp", "1.0", 1)
	request := draft.Signed(w.Publisher)

	dry := request
	dry.DryRun = true
	wantUnchanged(t, w, func() {
		if got, err := w.Service.Publish(t.Context(), "robot", dry); err != nil || got.Changed {
			t.Errorf("dry run: got %+v, %v", got, err)
		}
	})
	got, err := w.Service.Publish(t.Context(), "robot", request)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Changed || got.State != api.ReleasePublished || got.Name != "lamp/1.0" || !slices.Equal(got.Publishers, []string{"ci"}) ||
		got.CreatedBy != "robot" || got.Timestamp != w.Service.Catalog().TimestampVersion || got.PublishedAt == nil {
		t.Errorf("publish: got %+v", got)
	}
	check(t, w, w.Service)
	wantOffer(t, w, "lamp/1.0")
	product := w.Service.Catalog().Products["lamp"]
	release, ok := product.Release("lamp/1.0")
	if !ok {
		t.Fatal("the release is not in the catalog")
	}
	if e, ok := release.Expectation(repositorytest.Hardware); !ok || e.Release != "lamp/1.0" {
		t.Errorf("expectation: got %+v, %v", e, ok)
	}
	if _, ok := release.Expectation("another"); ok {
		t.Error("a release is expected on hardware that it is not for")
	}
	wantUnchanged(t, w, func() {
		for range 2 { // the bundle is another one each time, the statement is not
			again, err := w.Service.Publish(t.Context(), "someone", draft.Signed(w.Publisher))
			if err != nil || again.Changed || again.CreatedBy != "robot" {
				t.Errorf("again: got %+v, %v", again, err)
			}
		}
	})
}

func TestPublishRefusals(t *testing.T) {
	t.Parallel()
	stranger := repositorytest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	type world = repositorytest.World
	type draft = repositorytest.Draft
	signed := func(w *world, d *draft) api.PublishRequest { return d.Signed(w.Publisher) }
	for name, c := range map[string]struct {
		request func(w *world, d *draft) api.PublishRequest
		want    reason.Reason
	}{
		"another release of the name": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Version, d.Release.Floor = "1.0", 1
			d.Release.Counter = 1
			return signed(w, d)
		}, reason.ReleaseConflict},
		"counter taken": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Counter = 5
			return signed(w, d)
		}, reason.CounterRefused},
		"counter below the newest": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Counter = 3
			return signed(w, d)
		}, reason.CounterRefused},
		"counter too far": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Counter = 5 + artifacts.MaxCounterStep + 1
			return signed(w, d)
		}, reason.CounterRefused},
		"image missing": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Components[0].SHA256 = digest.Of([]byte("nobody has uploaded this"))
			return signed(w, d)
		}, reason.ArtifactMismatch},
		"length of the image": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Components[0].Length++
			return signed(w, d)
		}, reason.ArtifactMismatch},
		"values of another image": {func(w *world, d *draft) api.PublishRequest {
			other := w.Draft("lamp", "9.9", 9)
			d.Release.Components[0].ReferenceValues = other.Release.Components[0].ReferenceValues
			d.Release.Components[0].ReferenceLength = other.Release.Components[0].ReferenceLength
			d.Request.Reference = other.Request.Reference
			return signed(w, d)
		}, reason.ReferenceValuesMismatch},
		"values that the statement does not name": {func(w *world, d *draft) api.PublishRequest {
			d.Request.Reference = w.Draft("lamp", "9.9", 9).Request.Reference
			return signed(w, d)
		}, reason.ReferenceValuesMismatch},
		"values left out": {func(w *world, d *draft) api.PublishRequest {
			d.Request.Reference = nil
			return signed(w, d)
		}, reason.ReferenceValuesMismatch},
		"values for an image that is no UKI": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Components[0].SHA256, d.Release.Components[0].Length = w.Upload([]byte("no PE file")), 10
			return signed(w, d)
		}, reason.ReferenceValuesMismatch},
		"values for a component that is not there": {func(w *world, d *draft) api.PublishRequest {
			d.Request.Reference["ghost"] = digest.Of([]byte("not in the store"))
			return signed(w, d)
		}, reason.RequestMalformed},
		"SBOM for a component that is not there": {func(w *world, d *draft) api.PublishRequest {
			d.Request.SBOMs["ghost"] = d.Request.SBOMs[repositorytest.Component]
			return signed(w, d)
		}, reason.RequestMalformed},
		"SBOM that is firmware": {func(w *world, d *draft) api.PublishRequest {
			d.Request.SBOMs[repositorytest.Component] = d.Release.Components[0].SHA256
			return signed(w, d)
		}, reason.ArtifactMismatch},
		"SBOM missing": {func(w *world, d *draft) api.PublishRequest {
			d.Request.SBOMs[repositorytest.Component] = digest.Of([]byte("nobody has uploaded this"))
			return signed(w, d)
		}, reason.ArtifactMismatch},
		"publisher of nobody": {func(_ *world, d *draft) api.PublishRequest { return d.Signed(stranger) }, reason.PublisherRefused},
		"signed by one too many": {func(w *world, d *draft) api.PublishRequest {
			return d.Signed(w.Publisher, stranger)
		}, reason.PublisherRefused},
		"bundle that is none": {func(_ *world, d *draft) api.PublishRequest {
			d.Request.Bundles = [][]byte{[]byte("{}")}
			return d.Request
		}, reason.PublisherRefused},
		"no bundle": {func(_ *world, d *draft) api.PublishRequest { return d.Request }, reason.RequestMalformed},
		"product without a policy": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Product = "kettle"
			return signed(w, d)
		}, reason.PolicyMissing},
		"recovery that the policy does not list": {func(w *world, d *draft) api.PublishRequest {
			d.Release.Recovery = true
			return signed(w, d)
		}, reason.RecoveryNotListed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			w.Apply(w.First(w.Policy("lamp"), w.Policy("pump")))
			w.Publish(w.Draft("lamp", "1.0", 1))
			w.Publish(w.Draft("lamp", "1.5", 5))
			request := c.request(w, w.Draft("lamp", "2.0", 6))
			wantUnchanged(t, w, func() {
				_, err := w.Service.Publish(t.Context(), "robot", request)
				wantReason(t, err, c.want)
				request.DryRun = true // says the same, except of a blob that may come later
				_, err = w.Service.Publish(t.Context(), "robot", request)
				if name == "image missing" || name == "SBOM missing" {
					if err != nil {
						t.Errorf("dry run: %v", err)
					}
					return
				}
				wantReason(t, err, c.want)
			})
			check(t, w, w.Service)
		})
	}
}

func TestDryRunBeforeTheUpload(t *testing.T) {
	t.Parallel()
	type draft = repositorytest.Draft
	gone := digest.Of([]byte("nobody has uploaded this"))
	nothing := func(d *draft) { // is uploaded yet
		c := &d.Release.Components[0]
		c.SHA256, c.ReferenceValues = gone, digest.Of([]byte("nor this"))
		d.Request.Reference = map[string]digest.SHA256{c.Name: c.ReferenceValues}
		d.Request.SBOMs = map[string]digest.SHA256{c.Name: digest.Of([]byte("nor that"))}
	}
	for name, c := range map[string]struct {
		change func(d *draft)
		want   reason.Reason // of the dry run
	}{
		"nothing is there":               {nothing, ""},
		"the image is missing":           {func(d *draft) { d.Release.Components[0].SHA256 = gone }, ""},
		"the values have another length": {func(d *draft) { d.Release.Components[0].SHA256 = gone; d.Release.Components[0].ReferenceLength++ }, reason.ReferenceValuesMismatch},
		"the image has another length": {func(d *draft) {
			nothing(d)
			d.Release.Components[0].SHA256 = digest.Of(d.Image)
			d.Release.Components[0].Length++
		}, reason.ArtifactMismatch},
		"the SBOM is no JSON":             {func(d *draft) { nothing(d); d.Request.SBOMs[repositorytest.Component] = digest.Of(d.Image) }, reason.ArtifactMismatch},
		"the SBOM is to be the image":     {func(d *draft) { nothing(d); d.Request.SBOMs[repositorytest.Component] = gone }, reason.ArtifactMismatch},
		"the values are not the stated":   {func(d *draft) { nothing(d); d.Request.Reference[repositorytest.Component] = gone }, reason.ReferenceValuesMismatch},
		"the counter is taken":            {func(d *draft) { nothing(d); d.Release.Counter = 1 }, reason.CounterRefused},
		"the counter is too far":          {func(d *draft) { nothing(d); d.Release.Counter = 99 }, reason.CounterRefused},
		"the version has another content": {func(d *draft) { nothing(d); d.Release.Version = "1.0" }, reason.ReleaseConflict},
		"recovery is not listed":          {func(d *draft) { nothing(d); d.Release.Recovery = true }, reason.RecoveryNotListed},
		"the product has no policy":       {func(d *draft) { nothing(d); d.Release.Product = "kettle" }, reason.PolicyMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			w.Apply(w.First(w.Policy("lamp")))
			w.Publish(w.Draft("lamp", "1.0", 1))
			d := w.Draft("lamp", "2.0", 2)
			c.change(d)
			request := d.Signed(w.Publisher)
			wantUnchanged(t, w, func() {
				if _, err := w.Service.Publish(t.Context(), "robot", request); err == nil {
					t.Error("it was published")
				}
				request.DryRun = true
				got, err := w.Service.Publish(t.Context(), "robot", request)
				if c.want != "" {
					wantReason(t, err, c.want)
					return
				}
				if err != nil || got.Changed || got.State != "" {
					t.Errorf("dry run: got %+v, %v", got, err)
				}
			})
			check(t, w, w.Service)
		})
	}
}

func TestRecoveryMayHaveALowCounterAndTheMinimumIsAStart(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	policy := w.Policy("lamp")
	policy.MinimumCounter = 40
	recovery := w.Draft("lamp", "recovery", 41)
	recovery.Release.Recovery = true
	policy.Recovery = []digest.SHA256{recovery.Release.Components[0].SHA256}
	w.Apply(w.First(policy))
	w.Publish(w.Draft("lamp", "4.2", 42)) // a server that starts with a product half-way
	w.Publish(recovery)
	check(t, w, w.Service)
	_, err := w.Service.Publish(t.Context(), "robot", w.Draft("lamp", "3.9", 39).Signed(w.Publisher))
	wantReason(t, err, reason.DowngradeRefused)
}

func TestUninitialisedServerPublishesAndSignsNothing(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	draft := w.Draft("lamp", "1.0", 1)
	wantUnchanged(t, w, func() {
		_, err := w.Service.Publish(t.Context(), "robot", draft.Signed(w.Publisher))
		wantReason(t, err, reason.ServerUninitialised)
		for _, issue := range []error{w.Service.Issue(t.Context()), w.Service.IssueDue(t.Context())} {
			if issue != nil {
				t.Errorf("issue: %v", issue)
			}
		}
	})
	if len(w.Service.Catalog().Timestamp) > 0 {
		t.Error("an uninitialised server has a timestamp")
	}
}

// counted is an artifact store that knows how many of its streams are open.
type counted struct {
	artifacts.Store
	open *atomic.Int64
}

func (c counted) Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error) {
	r, err := c.Store.Open(ctx, d, offset, length)
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	return &countedStream{ReadCloser: r, open: c.open}, nil
}

type countedStream struct {
	io.ReadCloser
	open *atomic.Int64
	once sync.Once
}

func (s *countedStream) Close() error {
	s.once.Do(func() { s.open.Add(-1) })
	return s.ReadCloser.Close()
}

// Every stream holds a file or a connection to the bucket; whoever may publish could use them all up.
func TestPublishLeavesNoStreamOpen(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	var open atomic.Int64
	w.Service = w.ServiceOn(w.Store, counted{w.Blobs, &open})
	w.Load(w.Service)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	if n := open.Load(); n != 0 {
		t.Errorf("%d streams of the artifact store are still open, want 0", n)
	}
}
