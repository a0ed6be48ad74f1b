package tilelog_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/store"
)

func leaf(i int) []byte { return fmt.Appendf(nil, `{"v":1,"n":%d,"type":"verdict.affirmed"}`, i+1) }

func grown(t *testing.T, dir string, steps ...int) *tilelog.Tree {
	t.Helper()
	tree := must(tilelog.OpenTree(dir))
	n := 0
	for _, size := range steps {
		for ; n < size; n++ {
			if err := tree.Append(leaf(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// Its root is the one of transparency-dev/merkle at every size, before and after the files are read again.
func TestTreeHasTheRootsOfRFC6962(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree := must(tilelog.OpenTree(dir))
	oracle := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	roots := []digest.SHA256{digest.SHA256(rfc6962.DefaultHasher.EmptyRoot())}
	for n := range 700 {
		if err := tree.Append(leaf(n)); err != nil {
			t.Fatal(err)
		}
		if err := oracle.Append(rfc6962.DefaultHasher.HashLeaf(leaf(n)), nil); err != nil {
			t.Fatal(err)
		}
		roots = append(roots, digest.SHA256(must(oracle.GetRootHash(nil))))
		if n%13 == 0 {
			if err := tree.Flush(); err != nil {
				t.Fatal(err)
			}
			if tree = must(tilelog.OpenTree(dir)); tree.Root() != roots[n+1] {
				t.Fatalf("size %d, read again: got root %s, want %s", n+1, tree.Root(), roots[n+1])
			}
		}
		if tree.Root() != roots[n+1] {
			t.Fatalf("size %d: got root %s, want %s", n+1, tree.Root(), roots[n+1])
		}
	}
	if err := tree.Flush(); err != nil {
		t.Fatal(err)
	}
	for size, want := range roots {
		if got, err := tree.RootAt(t.Context(), uint64(size)); err != nil || got != want {
			t.Errorf("root at %d: got %s, %v, want %s", size, got, err, want)
		}
	}
}

// However the rows came in, the files are the same: no tile tells about the batches that made it.
func TestRebuiltTreeIsByteIdentical(t *testing.T) {
	t.Parallel()
	const size = 66_100 // three levels of tiles
	at := []int{1, 2, 255, 256, 257, 700, 1024, 65_535, 65_536, 65_537, 66_000, size}
	one, other := t.TempDir(), t.TempDir()
	a, b := grown(t, one, at...), grown(t, other, size)
	if a.Root() != b.Root() {
		t.Errorf("roots differ: %s and %s", a.Root(), b.Root())
	}
	if diff := cmp.Diff(files(t, one), files(t, other)); diff != "" {
		t.Errorf("files differ: %.2000s", diff)
	}
	oracle := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for n := range size { // what an auditor with an older checkpoint asks for
		if err := oracle.Append(rfc6962.DefaultHasher.HashLeaf(leaf(n)), nil); err != nil {
			t.Fatal(err)
		}
		if n < 65_530 || n > 65_540 && n != 65_800 {
			continue
		}
		if root, err := b.RootAt(t.Context(), uint64(n+1)); err != nil || root != digest.SHA256(must(oracle.GetRootHash(nil))) {
			t.Errorf("root at size %d: %s, %v", n+1, root, err)
		}
	}
}

// Tessera's own POSIX driver, fed the same leaves, writes the same tiles; its fsck accepts ours.
func TestTilesAreThoseOfTessera(t *testing.T) {
	t.Parallel()
	const size = 1000
	private, public, err := note.GenerateKey(nil, origin)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := t.TempDir(), t.TempDir()
	tree := grown(t, ours, 300, size)
	ctx, cancel := context.WithCancel(t.Context())
	driver := must(posix.New(ctx, posix.Config{Path: theirs}))
	options := tessera.NewAppendOptions().WithCheckpointSigner(must(note.NewSigner(private))).WithBatching(size, time.Minute).
		WithCheckpointInterval(100 * time.Millisecond).WithGarbageCollectionInterval(0)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		t.Fatal(err)
	}
	futures := make([]tessera.IndexFuture, size)
	for i := range futures {
		futures[i] = appender.Add(ctx, tessera.NewEntry(leaf(i)))
	}
	for i, f := range futures {
		if index := must(f()); index.Index != uint64(i) {
			t.Fatalf("tessera gave leaf %d the index %d", i, index.Index)
		}
	}
	if err := shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	checkpoint := must(reader.ReadCheckpoint(ctx))
	cancel()
	want := files(t, filepath.Join(theirs, "tile"))
	if diff := cmp.Diff(want, files(t, filepath.Join(ours, "tile"))); diff != "" {
		t.Errorf("tiles differ (-tessera +ours): %.2000s", diff)
	}
	if !strings.Contains(string(checkpoint), "\n1000\n") || must(tree.RootAt(t.Context(), size)) != tree.Root() {
		t.Errorf("checkpoint:\n%s", checkpoint)
	}
	if err := os.WriteFile(filepath.Join(ours, "checkpoint"), checkpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	check := fsck.New(origin, must(note.NewVerifier(public)), dirFetcher(ours), leafHashes, fsck.Opts{N: 1})
	if err := check.Check(t.Context()); err != nil {
		t.Errorf("tessera's fsck refuses our files: %v", err)
	}
}

// dirFetcher reads a log's directory as a mirror would.
type dirFetcher string

func (d dirFetcher) ReadCheckpoint(context.Context) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), "checkpoint"))
}

func (d dirFetcher) ReadTile(_ context.Context, level, index uint64, p uint8) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), tilePath(fmt.Sprint(level), index, p)))
}

func (d dirFetcher) ReadEntryBundle(_ context.Context, index uint64, p uint8) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), tilePath("entries", index, p)))
}

func tilePath(level string, index uint64, p uint8) string {
	name := fmt.Sprintf("tile/%s/%03d", level, index)
	if p > 0 {
		name += fmt.Sprintf(".p/%d", p)
	}
	return name
}

func leafHashes(bundle []byte) ([][]byte, error) {
	var out [][]byte
	for len(bundle) > 0 {
		n := int(binary.BigEndian.Uint16(bundle))
		out = append(out, rfc6962.DefaultHasher.HashLeaf(bundle[2:2+n]))
		bundle = bundle[2+n:]
	}
	return out, nil
}

// Cut off at any file, the tree goes on from what was durable and ends with the same bytes.
func TestTreeSurvivesACutAtEveryWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(300)
	base := t.TempDir()
	w.wantSigned(w.follow(base), 300)
	w.happen(500)
	want := copyDir(t, base)
	w.wantSigned(w.follow(want), 800)
	first := w.signedRow()
	for cut := 0; ; cut++ {
		dir := copyDir(t, base)
		n, left := w.open(dir), cut
		n.BeforeWrite(func(string) error {
			if left--; left < 0 {
				return errors.New("killed")
			}
			return nil
		})
		n.Round(t.Context())
		n.Close()
		again := w.follow(dir)
		w.wantSigned(again, 800)
		if diff := cmp.Diff(files(t, want), files(t, dir)); diff != "" {
			t.Fatalf("cut at write %d: %.1000s", cut, diff)
		}
		if err := again.Check(t.Context()); err != nil {
			t.Errorf("cut at write %d: %v", cut, err)
		}
		if left >= 0 {
			if cut < 8 {
				t.Errorf("only %d writes were cut", cut)
			}
			break
		}
	}
	if last := w.signedRow(); last.Version != first.Version {
		t.Errorf("the checkpoint of 800 leaves was signed %d times", last.Version-first.Version+1)
	}
}

// One changed byte in any file is found, wherever it is.
func TestOneChangedByteIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.happen(700)
	dir := t.TempDir()
	w.wantSigned(w.follow(dir), 700)
	all := files(t, dir)
	if len(all) < 8 {
		t.Fatalf("only %d files", len(all))
	}
	for name, content := range all {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			t.Parallel()
			copied := copyDir(t, dir)
			at := rand.N(len(content))
			changed := []byte(content)
			changed[at] ^= 1
			if err := os.WriteFile(filepath.Join(copied, name), changed, 0o600); err != nil {
				t.Fatal(err)
			}
			n := w.open(copied)
			n.Round(t.Context())
			err := n.Check(t.Context())
			if n.Status().Stopped == "" && err == nil {
				t.Errorf("byte %d of %s changed: not found", at, name)
			}
		})
	}
}

// The scrub climbs: a changed hash far from the right edge makes no root of today, and is found all the same.
func TestChangedHashAboveTheLeavesIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := &generated{Store: w.store, rows: 66_000}
	n := w.openOn(t.TempDir(), g)
	n.Round(t.Context())
	if err := n.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.dir, "tile/1/000")
	tile := must(os.ReadFile(path))
	tile[32*100] ^= 1
	if err := os.WriteFile(path, tile, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "hash 100 of tile 1/0") {
		t.Errorf("got %v, want hash 100 of tile 1/0", err)
	}
}

// generated is a database of any number of rows that takes no memory.
type generated struct {
	*store.Store
	rows int64
}

func (g *generated) Feed(context.Context) (int64, error) { return g.rows, nil }

func (g *generated) Events(_ context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error) {
	var out []store.StoredEvent
	for n := after + 1; n <= g.rows && len(out) < limit && len(f.Types) == 0; n++ {
		out = append(out, store.StoredEvent{Number: n, Leaf: leaf(int(n - 1))})
	}
	return out, nil
}

// The log's memory does not grow with the log.
func TestMemoryIsFlat(t *testing.T) {
	w := newWorld(t)
	g := &generated{Store: w.store}
	n := w.openOn(t.TempDir(), g)
	heap := func(rows int64) uint64 {
		g.rows = rows
		n.Round(t.Context())
		if s := n.Status(); s.Signed != rows {
			t.Fatalf("status: %+v, want %d signed; log:\n%s", s, rows, n.out)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	few, many := heap(5_000), heap(100_000)
	if many > few+2<<20 {
		t.Errorf("heap with 100000 rows: %d bytes, with 5000: %d", many, few)
	}
}
