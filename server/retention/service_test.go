package retention_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

var settings = retention.Config{Every: time.Hour, Grace: 24 * time.Hour, Uploads: 7 * 24 * time.Hour}

// world is a repository whose clock is the one of the artifact directory.
func world(t *testing.T) *repositorytest.World {
	t.Helper()
	w := repositorytest.New(t)
	w.Pass(time.Since(w.Now()))
	w.Apply(w.First(w.Policy("lamp")))
	return w
}

func service(w *repositorytest.World, change ...func(*retention.Config)) *retention.Service {
	cfg := settings
	for _, c := range change {
		c(&cfg)
	}
	return retention.New(w.Store, w.Blobs, w.Service, cfg, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
}

func serviceOver(w *repositorytest.World, blobs retention.Artifacts) *retention.Service {
	return retention.New(w.Store, blobs, w.Service, settings, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
}

func collect(t *testing.T, s *retention.Service) retention.Result {
	t.Helper()
	r, err := s.Collect(t.Context(), "alice")
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	return r
}

func has(t *testing.T, w *repositorytest.World, d digest.SHA256) bool {
	t.Helper()
	_, err := w.Blobs.Stat(t.Context(), d)
	if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
		t.Fatalf("Stat: %v", err)
	}
	return err == nil
}

// wantWhole checks from outside that nothing is missing of any release.
func wantWhole(t *testing.T, w *repositorytest.World) {
	t.Helper()
	rows, err := w.Store.ListReleases(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		statement, err := artifacts.DecodeStatement(row.Statement)
		if err != nil {
			t.Fatal(err)
		}
		c := statement.Predicate.Components[0]
		for what, d := range map[string]digest.SHA256{"image": c.SHA256, "reference values": c.ReferenceValues, "SBOM": row.SBOMs[c.Name]} {
			if pruned := !row.PrunedAt.IsZero() && what == "image"; !pruned && !has(t, w, d) {
				t.Errorf("%s has lost its %s", row.Name, what)
			}
		}
	}
}

func eventTypes(t *testing.T, w *repositorytest.World) []string {
	t.Helper()
	events, err := w.Store.Events(t.Context(), store.EventFilter{Types: []string{audit.ArtifactsCondemned, audit.ArtifactsRemoved, audit.ReleasePruned}}, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		out = append(out, e.Type+" by "+e.Actor)
	}
	return out
}

func enroll(t *testing.T, w *repositorytest.World, d fleet.Device) {
	t.Helper()
	d.ID, d.EKSPKI, d.TLSKey = "device-"+d.Proven, digest.Of([]byte("ek"+d.Proven)), digest.Of([]byte("tls"+d.Proven))
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: d}}}); err != nil {
		t.Fatal(err)
	}
}

func TestRemovesWhatNothingRefersTo(t *testing.T) {
	t.Parallel()
	w := world(t)
	w.Publish(w.Draft("lamp", "1", 1))
	unused := w.Upload([]byte("nobody refers to this"))
	half := []byte("an upload that nobody continued")
	if _, err := w.Blobs.Write(t.Context(), digest.Of(half), int64(len(half)), 0, bytes.NewReader(half[:10])); err != nil {
		t.Fatal(err)
	}
	s := service(w)
	if r := collect(t, s); r.Blobs+r.Uploads > 0 || !has(t, w, unused) {
		t.Errorf("young: got %+v", r)
	}
	w.Pass(25 * time.Hour)
	w.Load(w.Service)
	plan, err := s.Plan(t.Context())
	if err != nil || plan.Removable != 1 || len(plan.Blobs) != 1 || plan.Blobs[0].SHA256 != unused || plan.Bytes != 21 || len(plan.Uploads) != 0 {
		t.Errorf("Plan: got %+v, %v", plan, err)
	}
	if !has(t, w, unused) {
		t.Error("a plan removed something")
	}
	if r := collect(t, s); r.Blobs != 1 || r.Bytes != 21 || r.Uploads != 0 || has(t, w, unused) {
		t.Errorf("after a day: got %+v", r)
	}
	w.Pass(7 * 24 * time.Hour)
	if r := collect(t, s); r.Blobs != 0 || r.Uploads != 1 {
		t.Errorf("after a week: got %+v", r)
	}
	if at, err := w.Blobs.Uploaded(t.Context(), digest.Of(half), int64(len(half))); at != 0 || err != nil {
		t.Errorf("Uploaded: got %d, %v", at, err)
	}
	wantWhole(t, w)
	want := []string{"artifacts.condemned by alice", "artifacts.removed by alice", "artifacts.removed by alice"}
	if got := eventTypes(t, w); !slices.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
}

// A publisher who was told that a blob is there has the grace to publish it.
func TestTouchBeginsTheGraceAnew(t *testing.T) {
	t.Parallel()
	w := world(t)
	unused := w.Upload([]byte("old, and asked about again"))
	w.Pass(25 * time.Hour)
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.TouchBlob{SHA256: unused, At: w.Now()}}}); err != nil {
		t.Fatal(err)
	}
	w.Pass(23 * time.Hour)
	if r := collect(t, service(w)); r.Blobs != 0 || !has(t, w, unused) {
		t.Errorf("got %+v", r)
	}
	w.Pass(2 * time.Hour)
	if r := collect(t, service(w)); r.Blobs != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestKeepsWhatAStagedReleaseRefersTo(t *testing.T) {
	t.Parallel()
	w := world(t)
	policy := w.Policy("lamp")
	policy.Approvals = 1
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))
	w.Publish(w.Draft("lamp", "1", 1))
	w.Pass(1000 * time.Hour)
	if r := collect(t, service(w)); r.Blobs != 0 {
		t.Errorf("got %+v", r)
	}
	wantWhole(t, w)
	if _, err := w.Service.Approve(t.Context(), "alice", "lamp/1"); err != nil {
		t.Errorf("Approve: %v", err)
	}
}

func TestKeepsWhatThePolicyListsForRecovery(t *testing.T) {
	t.Parallel()
	w := world(t)
	image := w.Upload([]byte("recovery image, not published yet"))
	policy := w.Policy("lamp")
	policy.Recovery = []digest.SHA256{image}
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))
	w.Pass(1000 * time.Hour)
	if r := collect(t, service(w)); r.Blobs != 0 || !has(t, w, image) {
		t.Errorf("got %+v", r)
	}
}

// A pruned release loses its image after the grace and nothing else: reports need its documents, and the verifier its
// Reference Values.
func TestPrunedReleaseLosesItsImageAlone(t *testing.T) {
	t.Parallel()
	w := world(t)
	old := w.Draft("lamp", "1", 1)
	w.Publish(old)
	w.Publish(w.Draft("lamp", "2", 2))
	w.Pass(100 * time.Hour)
	s := service(w)
	if err := s.MayPrune(t.Context(), "lamp/1"); err != nil {
		t.Errorf("MayPrune: %v", err)
	}
	r, err := s.Prune(t.Context(), "alice", "lamp/1", "too old")
	if err != nil || r.PrunedAt == nil || !r.Changed {
		t.Fatalf("Prune: got %+v, %v", r, err)
	}
	if r, err := s.Prune(t.Context(), "alice", "lamp/1", "too old"); err != nil || r.Changed {
		t.Errorf("Prune again: got %+v, %v", r, err)
	}
	if r := collect(t, s); r.Blobs != 0 || !has(t, w, old.Release.Components[0].SHA256) {
		t.Errorf("within the grace: got %+v", r)
	}
	w.Pass(25 * time.Hour)
	if r := collect(t, s); r.Blobs != 1 || has(t, w, old.Release.Components[0].SHA256) {
		t.Errorf("after the grace: got %+v", r)
	}
	wantWhole(t, w)
	w.Load(w.Service)
	product := w.Service.Catalog().Products["lamp"]
	release, ok := product.Release("lamp/1")
	if _, expected := release.Expectation(repositorytest.Hardware); !ok || !expected || !release.Pruned {
		t.Error("the verifier does not know the pruned release any more")
	}
	for _, c := range product.Candidates() {
		if c.Name == "lamp/1" {
			t.Error("a pruned release is a candidate")
		}
	}
	d := proven(1, of(repositorytest.Hardware))
	d.LeaseUntil = w.Now().Add(time.Hour)
	_, err = segment.Allow(d, nil, product, old.Release.Components[0].SHA256, w.Now())
	wantReason(t, "read the pruned image", err, reason.ReleaseUnknown)
	_, err = w.Service.Publish(t.Context(), "robot", old.Signed(w.Publisher))
	wantReason(t, "publish the pruned release again", err, reason.ArtifactMismatch)
	w.Upload(old.Image)
	_, err = w.Service.Publish(t.Context(), "robot", old.Signed(w.Publisher))
	wantReason(t, "publish the pruned release again, uploaded", err, reason.ReleaseConflict)
	if got := eventTypes(t, w); !slices.Contains(got, "release.pruned by alice") {
		t.Errorf("events: got %q", got)
	}
}

func wantReason(t *testing.T, what string, err error, want reason.Reason) {
	t.Helper()
	var p *problem.Error
	if !errors.As(err, &p) || p.Reason != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

func TestPruneRefusesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	w := world(t)
	for i, version := range []string{"1", "2", "3"} {
		w.Publish(w.Draft("lamp", version, uint64(i)+1))
	}
	enroll(t, w, proven(2, of(repositorytest.Hardware)))
	s := service(w)
	for name, why := range map[string]string{"lamp/2": "proven (1 devices)", "lamp/3": "newest"} {
		_, err := s.Prune(t.Context(), "alice", name, "why not")
		wantReason(t, name, err, reason.ReleaseInUse)
		if err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %q, want %q in it", name, err, why)
		}
		wantReason(t, "dry run of "+name, s.MayPrune(t.Context(), name), reason.ReleaseInUse)
	}
	_, err := s.Prune(t.Context(), "alice", "lamp/9", "why not")
	wantReason(t, "unknown", err, reason.ReleaseUnknown)
	if _, err := s.Prune(t.Context(), "alice", "lamp/1", "too old"); err != nil {
		t.Errorf("Prune: %v", err)
	}
}

func TestPrunesByItselfWhatIsOldAndUnneeded(t *testing.T) {
	t.Parallel()
	w := world(t)
	for i, version := range []string{"1", "2", "3", "4"} {
		w.Publish(w.Draft("lamp", version, uint64(i)+1))
	}
	enroll(t, w, proven(2, of(repositorytest.Hardware), wasOffered(0)))
	w.Pass(100 * time.Hour)
	if r := collect(t, service(w)); len(r.Pruned) > 0 {
		t.Errorf("without keep_releases: got %+v", r)
	}
	keep := func(n int) func(*retention.Config) { return func(c *retention.Config) { c.KeepReleases = n } }
	if r := collect(t, service(w, keep(4))); len(r.Pruned) > 0 {
		t.Errorf("keeping four: got %+v", r)
	}
	if r := collect(t, service(w, keep(2))); !slices.Equal(r.Pruned, []string{"lamp/1"}) {
		t.Errorf("keeping two: got %+v", r)
	}
	wantWhole(t, w)
}

// Another database over the same artifact store refers to other blobs: none of them is garbage.
func TestRefusesAForeignStore(t *testing.T) {
	t.Parallel()
	w := world(t)
	collect(t, service(w))
	blob := w.Upload([]byte("published by the other database"))
	other := world(t)
	other.Pass(100 * time.Hour)
	s := retention.New(other.Store, w.Blobs, other.Service, settings, other.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
	if _, err := s.Collect(t.Context(), "alice"); !errors.Is(err, retention.ErrForeign) {
		t.Errorf("got %v, want %v", err, retention.ErrForeign)
	}
	if !has(t, w, blob) {
		t.Error("a blob of another database was removed")
	}
}

func TestOneReplicaCollects(t *testing.T) {
	t.Parallel()
	w := world(t)
	if _, ok, err := w.Store.Lock(t.Context(), "retention", "somebody else", time.Minute, w.Now()); !ok || err != nil {
		t.Fatal(err)
	}
	if _, err := service(w).Collect(t.Context(), "alice"); !errors.Is(err, retention.ErrBusy) {
		t.Errorf("got %v, want %v", err, retention.ErrBusy)
	}
	w.Pass(2 * time.Minute)
	collect(t, service(w))
}

// A release that cannot be read refers to blobs that nobody knows: nothing is removed.
func TestStopsAtAReleaseThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := world(t)
	unused := w.Upload([]byte("perhaps this is what it refers to"))
	broken := store.Release{Name: "lamp/broken", Product: "lamp", Counter: 7, State: "published", Statement: []byte("{")}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutRelease{Release: broken}}}); err != nil {
		t.Fatal(err)
	}
	w.Pass(100 * time.Hour)
	if _, err := service(w).Collect(t.Context(), "alice"); err == nil || !strings.Contains(err.Error(), "lamp/broken") {
		t.Errorf("got %v, want an error about lamp/broken", err)
	}
	if !has(t, w, unused) {
		t.Error("a blob was removed")
	}
}

// locked is an artifact store that keeps one blob.
type locked struct {
	retention.Artifacts
	blob     digest.SHA256
	tells    bool // Retained says so; else only Remove does
	attempts int
}

func (l *locked) Retain(context.Context, digest.SHA256) error { return nil }

func (l *locked) Retained(_ context.Context, d digest.SHA256) (time.Time, error) {
	if d == l.blob && l.tells {
		return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), nil
	}
	return time.Time{}, nil
}

func (l *locked) Remove(ctx context.Context, d digest.SHA256) error {
	if d == l.blob {
		l.attempts++
		return artifacts.ErrRetained
	}
	return l.Artifacts.Remove(ctx, d)
}

func TestLockedBlobsAreReportedAsKept(t *testing.T) {
	t.Parallel()
	for name, tells := range map[string]bool{"the store says so before": true, "the removal is refused": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world(t)
			kept, unused := w.Upload([]byte("kept by a lock")), w.Upload([]byte("not kept"))
			w.Pass(25 * time.Hour)
			blobs := &locked{Artifacts: w.Blobs, blob: kept, tells: tells}
			s := retention.New(w.Store, blobs, w.Service, settings, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
			r := collect(t, s)
			if r.Blobs != 1 || r.Retained != 1 || !has(t, w, kept) || has(t, w, unused) || (blobs.attempts > 0) == tells {
				t.Errorf("got %+v after %d attempts", r, blobs.attempts)
			}
			plan, err := s.Plan(t.Context())
			if err != nil || len(plan.Blobs) != 1 || (plan.Blobs[0].LockedUntil != nil) != tells {
				t.Errorf("Plan: got %+v, %v", plan, err)
			}
			// It is not left condemned: somebody may publish it.
			if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.TouchBlob{SHA256: kept, At: w.Now()}}}); err != nil {
				t.Errorf("touch: %v", err)
			}
		})
	}
}
