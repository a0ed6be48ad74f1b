package repository_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
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

// silent is an artifact store that takes requests and never answers them.
type silent struct {
	artifacts.Store
	on    *atomic.Bool
	asked chan struct{}
}

func (s silent) Load(ctx context.Context, name string) ([]byte, string, error) {
	if !s.on.Load() {
		return s.Store.Load(ctx, name)
	}
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil, "", ctx.Err()
}

// A publication that waits for the artifact store, for however long, keeps no hold waiting: not here, and not the one of
// another replica.
func TestHoldDoesNotWaitForTheArtifactStore(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	var hangs atomic.Bool
	asked := make(chan struct{}, 1)
	w.Service = w.ServiceOn(w.Store, silent{w.Blobs, &hangs, asked})
	w.Load(w.Service)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	w.Publish(w.Draft("lamp", "1.1", 2))
	w.Publish(w.Draft("lamp", "1.2", 3))
	other := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(other)
	hangs.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	defer func() {
		cancel()
		for range cap(ended) {
			<-ended
		}
	}()
	go func() { ended <- w.Service.Issue(ctx) }()
	<-asked
	go func() { ended <- w.Service.Run(ctx, time.Millisecond) }()
	if got, err := w.Service.Hold(t.Context(), "ann", "lamp/1.2", "it burns"); err != nil || !got.Hold {
		t.Fatalf("Hold: %+v, %v", got, err)
	}
	wantOffer(t, w, "lamp/1.1")
	if _, err := other.Hold(t.Context(), "ann", "lamp/1.1", "it burns too"); err != nil {
		t.Fatalf("Hold on the other replica: %v", err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !w.Service.Catalog().Products["lamp"].Releases[1].Hold {
		<-tick.C
	}
	wantOffer(t, w, "lamp/1.0")
}

// A device that is behind reads what the newest timestamp leads to while the artifact store is away, and renews its lease.
func TestMetadataIsServedWithoutTheArtifactStore(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	var down atomic.Bool
	w.Service = w.ServiceOn(w.Store, broken{w.Blobs, &down})
	w.Load(w.Service)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	server := serve(t, w.Service)
	policy := digest.Of(w.Service.Catalog().OfflineFiles[artifacts.PolicyPath("lamp")])
	down.Store(true)
	for _, name := range []string{"timestamp.json", "2.snapshot.json", "1.targets.json", "1.lamp.json", "1.root.json", "targets/policy/" + policy.String() + ".lamp.json"} {
		if status, _, body := get(t, server.URL+wire.PathImage+name); status != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: got %d %s", name, status, body)
		}
	}
	if status, header, _ := get(t, server.URL+wire.PathImage+"2.root.json"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("a file that only the store could know: got %d", status)
	}
}
