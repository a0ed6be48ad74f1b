package tufrepo_test

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestImageAcceptsWhatItsEncodersMake(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 3)
	im := newImage(t, r.rootDoc(t, 1))
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	got, role, ok := im.Target("gw/1.2.0/rootfs")
	want := tufrepo.Target{Path: "gw/1.2.0/rootfs", Length: 8, SHA256: digest.Of([]byte("firmware")), Custom: file("").Custom}
	if !ok || role != "gw" || cmp.Diff(want, got) != "" {
		t.Fatalf("ok %v, role %q: %s", ok, role, cmp.Diff(want, got))
	}
	if _, role, ok := im.Target("policy/gw.json"); !ok || role != "targets" {
		t.Fatalf("policy: ok %v, role %q", ok, role)
	}
	state := tufrepo.ImageState{
		Root: 1, Timestamp: 3, Snapshot: 3, Targets: 3,
		Products: map[string]int64{"gw": 3, "sensor": 3}, Beacon: tufrepo.Beacon(rel.stamp),
	}
	if diff := cmp.Diff(state, im.State()); diff != "" {
		t.Fatal(diff)
	}
	paths := im.Paths("sensor")
	slices.Sort(paths)
	if diff := cmp.Diff([]string{"sensor/1.2.0/rootfs", "sensor/1.2.0/rootfs.sigstore.json"}, paths); diff != "" {
		t.Fatal(diff)
	}
}

func TestNextLeadsThroughTheRepository(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 2)
	files := map[string][]byte{"2.snapshot.json": rel.snapshot, "2.targets.json": rel.targets, "2.gw.json": rel.products["gw"]}
	im := newImage(t, r.rootDoc(t, 1))
	if _, err := im.Next("gw"); !errors.Is(err, tufrepo.ErrIncomplete) {
		t.Fatalf("without a timestamp: %v", err)
	}
	if err := im.Timestamp(rel.stamp); err != nil {
		t.Fatal(err)
	}
	var asked []string
	for {
		w, err := im.Next("gw")
		if err != nil {
			t.Fatal(err)
		}
		if w == nil {
			break
		}
		asked = append(asked, w.Name)
		if err := im.Accept(w, files[w.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"2.snapshot.json", "2.targets.json", "2.gw.json"}, asked); diff != "" {
		t.Fatal(diff)
	}
}

// OT-03: a root that the old or the new keys have not signed by threshold.
func TestRefusesRootWithoutBothThresholds(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	im := newImage(t, r.rootDoc(t, 1))
	next := newRepo(t)
	payload := must(tufrepo.RootPayload(next.rootSpec(2)))(t)
	for name, keys := range map[string][]crypto.Signer{
		"new keys only":      next.root,
		"old keys only":      r.root,
		"old below its own":  append([]crypto.Signer{r.root[0]}, next.root...),
		"new below its own":  append([]crypto.Signer{next.root[0]}, r.root...),
		"nobody":             nil,
		"online keys of old": {r.snapshot, r.timestamp, r.targets},
	} {
		wantErr(t, im.UpdateRoot(holderSign(t, payload, keys...)), tufrepo.ErrSignature)
		if got := im.State().Root; got != 1 {
			t.Fatalf("%s: root %d", name, got)
		}
	}
	if err := im.UpdateRoot(holderSign(t, payload, append(r.root, next.root...)...)); err != nil {
		t.Fatal(err)
	}
	if err := accept(im, next.release(t, 1)); err != nil {
		t.Fatal(err)
	}
}

// OT-09 for root: gaps, older roots; the same one again is fine.
func TestRefusesRootOutOfOrder(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	im := newImage(t, r.rootDoc(t, 2))
	wantErr(t, im.UpdateRoot(r.rootDoc(t, 4)), tufrepo.ErrRollback)
	wantErr(t, im.UpdateRoot(r.rootDoc(t, 1)), tufrepo.ErrRollback)
	if err := im.UpdateRoot(im.Root(), r.rootDoc(t, 3)); err != nil {
		t.Fatal(err)
	}
	err := im.UpdateRoot(r.rootDoc(t, 4), r.rootDoc(t, 9))
	wantErr(t, err, tufrepo.ErrRollback)
	if got := im.State().Root; got != 4 {
		t.Fatalf("root %d, want what was verified before the bad one", got)
	}
	wantErr(t, im.UpdateRoot(make([][]byte, 257)...), tufrepo.ErrTooLarge)
}

// OT-13: an expired stored root must not stop a newer one, an expired final one stops everything else.
func TestExpiredRootIsOnlyAStep(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	old := r.rootSpec(1)
	old.Expires = now.AddDate(-1, 0, 0)
	im := newImage(t, holderSign(t, must(tufrepo.RootPayload(old))(t), r.root...))
	rel := r.release(t, 1)
	wantErr(t, im.Timestamp(rel.stamp), tufrepo.ErrExpired)
	if err := im.UpdateRoot(r.rootDoc(t, 2)); err != nil {
		t.Fatal(err)
	}
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
}

// OT-04: sizes are checked before anything is parsed.
func TestRefusesEndlessMetadata(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	im := newImage(t, r.rootDoc(t, 1))
	rel := r.release(t, 1)
	pad := func(doc []byte, limit int) []byte {
		return append(slices.Clone(doc), []byte(strings.Repeat(" ", limit+1-len(doc)))...)
	}
	wantErr(t, im.UpdateRoot(pad(r.rootDoc(t, 2), tufrepo.MaxRootBytes)), tufrepo.ErrTooLarge)
	wantErr(t, im.Timestamp(pad(rel.stamp, tufrepo.MaxTimestampBytes)), tufrepo.ErrTooLarge)
	if err := im.Timestamp(rel.stamp); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Snapshot(pad(rel.snapshot, tufrepo.MaxSnapshotBytes)), tufrepo.ErrTooLarge)
	wantErr(t, im.Snapshot(append(slices.Clone(rel.snapshot), ' ')), tufrepo.ErrMixAndMatch)
	if err := im.Snapshot(rel.snapshot); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Targets(pad(rel.targets, tufrepo.MaxTargetsBytes)), tufrepo.ErrTooLarge)
	if err := im.Targets(rel.targets); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Product("gw", pad(rel.products["gw"], tufrepo.MaxTargetsBytes)), tufrepo.ErrTooLarge)
}

// OT-08: documents of different releases do not combine.
func TestRefusesMixAndMatch(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	one, two := r.release(t, 1), r.release(t, 2)
	im := newImage(t, r.rootDoc(t, 1))
	if err := im.Timestamp(two.stamp); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Snapshot(one.snapshot), tufrepo.ErrMixAndMatch)
	if err := im.Snapshot(two.snapshot); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Targets(one.targets), tufrepo.ErrMixAndMatch)
	if err := im.Targets(two.targets); err != nil {
		t.Fatal(err)
	}
	wantErr(t, im.Product("gw", one.products["gw"]), tufrepo.ErrMixAndMatch)
	wantErr(t, im.Product("gw", two.products["sensor"]), tufrepo.ErrMixAndMatch)
}

// A snapshot key alone cannot announce another version than the documents have.
func TestRefusesVersionsThatDisagree(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 2)
	rel.snapshot = must(tufrepo.SignSnapshot(2, rel.expires, map[string]tufrepo.Doc{
		"targets": tufrepo.DocOf(7, rel.targets),
	}, r.snapshot))(t)
	rel = r.stampOver(t, rel)
	wantErr(t, accept(newImage(t, r.rootDoc(t, 1)), rel), tufrepo.ErrMixAndMatch)
	rel = r.release(t, 2)
	rel.stamp = must(tufrepo.SignTimestamp(2, rel.expires, tufrepo.DocOf(3, rel.snapshot), [32]byte{}, r.timestamp))(t)
	wantErr(t, accept(newImage(t, r.rootDoc(t, 1)), rel), tufrepo.ErrMixAndMatch)
}

// OT-09: every way back is closed, also across a restart with cached documents.
func TestRefusesRollback(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := r.rootDoc(t, 1)
	older, newest := r.release(t, 4), r.release(t, 5)
	live := newImage(t, root)
	if err := accept(live, newest); err != nil {
		t.Fatal(err)
	}
	cached := live.Cached()
	fresh := map[string]func() *tufrepo.Image{
		"live": func() *tufrepo.Image {
			im := newImage(t, root)
			if err := accept(im, newest); err != nil {
				t.Fatal(err)
			}
			return im
		},
		"restarted": func() *tufrepo.Image {
			im := newImage(t, root)
			im.Restore(cached)
			return im
		},
	}

	oldTargets := r.release(t, 6)
	oldTargets.targets = older.targets
	oldTargets = r.finish(t, oldTargets)
	oldProduct := r.release(t, 6)
	oldProduct.products["gw"] = older.products["gw"]
	oldProduct = r.finish(t, oldProduct)
	removed := r.release(t, 6)
	delete(removed.products, "sensor")
	removed = r.finish(t, removed)
	oldSnapshot := r.release(t, 6)
	oldSnapshot.snapshot = older.snapshot
	oldSnapshot = r.stampOver(t, oldSnapshot)
	changed := r.release(t, 5)
	changed.version = 6
	changed = r.finish(t, changed) // products of version 5 with other bytes

	for name, rel := range map[string]release{
		"timestamp": older, "snapshot": oldSnapshot, "targets": oldTargets, "product": oldProduct,
		"role removed": removed, "changed under the same version": changed,
	} {
		for state, open := range fresh {
			im := open()
			err := accept(im, rel)
			if !errors.Is(err, tufrepo.ErrRollback) || tufrepo.ReasonOf(err) != reason.MetadataExpired {
				t.Errorf("%s, %s: got %v", name, state, err)
			}
			if err := accept(im, r.release(t, 7)); err != nil {
				t.Errorf("%s, %s: a clean cycle afterwards: %v", name, state, err)
			}
		}
	}
}

// OT-24: a timestamp that changed while its version stayed.
func TestRefusesTimestampChangedUnderSameVersion(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 5)
	im := newImage(t, r.rootDoc(t, 1))
	if err := accept(im, rel); err != nil {
		t.Fatal(err)
	}
	if err := im.Timestamp(rel.stamp); err != nil {
		t.Fatalf("the same bytes again: %v", err)
	}
	wantErr(t, im.Timestamp(r.stampOver(t, rel).stamp), tufrepo.ErrRollback)
	if _, _, ok := im.Target("gw/1.2.0/rootfs"); !ok {
		t.Fatal("a refused timestamp must leave the state alone")
	}
}

// OT-13: every role, expired.
func TestRefusesExpiredMetadata(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	expire := func(signed map[string]any) { signed["expires"] = "2026-03-01T12:00:00Z" }
	stamp := r.release(t, 1)
	stamp.stamp = resign(t, stamp.stamp, expire, r.timestamp)
	snapshot := r.release(t, 1)
	snapshot.snapshot = resign(t, snapshot.snapshot, expire, r.snapshot)
	snapshot = r.stampOver(t, snapshot)
	targets := r.release(t, 1)
	targets.targets = resign(t, targets.targets, expire, r.targets)
	targets = r.finish(t, targets)
	product := r.release(t, 1)
	product.products["gw"] = resign(t, product.products["gw"], expire, r.products["gw"])
	product = r.finish(t, product)
	for name, rel := range map[string]release{"timestamp": stamp, "snapshot": snapshot, "targets": targets, "product": product} {
		im := newImage(t, r.rootDoc(t, 1))
		err := accept(im, rel)
		if !errors.Is(err, tufrepo.ErrExpired) || tufrepo.ReasonOf(err) != reason.MetadataExpired {
			t.Errorf("%s: got %v", name, err)
		}
		if _, _, ok := im.Target("gw/1.2.0/rootfs"); ok {
			t.Errorf("%s: expired metadata answered", name)
		}
	}
}

// OT-13: expired or damaged cached documents must not brick, and what has expired must not answer.
func TestExpiredOrDamagedCacheDoesNotBrick(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := r.rootDoc(t, 1)
	live := newImage(t, root)
	if err := accept(live, r.release(t, 5)); err != nil {
		t.Fatal(err)
	}
	later := r.release(t, 6)
	cached := live.Cached()
	damage := map[string]func(*tufrepo.Cached){
		"expired":             func(*tufrepo.Cached) {},
		"empty":               func(c *tufrepo.Cached) { *c = tufrepo.Cached{} },
		"truncated timestamp": func(c *tufrepo.Cached) { c.Timestamp = c.Timestamp[:9] },
		"null snapshot":       func(c *tufrepo.Cached) { c.Snapshot = []byte("null") },
		"null signed":         func(c *tufrepo.Cached) { c.Targets = []byte(`{"signed":null,"signatures":null}`) },
		"wrong product":       func(c *tufrepo.Cached) { c.Products = map[string][]byte{"gw": c.Products["sensor"]} },
		"foreign":             func(c *tufrepo.Cached) { *c = foreignCache(t) },
	}
	for name, change := range damage {
		c := cached
		change(&c)
		im := must(tufrepo.NewImage(root, now.Add(48*time24)))(t)
		im.Restore(c)
		if _, _, ok := im.Target("gw/1.2.0/rootfs"); ok {
			t.Errorf("%s: expired metadata answers", name)
		}
		im.SetTime(now)
		if err := accept(im, later); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const time24 = 24 * 60 * 60 * 1e9

func foreignCache(t *testing.T) tufrepo.Cached {
	other := newRepo(t)
	im := newImage(t, other.rootDoc(t, 1))
	if err := accept(im, other.release(t, 99)); err != nil {
		t.Fatal(err)
	}
	return im.Cached()
}

// OT-14: after a fast-forward the rotation of the timestamp or snapshot key brings everything back.
func TestRecoversFromFastForward(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"timestamp", "snapshot"} {
		r := newRepo(t)
		root := r.rootDoc(t, 1)
		im := newImage(t, root)
		if err := accept(im, r.release(t, 1<<40)); err != nil {
			t.Fatal(err)
		}
		wantErr(t, accept(im, r.release(t, 2)), tufrepo.ErrRollback)
		if role == "timestamp" {
			r.timestamp = edKey(t)
		} else {
			r.snapshot = edKey(t)
		}
		if err := im.UpdateRoot(r.rootDoc(t, 2)); err != nil {
			t.Fatal(err)
		}
		if got := im.State(); got.Timestamp != 0 || got.Snapshot != 0 || got.Targets != 0 || len(got.Products) != 0 {
			t.Fatalf("%s: kept %+v", role, got)
		}
		if err := accept(im, r.release(t, 2)); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
	}
}

// A targets key that the new root no longer names must not vouch for anything, even for bytes accepted before.
func TestRotatedTargetsKeyDropsItsMetadata(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	im := newImage(t, r.rootDoc(t, 1))
	if err := accept(im, r.release(t, 1)); err != nil {
		t.Fatal(err)
	}
	r.targets = ecKey(t)
	if err := im.UpdateRoot(r.rootDoc(t, 2)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"policy/gw.json", "gw/1.2.0/rootfs"} {
		if _, _, ok := im.Target(path); ok {
			t.Fatalf("%s is still vouched for by a revoked key", path)
		}
	}
	if err := accept(im, r.release(t, 2)); err != nil {
		t.Fatal(err)
	}
}

// A client that slept through 300 rotations recovers in two calls.
func TestFollowsManyRotations(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	im := newImage(t, r.rootDoc(t, 1))
	var roots [][]byte
	for v := int64(2); v <= 300; v++ {
		roots = append(roots, r.rootDoc(t, v))
	}
	if err := im.UpdateRoot(roots[:256]...); err != nil {
		t.Fatal(err)
	}
	if err := im.UpdateRoot(roots[256:]...); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(im.State().Root), "300"; got != want {
		t.Fatalf("root %s, want %s", got, want)
	}
}
