package tilelog_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/store"
)

func (w *world) leaves(from, to int64) []tlog.Leaf {
	w.t.Helper()
	var out []tlog.Leaf
	for from <= to {
		page := must(w.store.Events(w.t.Context(), store.EventFilter{}, from-1, int(min(500, to-from+1))))
		for _, e := range page {
			out = append(out, tlog.Leaf{Index: uint64(e.Number - 1), Hash: tlog.LeafHash(e.Leaf)})
		}
		from += int64(len(page))
	}
	return out
}

func TestProvesEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(900)
	n := w.follow(t.TempDir())
	for _, span := range [][2]int64{{1, 1}, {1, 900}, {257, 512}, {300, 700}, {900, 900}} {
		leaves := w.leaves(span[0], span[1])
		p, err := n.Prove(t.Context(), leaves)
		if err != nil || p.State != api.LogUnwitnessed || p.UncoveredFrom != 0 {
			t.Fatalf("%v: got %+v, %v", span, p, err)
		}
		cp := w.checkpoint(p.Checkpoint, 900)
		if root, err := tlog.RootOf(cp.Size, leaves, p.Hashes); err != nil || root != cp.Root {
			t.Errorf("%v: the proof does not hold: %v", span, err)
		}
		if len(p.Hashes) > 24 {
			t.Errorf("%v: %d hashes", span, len(p.Hashes))
		}
	}
	if p, err := n.Prove(t.Context(), nil); err != nil || p.UncoveredFrom != 0 || len(p.Checkpoint) == 0 {
		t.Errorf("no events: got %+v, %v", p, err)
	}
}

// A report waits for the log to take in its events, while the log works on its own.
func TestProofWaitsForTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wait = time.Minute
	n := w.open(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	w.happen(100)
	p, err := n.Prove(t.Context(), w.leaves(1, 100)) // wakes the worker
	if err != nil || p.UncoveredFrom != 0 {
		t.Errorf("got %+v, %v, want all events covered", p, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w.happen(50) // nobody works any more
	w.wait = time.Millisecond
	n = w.follow(n.dir)
	w.happen(50)
	p, err = n.Prove(t.Context(), w.leaves(60, 200))
	if err != nil || p.UncoveredFrom != 151 {
		t.Errorf("got %+v, %v, want to be told that 151 is not covered", p, err)
	}
	leaves := w.leaves(60, 150)
	cp := w.checkpoint(p.Checkpoint, 150)
	if root, err := tlog.RootOf(150, leaves, p.Hashes); err != nil || root != cp.Root {
		t.Errorf("the proof of what is covered does not hold: %v", err)
	}
}

// A report over a row that was changed shows it, and the log stops.
func TestProofOfAChangedRowFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(600)
	db := &tampered{Store: w.store}
	n := w.openOn(t.TempDir(), db)
	n.Round(t.Context())
	db.number = 300
	leaves := w.leaves(1, 600)
	leaves[299].Hash = tlog.LeafHash([]byte("changed"))
	p, err := n.Prove(t.Context(), leaves)
	if err != nil || p.State != api.LogStopped {
		t.Fatalf("got %+v, %v, want the state %s", p, err, api.LogStopped)
	}
	cp := w.checkpoint(p.Checkpoint, 600)
	if root, err := tlog.RootOf(cp.Size, leaves, p.Hashes); err == nil && root == cp.Root {
		t.Error("the proof holds for a changed row")
	}
	n.Round(t.Context())
	w.wantStopped(n, "rows_differ")
}

func TestTilesAreServedUpToTheSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(600)
	n := w.follow(t.TempDir())
	for _, c := range []struct {
		level, index uint64
		partial      uint8
		bytes        int
	}{
		{0, 0, 0, 8192}, {0, 0, 5, 160}, {0, 1, 0, 8192}, {0, 2, 88, 2816}, {0, 2, 1, 32}, {1, 0, 2, 64}, {1, 0, 1, 32},
		{0, 2, 0, -1}, {0, 2, 89, -1}, {0, 3, 0, -1}, {1, 0, 0, -1}, {1, 0, 3, -1}, {2, 0, 1, -1}, {63, 0, 1, -1}, {0, 1 << 60, 0, -1},
	} {
		b, err := n.Tile(c.level, c.index, c.partial)
		if got := len(b); (c.bytes < 0) != errors.Is(err, os.ErrNotExist) || err == nil && got != c.bytes {
			t.Errorf("tile %d/%d.p/%d: got %d bytes, %v, want %d", c.level, c.index, c.partial, got, err, c.bytes)
		}
		if c.level > 0 {
			continue
		}
		b, err = n.Entries(c.index, c.partial)
		if (c.bytes < 0) != errors.Is(err, os.ErrNotExist) {
			t.Errorf("entries %d.p/%d: %v", c.index, c.partial, err)
		}
		if err == nil && len(must(tlog.ParseEntries(b, c.bytes/32))) != c.bytes/32 {
			t.Errorf("entries %d.p/%d are not %d", c.index, c.partial, c.bytes/32)
		}
	}
}
