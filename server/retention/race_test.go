package retention_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/store"
)

var errInjected = errors.New("injected failure")

// steps counts every call that one side makes to the database and to the artifact store, and lets something happen before
// one of them.
type steps struct {
	count int
	at    int // -1: never
	then  func() error
	names []string
}

func (s *steps) step(name string) error {
	s.names = append(s.names, name)
	s.count++
	if s.count-1 != s.at {
		return nil
	}
	return s.then()
}

// database is the real one with steps.
type database struct {
	*store.Store
	*steps
}

func (d database) Commit(ctx context.Context, c store.Change) error {
	if err := d.step("Commit"); err != nil {
		return err
	}
	return d.Store.Commit(ctx, c)
}

func (d database) Repo(ctx context.Context, name string) (store.Repo, error) {
	if err := d.step("Repo"); err != nil {
		return store.Repo{}, err
	}
	return d.Store.Repo(ctx, name)
}

func (d database) ListReleases(ctx context.Context, product string) ([]store.Release, error) {
	if err := d.step("ListReleases"); err != nil {
		return nil, err
	}
	return d.Store.ListReleases(ctx, product)
}

func (d database) BlobsOf(ctx context.Context, digests []digest.SHA256) ([]store.Blob, error) {
	if err := d.step("BlobsOf"); err != nil {
		return nil, err
	}
	return d.Store.BlobsOf(ctx, digests)
}

func (d database) Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (int64, bool, error) {
	if err := d.step("Lock"); err != nil {
		return 0, false, err
	}
	return d.Store.Lock(ctx, name, holder, ttl, now)
}

func (d database) ListDevices(ctx context.Context, f store.DeviceFilter, after string, limit int) ([]fleet.Device, error) {
	if err := d.step("ListDevices"); err != nil {
		return nil, err
	}
	return d.Store.ListDevices(ctx, f, after, limit)
}

// bucket is the artifact store with steps.
type bucket struct {
	retention.Artifacts
	*steps
}

func (b bucket) Stat(ctx context.Context, d digest.SHA256) (int64, error) {
	if err := b.step("Stat"); err != nil {
		return 0, err
	}
	return b.Artifacts.Stat(ctx, d)
}

func (b bucket) Walk(ctx context.Context, kind artifacts.Kind, after digest.SHA256, limit int) ([]artifacts.Found, error) {
	if err := b.step("Walk"); err != nil {
		return nil, err
	}
	return b.Artifacts.Walk(ctx, kind, after, limit)
}

func (b bucket) Remove(ctx context.Context, d digest.SHA256) error {
	if err := b.step("Remove"); err != nil {
		return err
	}
	return b.Artifacts.Remove(ctx, d)
}

// upload does what the admin API does when somebody uploads: write, and touch when it is complete.
func upload(ctx context.Context, w *repositorytest.World, data ...[]byte) error {
	for _, b := range data {
		err := w.Store.Commit(ctx, store.Change{Writes: []store.Write{store.TouchBlob{SHA256: digest.Of(w.UploadAgain(b)), At: w.Now()}}})
		if err != nil {
			return err
		}
	}
	return nil
}

// A release whose image lay unused in the store for days is published while garbage collection is stopped before each of
// its steps in turn, and garbage is collected before each step of the publication. Whoever wins: a published release is
// whole, and a publisher who was refused uploads again and succeeds.
func TestPublicationAndCollectionCannotPassEachOther(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]race{
		"collection stops":            {collectionStops: true},
		"publication stops":           {},
		"collection stops, staged":    {collectionStops: true, staged: true},
		"publication stops, staged":   {staged: true},
		"publication is slow, staged": {staged: true, slow: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 0; ; at++ {
				reached, outcome := r.run(t, at)
				if !reached {
					if at < 5 {
						t.Errorf("only %d steps were tried", at)
					}
					return
				}
				t.Log(at, outcome)
			}
		})
	}
}

// race says who is stopped before its step.
type race struct {
	collectionStops bool
	staged          bool // the release waits for approvals: no metadata is signed
	slow            bool // more than the grace passes where the publication stops
}

func (r race) run(t *testing.T, at int) (reached bool, outcome string) {
	t.Helper()
	w := world(t)
	if r.staged {
		policy := w.Policy("lamp")
		policy.Approvals = 1
		w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))
	}
	w.Publish(w.Draft("lamp", "1", 1))
	d := w.Draft("lamp", "2", 2)
	w.Pass(30 * time.Hour)

	first, other := &steps{at: -1}, &steps{at: -1}
	if !r.collectionStops {
		first, other = other, first
	}
	collector := retention.New(database{w.Store, first}, bucket{w.Blobs, first}, w.Service, settings, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
	publisher := w.ServiceOn(database{w.Store, other}, bucket{w.Blobs, other})
	w.Load(publisher)
	if !r.collectionStops {
		first, other = other, first
	}
	first.count, first.names, first.at = 0, nil, at
	publish := func() error {
		_, err := publisher.Publish(t.Context(), "robot", d.Signed(w.Publisher))
		return err
	}
	collectNow := func() error {
		if r.slow {
			w.Pass(30 * time.Hour)
		}
		_, err := collector.Collect(t.Context(), "gc")
		return err
	}
	begin, between := collectNow, publish
	if !r.collectionStops {
		begin, between = publish, collectNow
	}
	var betweenErr error
	first.then = func() error { betweenErr = between(); reached = true; return nil }
	beginErr := begin()
	wantWhole(t, w)
	name := "end"
	if at < len(first.names) {
		name = first.names[at]
	}
	outcome = fmt.Sprintf("before %s: first %v; between %v", name, short(beginErr), short(betweenErr))

	// The next clean cycle of both succeeds.
	w.Pass(10 * time.Minute)
	if _, err := service(w).Collect(t.Context(), "gc"); err != nil {
		t.Errorf("%s: collect afterwards: %v", outcome, err)
	}
	if err := upload(t.Context(), w, d.Image, w.ValuesOf(d), w.SBOMOf(d)); err != nil {
		t.Errorf("%s: upload again: %v", outcome, err)
	}
	if err := publish(); err != nil {
		t.Errorf("%s: publish again: %v", outcome, err)
	}
	wantWhole(t, w)
	return reached, outcome
}

func short(err error) string {
	if err == nil {
		return "done"
	}
	return "refused"
}

// The server dies before each step of a round in turn. The next one finishes: what is unused is gone, what is used is
// whole, and nothing stays condemned.
func TestDeathAtEveryStepIsFinishedByTheNextRound(t *testing.T) {
	t.Parallel()
	for at := 0; ; at++ {
		w := world(t)
		w.Publish(w.Draft("lamp", "1", 1))
		w.Publish(w.Draft("lamp", "2", 2))
		w.Publish(w.Draft("lamp", "3", 3))
		unused := []digest.SHA256{w.Upload([]byte("one")), w.Upload([]byte("two"))}
		w.Pass(30 * time.Hour)
		keepTwo := settings
		keepTwo.KeepReleases = 2
		s := &steps{at: at}
		dead := false
		s.then = func() error { dead = true; s.at = s.count; return errInjected } // and every later step fails as well
		dying := retention.New(database{w.Store, s}, bucket{w.Blobs, s}, w.Service, keepTwo, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
		_, err := dying.Collect(t.Context(), "gc")
		if (err != nil) != dead {
			t.Errorf("step %d: got %v, died %v", at, err, dead)
		}
		wantWhole(t, w)
		w.Pass(10 * time.Minute)
		w.Load(w.Service)
		if r, err := service(w, func(c *retention.Config) { c.KeepReleases = 2 }).Collect(t.Context(), "gc"); err != nil {
			t.Errorf("step %d: the next round: %+v, %v", at, r, err)
		}
		wantWhole(t, w)
		for _, d := range unused {
			if has(t, w, d) {
				t.Errorf("step %d: %s is still there", at, d)
			}
		}
		if left, err := w.Store.CondemnedBlobs(t.Context(), 10); err != nil || len(left) > 0 {
			t.Errorf("step %d: %d blobs stay condemned, %v", at, len(left), err)
		}
		if row, err := w.Store.Release(t.Context(), "lamp/1"); err != nil || row.PrunedAt.IsZero() {
			t.Errorf("step %d: lamp/1 was not pruned: %v", at, err)
		}
		if !dead {
			t.Logf("died before each of %d steps: %v", at, s.names)
			return
		}
	}
}

// A round that stood still for longer than its lock, at whichever step, changes nothing in the database any more, and
// condemns nothing.
func TestAStoppedRoundDoesNotGoOnAfterItsLock(t *testing.T) {
	t.Parallel()
	for at := 0; ; at++ {
		w := world(t)
		unused := w.Upload([]byte("one"))
		w.Pass(30 * time.Hour)
		s := &steps{at: at}
		reached := false
		s.then = func() error {
			reached = true
			w.Pass(10 * time.Minute)
			if _, ok, err := w.Store.Lock(t.Context(), "retention", "another replica", time.Minute, w.Now()); (!ok || err != nil) && at > 0 {
				t.Errorf("cannot take the lock over: %v", err)
			}
			return nil
		}
		stopped := retention.New(database{w.Store, s}, bucket{w.Blobs, s}, w.Service, settings, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
		_, err := stopped.Collect(t.Context(), "gc")
		if !reached {
			t.Logf("stopped before each of %v", s.names)
			return
		}
		if err == nil {
			t.Errorf("stopped before step %d of %v: it went on", at, s.names)
		}
		if condemned := slices.Contains(s.names[:at], "Commit"); !condemned && !has(t, w, unused) {
			t.Errorf("stopped before step %d of %v: it removed a blob", at, s.names)
		}
	}
}
