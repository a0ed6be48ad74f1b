package tilelog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/store"
)

func TestFollowsTheRows(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		n := w.follow(dir)
		if _, err := n.Checkpoint(t.Context()); !errors.Is(err, tilelog.ErrNotYet) {
			t.Errorf("checkpoint of a log without events: got %v, want %v", err, tilelog.ErrNotYet)
		}
		size := 0
		for _, more := range []int{1, 1, 253, 1, 1, 300, 600} {
			w.happen(more)
			size += more
			n.Round(t.Context())
			w.wantSigned(n, size)
			n.Round(t.Context())
			if v := w.signedRow().Version; v > 7 {
				t.Errorf("a log that did not grow was signed again: version %d", v)
			}
		}
		n.Close()
		n = w.follow(dir) // started again
		w.wantSigned(n, size)
		if err := n.Check(t.Context()); err != nil {
			t.Error(err)
		}
		empty := w.follow(t.TempDir()) // a lost directory
		w.wantSigned(empty, size)
		if diff := cmp.Diff(files(t, dir), files(t, empty.dir)); diff != "" {
			t.Errorf("rebuilt directory differs: %.1000s", diff)
		}
	})
}

// Killed between any two of: tiles, checkpoint row, checkpoint on disk. Each mix of old and new goes on to the same log,
// except for a database that is older than the directory.
func TestEveryMixOfOldAndNewGoesOnOrStops(t *testing.T) {
	t.Parallel()
	for mix := range 8 {
		oldTiles, oldRow, oldDisk := mix&1 != 0, mix&2 != 0, mix&4 != 0
		t.Run(fmt.Sprintf("oldTiles=%v,oldRow=%v,oldDisk=%v", oldTiles, oldRow, oldDisk), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := t.TempDir()
			w.happen(400)
			n := w.follow(dir)
			w.wantSigned(n, 400)
			before, row := copyDir(t, dir), w.signedRow()
			w.happen(400)
			n.Round(t.Context())
			w.wantSigned(n, 800)
			n.Close()
			want := files(t, dir)
			mixed := copyDir(t, dir)
			if oldTiles {
				mixed = copyDir(t, before)
			}
			from := dir
			if oldDisk {
				from = before
			}
			if err := os.WriteFile(filepath.Join(mixed, "checkpoint"), must(os.ReadFile(filepath.Join(from, "checkpoint"))), 0o600); err != nil {
				t.Fatal(err)
			}
			if oldRow {
				if err := w.store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutCheckpoint{Checkpoint: row}}}); err != nil {
					t.Fatal(err)
				}
			}
			n = w.follow(mixed)
			if oldRow && !oldDisk {
				w.wantStopped(n, "rows_behind")
				return
			}
			w.wantSigned(n, 800)
			if diff := cmp.Diff(want, files(t, mixed)); diff != "" {
				t.Errorf("files differ: %.1000s", diff)
			}
		})
	}
}

// A database that was restored from a backup has lost what the directory still has.
func TestRolledBackDatabaseStopsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(300)
	dir := t.TempDir()
	n := w.follow(dir)
	w.wantSigned(n, 300)
	old := w.backup()
	w.happen(100)
	n.Close()
	n = w.follow(dir)
	w.wantSigned(n, 400)
	n.Close()
	for more, name := range map[int]string{0: "shorter", 200: "longer"} {
		copied := copyDir(t, dir)
		old.happen(more)
		before := old.signedRow()
		n := old.follow(copied)
		if got := n.Status().Stopped; got != "rows_behind" && got != "rows_differ" {
			t.Errorf("%s: stopped %q; log:\n%s", name, got, n.out)
		}
		old.wantStopped(n, n.Status().Stopped)
		if old.signedRow().Version != before.Version {
			t.Errorf("%s: the key signed another history", name)
		}
	}
	// While the server runs: the rows end before the log.
	w.happen(1)
	g := &generated{Store: w.store, rows: 500}
	n = w.openOn(t.TempDir(), g)
	n.Round(t.Context())
	g.rows = 400
	n.Round(t.Context())
	if got := n.Status().Stopped; got == "" {
		t.Error("a log that is ahead of the rows goes on")
	}
}

// An older directory is only behind.
func TestRolledBackDirectoryIsBuiltAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(300)
	dir := t.TempDir()
	n := w.follow(dir)
	old := copyDir(t, dir)
	w.happen(500)
	n.Round(t.Context())
	w.wantSigned(n, 800)
	n.Close()
	again := w.follow(old)
	w.wantSigned(again, 800)
	if diff := cmp.Diff(files(t, dir), files(t, old)); diff != "" {
		t.Errorf("files differ: %.1000s", diff)
	}
	if v := w.signedRow().Version; v != 2 {
		t.Errorf("signed %d times, want 2", v)
	}
}

// A row that somebody changes after it became a leaf is found: by the next look at its bundle, and by a report.
func TestChangedRowIsFound(t *testing.T) {
	t.Parallel()
	for _, number := range []int64{1, 200, 513, 700} {
		t.Run(fmt.Sprint(number), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.happen(700)
			n := w.openOn(t.TempDir(), &tampered{Store: w.store, number: 0})
			n.Round(t.Context())
			w.wantSigned(n, 700)
			n.Close()
			// A replica that only follows builds from the changed rows, and does not reach the signed root.
			follower := w.openOn(t.TempDir(), &tampered{Store: w.store, number: number})
			follower.Round(t.Context())
			w.wantStopped(follower, "checkpoint_differs")
			bad := w.openOn(n.dir, &tampered{Store: w.store, number: number})
			for range 4 {
				bad.Round(t.Context())
				w.pass(tilelog.ScrubEvery)
			}
			w.wantStopped(bad, "rows_differ")
			if !strings.Contains(bad.out.String(), fmt.Sprintf("the row of event %d is not", number)) {
				t.Errorf("the row is not named:\n%s", bad.out)
			}
		})
	}
}

// Whoever changes row and leaf alike has the hashes against them.
func TestChangedRowAndLeafAreFound(t *testing.T) {
	t.Parallel()
	for _, number := range []int64{1, 600} { // in a full bundle, and in the last one
		w := newWorld(t)
		w.happen(700)
		dir := t.TempDir()
		n := w.follow(dir)
		w.wantSigned(n, 700)
		n.Close()
		bundle := filepath.Join(dir, tilePath("entries", uint64(number-1)/256, map[bool]uint8{true: 0, false: 700 % 256}[number < 513]))
		leaf := must(w.store.Events(t.Context(), store.EventFilter{}, number-1, 1))[0].Leaf
		changed := strings.Replace(string(must(os.ReadFile(bundle))), string(leaf), strings.Replace(string(leaf), "affirmed", "afflrmed", 1), 1)
		if err := os.WriteFile(bundle, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		bad := w.openOn(dir, &tampered{Store: w.store, number: number})
		bad.Round(t.Context())
		w.wantStopped(bad, "tiles_damaged")
	}
}

// tampered is a database in which one row was changed.
type tampered struct {
	*store.Store
	number int64
}

func (d *tampered) Events(ctx context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error) {
	events, err := d.Store.Events(ctx, f, after, limit)
	for i, e := range events {
		if e.Number == d.number {
			events[i].Leaf = []byte(strings.Replace(string(e.Leaf), "affirmed", "afflrmed", 1))
		}
	}
	return events, err
}

// leafNode reads nodes of the tree of leaf without any tile.
func leafNode(ctx context.Context, level uint, index uint64) (digest.SHA256, error) {
	if level == 0 {
		return tlog.LeafHash(leaf(int(index))), nil
	}
	return tlog.NodeHash(must(leafNode(ctx, level-1, 2*index)), must(leafNode(ctx, level-1, 2*index+1))), nil
}

// The key signs nothing but extensions, whoever asks.
func TestKeyRefusesToFork(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	small, large := grown(t, t.TempDir(), 5), grown(t, t.TempDir(), 9)
	first, err := key.Sign(5, small.Root(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	proof := must(tlog.ProveConsistency(t.Context(), 5, 9, leafNode))
	if _, err := key.Sign(9, large.Root(), first, proof); err != nil {
		t.Errorf("an extension: %v", err)
	}
	if _, err := key.Sign(5, small.Root(), first, nil); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for name, try := range map[string]func() ([]byte, error){
		"another root of the same size": func() ([]byte, error) { return key.Sign(5, large.Root(), first, nil) },
		"shorter":                       func() ([]byte, error) { return key.Sign(4, small.Root(), first, nil) },
		"no proof":                      func() ([]byte, error) { return key.Sign(9, large.Root(), first, nil) },
		"proof of another root":         func() ([]byte, error) { return key.Sign(9, small.Root(), first, proof) },
		"a last one of another key":     func() ([]byte, error) { return newKey(t).Sign(9, large.Root(), first, proof) },
		"a last one that was changed": func() ([]byte, error) {
			return key.Sign(9, large.Root(), []byte(strings.Replace(string(first), "5", "4", 1)), proof)
		},
	} {
		if _, err := try(); !errors.Is(err, tilelog.ErrFork) {
			t.Errorf("%s: got %v, want %v", name, err, tilelog.ErrFork)
		}
	}
}

// A server with a restored database signs nothing under the old key: what was signed after the backup is not known.
func TestRestoredDatabaseEndsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(300)
	dir := t.TempDir()
	w.wantSigned(w.follow(dir), 300)
	w.event(audit.ServerRestored)
	w.happen(10)
	w.pass(2 * tilelog.LeaseTime)
	empty := w.follow(t.TempDir())
	w.wantStopped(empty, "restored")
	if row := w.signedRow(); row.Size != 300 {
		t.Errorf("signed %d leaves", row.Size)
	}
	w.pass(2 * tilelog.LeaseTime)
	w.key = newKey(t) // the documented step: a new log, with every row there is
	w.wantSigned(w.follow(t.TempDir()), must2(w.store.Feed(t.Context())))
}

func must2(n int64, err error) int { return int(must(n, err)) }

// What a killed process was just writing is cleared up.
func TestUnfinishedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(10)
	dir := t.TempDir()
	n := w.follow(dir)
	w.wantSigned(n, 10)
	n.Close()
	want := files(t, dir)
	if err := os.WriteFile(filepath.Join(dir, ".new-123"), []byte("hal"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wantSigned(w.follow(dir), 10)
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("files differ: %s", diff)
	}
}

// A disk that is full stops the log alone. Events go on, and the log catches up when there is room.
func TestFullDiskDisturbsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(300)
	n := w.follow(t.TempDir())
	w.wantSigned(n, 300)
	n.BeforeWrite(func(string) error { return syscall.ENOSPC })
	for range 3 {
		w.happen(100) // fails the test if a commit does
		n.Round(t.Context())
	}
	if s := n.Status(); s.Stopped != "" || s.Signed != 300 || s.Rows != 600 || s.Lag() != 300 {
		t.Errorf("status: %+v, want a lag of 300 and no stop", s)
	}
	if got := strings.Count(n.out.String(), "level=WARN"); got != 1 {
		t.Errorf("%d warnings for one cause:\n%s", got, n.out)
	}
	n.BeforeWrite(nil)
	n.Round(t.Context())
	w.wantSigned(n, 600)
}

func TestDirectoryThatIsInUseIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(10)
	dir := t.TempDir()
	n := w.follow(dir)
	w.wantSigned(n, 10)
	second := w.follow(dir)
	if s := second.Status(); s.Size != 0 || !strings.Contains(second.out.String(), "another process uses") {
		t.Errorf("status %+v; log:\n%s", s, second.out)
	}
}

// Two replicas, the lock lost between the decision and the commit: only one of the two checkpoints comes to life.
func TestLostLockMakesNoFork(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.happen(300)
		slow, fast := &recorder{Store: w.store}, &recorder{Store: openStore(t, w.dsn)}
		a, b := w.openOn(t.TempDir(), slow), w.openOn(t.TempDir(), fast)
		a.Round(t.Context())
		w.wantSigned(a, 300)
		b.Round(t.Context())
		if len(fast.notes) != 0 {
			t.Fatal("two replicas sign at the same time")
		}
		w.happen(10)
		slow.beforeCommit = func(c store.Change) error {
			slow.beforeCommit = nil
			w.pass(2 * tilelog.LeaseTime) // a long pause; the other one takes over
			w.happen(10)
			b.Round(t.Context())
			w.wantSigned(b, 320)
			return nil
		}
		a.Round(t.Context())
		if len(slow.notes) != 1 || len(fast.notes) != 1 {
			t.Errorf("signed %d and %d times, want once each", len(slow.notes), len(fast.notes))
		}
		w.happen(10)
		a.Round(t.Context()) // follows the other one's checkpoint
		w.wantSigned(a, 320)
		b.Round(t.Context())
		w.wantSigned(b, 330)
		a.Round(t.Context())
		w.wantSigned(a, 330)
		for _, raw := range append(slow.notes, fast.notes...) {
			cp := must(tlog.OpenLogCheckpoint(raw, w.key.Verifier()))
			w.checkpoint(raw, int(cp.Size))
		}
		if diff := cmp.Diff(files(t, a.dir), files(t, b.dir)); diff != "" {
			t.Errorf("replicas differ: %.1000s", diff)
		}
	})
}

// Replicas at once, with leases that end at the worst time and events all the while: one history.
func TestReplicasSignOneHistory(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		var replicas []*recorder
		var nodes []*node
		for range 3 {
			r := &recorder{Store: openStore(t, w.dsn)}
			replicas, nodes = append(replicas, r), append(nodes, w.openOn(t.TempDir(), r))
		}
		var group sync.WaitGroup
		for i, n := range nodes {
			group.Go(func() {
				for range 25 {
					n.Round(t.Context())
					if i == 0 {
						w.happen(1 + rand.N(40))
					}
					w.pass(tilelog.LeaseTime / 3)
				}
			})
		}
		group.Wait()
		for range 2 {
			for _, n := range nodes {
				w.pass(2 * tilelog.LeaseTime)
				n.Round(t.Context())
			}
		}
		signed := 0
		for i, n := range nodes {
			w.wantSigned(n, w.n)
			signed += len(replicas[i].notes)
			for _, raw := range replicas[i].notes {
				cp := must(tlog.OpenLogCheckpoint(raw, w.key.Verifier()))
				w.checkpoint(raw, int(cp.Size))
			}
		}
		if row := w.signedRow(); row.Version != int64(signed) {
			t.Errorf("%d checkpoints were signed, the row has version %d", signed, row.Version)
		}
	})
}
