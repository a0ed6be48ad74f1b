package repository_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// Firmware passes the door only. An image that happens to be a JSON object could pose as an SBOM, which everybody may
// read: no publisher signs which SBOM belongs to a release.
func TestSBOMIsNeverAnImage(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	secret := []byte(`{"setpoints":[1,2,3]}`)
	sum := w.Upload(secret)
	with := func(version string, counter uint64) *repositorytest.Draft {
		d := w.Draft("lamp", version, counter)
		d.Release.Components = append(d.Release.Components, artifacts.Component{
			Name: "config", HardwareIDs: []string{repositorytest.Hardware}, SHA256: sum, Length: int64(len(secret)), Installer: "script",
		})
		return d
	}
	refused := func(what string, d *repositorytest.Draft) {
		t.Helper()
		d.Request.SBOMs = map[string]digest.SHA256{repositorytest.Component: sum}
		_, err := w.Service.Publish(t.Context(), "robot", d.Signed(w.Publisher))
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Reason != reason.ArtifactMismatch {
			t.Errorf("%s: got %v", what, err)
		}
	}
	refused("image of the same release", with("1.0", 1))
	if got := w.Publish(with("1.0", 1)); got.State != api.ReleasePublished {
		t.Fatalf("got %+v", got)
	}
	refused("image of another release", w.Draft("lamp", "1.1", 2))
}

// What was committed must reach the artifact store, or the server stands still from then on: no timestamp, no start. So
// a ceremony whose files no store takes is refused as a whole, before anything is written.
func TestCeremonyCannotLockTheServerOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w *repositorytest.World, c *api.Ceremony)
		want   reason.Reason
	}{
		"file too large for the store": {func(w *repositorytest.World, c *api.Ceremony) {
			big := append(append([]byte(`"`), bytes.Repeat([]byte("x"), artifacts.MaxNamedBytes)...), '"')
			*c = w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Extra: map[string][]byte{"ca/big.json": big}})
			c.ImageRoots, c.DirectorRoots = [][]byte{w.ImageRoot(1, nil)}, [][]byte{w.DirectorRoot(1, nil)}
		}, reason.RequestTooLarge},
		"Director root that has expired": {func(w *repositorytest.World, c *api.Ceremony) {
			c.DirectorRoots[0] = w.DirectorRoot(1, func(s *tufrepo.RootSpec) { s.Expires = w.Now().Add(-time.Hour) })
		}, reason.MetadataExpired},
	} {
		w := repositorytest.New(t)
		bad := w.First(w.Policy("lamp"))
		c.change(w, &bad)
		_, err := w.Service.Apply(t.Context(), "alice", bad)
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Reason != c.want {
			t.Errorf("%s: got %.300v", name, err)
		}
		if _, err := w.Service.Apply(t.Context(), "alice", w.First(w.Policy("lamp"))); err != nil {
			t.Errorf("%s: then the right one: %.300v", name, err)
		}
	}
}

// broken is an artifact store that nobody can reach.
type broken struct {
	artifacts.Store
	on *atomic.Bool
}

func (b broken) Stat(ctx context.Context, d digest.SHA256) (int64, error) {
	if b.on.Load() {
		return 0, artifacts.ErrUnavailable
	}
	return b.Store.Stat(ctx, d)
}

func (b broken) Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error) {
	if b.on.Load() {
		return nil, artifacts.ErrUnavailable
	}
	return b.Store.Open(ctx, d, offset, length)
}

func (b broken) Load(ctx context.Context, name string) ([]byte, string, error) {
	if b.on.Load() {
		return nil, "", artifacts.ErrUnavailable
	}
	return b.Store.Load(ctx, name)
}

// Whoever can take the artifact store down must not keep a bad release on offer with it.
func TestHoldHoldsWithoutTheArtifactStore(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	var down atomic.Bool
	w.Service = w.ServiceOn(w.Store, broken{w.Blobs, &down})
	w.Load(w.Service)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	w.Publish(w.Draft("lamp", "1.1", 2))
	w.Publish(w.Draft("lamp", "1.2", 3))
	down.Store(true)
	if _, err := w.Service.Hold(t.Context(), "ann", "lamp/1.2", "it burns"); err != nil {
		t.Errorf("Hold: %v", err)
	}
	wantOffer(t, w, "lamp/1.1")
	// A timestamp that waits for the store does not keep a hold waiting, on no replica.
	other := w.ServiceOn(w.OpenStore(), broken{w.Blobs, &down})
	down.Store(false)
	w.Load(other)
	down.Store(true)
	if err := w.Service.Issue(t.Context()); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Fatalf("Issue: %v", err)
	}
	if got, err := w.Service.Hold(t.Context(), "ann", "lamp/1.1", "it burns"); err != nil || !got.Hold {
		t.Errorf("Hold while a timestamp waits: %+v, %v", got, err)
	}
	wantOffer(t, w, "lamp/1.0")
	if err := other.Load(t.Context()); err == nil {
		t.Error("the other replica loaded without the store")
	}
	w.Service = other
	wantOffer(t, w, "lamp/1.0")
}
