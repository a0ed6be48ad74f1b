package tilelog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/store"
)

const origin = "fleet.example/audit"

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is a database, a key and a clock.
type world struct {
	t      *testing.T
	dsn    string
	store  *store.Store
	key    *tilelog.Key
	policy atomic.Pointer[[]byte]
	clock  atomic.Int64 // since noon
	n      int          // events so far
	wait   time.Duration
}

func (w *world) now() time.Time        { return noon.Add(time.Duration(w.clock.Load())) }
func (w *world) pass(by time.Duration) { w.clock.Add(int64(by)) }

func newKey(t *testing.T) *tilelog.Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return must(tilelog.NewKey(origin, private))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, "sqlite:"+filepath.Join(t.TempDir(), "cordon.db"))
}

func newWorldAt(t *testing.T, dsn string) *world {
	t.Helper()
	w := &world{t: t, dsn: dsn, key: newKey(t)}
	w.store = openStore(t, dsn)
	return w
}

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// onEach runs a test on both engines.
func onEach(t *testing.T, run func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); run(t, newWorld(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); run(t, newWorldAt(t, parts.TestPostgres(t))) })
}

// happen commits that many events.
func (w *world) happen(n int) {
	w.t.Helper()
	for n > 0 {
		var c store.Change
		for range min(n, 500) {
			w.n++
			c.Events = append(c.Events, store.Event{
				At: w.now(), Type: audit.VerdictAffirmed, Actor: "server", Subject: fmt.Sprint("device-", w.n%7), Data: map[string]any{"i": w.n},
			})
		}
		if err := w.store.Commit(w.t.Context(), c); err != nil {
			w.t.Fatal(err)
		}
		n -= len(c.Events)
	}
}

func (w *world) event(kind string) {
	w.t.Helper()
	w.n++
	if err := w.store.Commit(w.t.Context(), store.Change{Events: []store.Event{{At: w.now(), Type: kind, Actor: "server", Subject: "server"}}}); err != nil {
		w.t.Fatal(err)
	}
}

// node is one replica's log and what it wrote to its server log.
type node struct {
	*tilelog.Log
	dir string
	out *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (w *world) open(dir string) *node { return w.openOn(dir, w.store) }

func (w *world) openOn(dir string, s tilelog.Store) *node {
	out := &lockedBuffer{}
	l := tilelog.New(tilelog.Config{
		Store: s, Dir: dir, Key: w.key, Every: time.Hour, Wait: w.wait, Now: w.now, Log: slog.New(slog.NewTextHandler(out, nil)),
		Policy: func() []byte {
			if p := w.policy.Load(); p != nil {
				return *p
			}
			return nil
		},
	})
	w.t.Cleanup(l.Close)
	return &node{Log: l, dir: dir, out: out}
}

// follow opens a log on the directory and has it do one round.
func (w *world) follow(dir string) *node {
	w.t.Helper()
	n := w.open(dir)
	n.Round(w.t.Context())
	return n
}

func (w *world) wantSigned(n *node, size int) tlog.Checkpoint {
	w.t.Helper()
	if s := n.Status(); s.Stopped != "" || s.Signed != int64(size) {
		w.t.Fatalf("status: got %+v, want %d signed leaves; log:\n%s", s, size, n.out)
	}
	raw, err := n.Checkpoint(w.t.Context())
	if err != nil {
		w.t.Fatalf("Checkpoint: %v", err)
	}
	return w.checkpoint(raw, size)
}

func (w *world) checkpoint(raw []byte, size int) tlog.Checkpoint {
	w.t.Helper()
	cp, err := tlog.OpenLogCheckpoint(raw, w.key.Verifier())
	if err != nil || cp.Size != uint64(size) {
		w.t.Fatalf("checkpoint: got size %d, %v, want %d", cp.Size, err, size)
	}
	if root := w.rootOfRows(size); cp.Root != root {
		w.t.Fatalf("checkpoint of %d leaves: got root %s, the rows make %s", size, cp.Root, root)
	}
	return cp
}

func (w *world) wantStopped(n *node, cause string) {
	w.t.Helper()
	if got := n.Status().Stopped; got != cause {
		w.t.Errorf("stopped: got %q, want %q; log:\n%s", got, cause, n.out)
	}
	events := must(w.store.Events(w.t.Context(), store.EventFilter{Types: []string{audit.LogStopped}}, 0, 10))
	if len(events) == 0 || !strings.Contains(string(events[len(events)-1].Leaf), fmt.Sprintf("%q:%q", "cause", cause)) {
		w.t.Errorf("no event tells about the stop: %v", events)
	}
	if !strings.Contains(n.out.String(), "level=ERROR") || !strings.Contains(n.out.String(), cause) {
		w.t.Errorf("the server's log does not shout:\n%s", n.out)
	}
}

// rootOfRows computes the root in another way than the log does: from all leaves at once.
func (w *world) rootOfRows(size int) (root [32]byte) {
	w.t.Helper()
	var leaves []tlog.Leaf
	for len(leaves) < size {
		page := must(w.store.Events(w.t.Context(), store.EventFilter{}, int64(len(leaves)), min(1000, size-len(leaves))))
		if len(page) == 0 {
			w.t.Fatalf("the database has %d rows, want %d", len(leaves), size)
		}
		for _, e := range page {
			leaves = append(leaves, tlog.Leaf{Index: uint64(len(leaves)), Hash: tlog.LeafHash(e.Leaf)})
		}
	}
	return must(tlog.RootOf(uint64(size), leaves, nil))
}

// signedRow is the newest signed checkpoint in the database.
func (w *world) signedRow() store.Checkpoint {
	w.t.Helper()
	return must(w.store.Checkpoint(w.t.Context(), w.key.ID()+tilelog.SignedRow))
}

// files reads everything below a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		out[must(filepath.Rel(dir, path))] = string(must(os.ReadFile(path)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// backup copies the SQLite database as it is now, and returns a world on the copy with the same key.
func (w *world) backup() *world {
	w.t.Helper()
	if err := w.store.Close(); err != nil {
		w.t.Fatal(err)
	}
	from := strings.TrimPrefix(w.dsn, "sqlite:")
	to := filepath.Join(w.t.TempDir(), "backup.db")
	if err := os.WriteFile(to, must(os.ReadFile(from)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.store = openStore(w.t, w.dsn)
	other := &world{t: w.t, dsn: "sqlite:" + to, key: w.key, n: w.n}
	other.store = openStore(w.t, other.dsn)
	other.policy.Store(w.policy.Load())
	other.clock.Store(w.clock.Load())
	return other
}

// recorder keeps every checkpoint that became durable.
type recorder struct {
	*store.Store
	mu           sync.Mutex
	notes        [][]byte
	beforeCommit func(store.Change) error
}

func (r *recorder) Commit(ctx context.Context, c store.Change) error {
	if r.beforeCommit != nil {
		if err := r.beforeCommit(c); err != nil {
			return err
		}
	}
	err := r.Store.Commit(ctx, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, write := range c.Writes {
		if p, ok := write.(store.PutCheckpoint); ok && err == nil {
			r.notes = append(r.notes, p.Checkpoint.Note)
		}
	}
	return err
}
