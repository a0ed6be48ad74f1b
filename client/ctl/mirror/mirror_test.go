package mirror_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/ctl/mirror"
)

const origin = "ota.example/log"

// keys are a log's.
type keys struct {
	signer note.Signer
	policy tlog.Policy
}

func newKeys(t testing.TB) keys {
	t.Helper()
	secret, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return keys{signer, tlog.Policy{Version: 1, Origin: origin, LogKey: vkey, Witnesses: []tlog.Witness{}}}
}

// served is a log as a server shows it: files by path, so that a test can be a server that lies.
type served map[string][]byte

func (s served) Checkpoint(ctx context.Context) ([]byte, error) { return s.File(ctx, "checkpoint") }

func (s served) File(_ context.Context, path string) ([]byte, error) {
	b, ok := s[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return b, nil
}

func leavesOf(name string, common, n int) [][]byte {
	var out [][]byte
	for i := range n {
		if i < common {
			out = append(out, fmt.Appendf(nil, `{"n":%d}`, i+1))
		} else {
			out = append(out, fmt.Appendf(nil, `{"n":%d,"by":%q}`, i+1, name))
		}
	}
	return out
}

// serve lays the log out as C2SP tlog-tiles asks. Hashes of upper levels come from tlog, which has its own oracle.
func (k keys) serve(t testing.TB, leaves [][]byte) served {
	t.Helper()
	s := served{}
	size := uint64(len(leaves))
	hashes := make([]digest.SHA256, size)
	var all []tlog.Leaf
	for i, leaf := range leaves {
		hashes[i] = tlog.LeafHash(leaf)
		all = append(all, tlog.Leaf{Index: uint64(i), Hash: hashes[i]})
	}
	for index := uint64(0); index*tlog.TileWidth < size; index++ {
		var b []byte
		for _, leaf := range leaves[index*tlog.TileWidth : min(size, (index+1)*tlog.TileWidth)] {
			b = append(append(b, byte(len(leaf)>>8), byte(len(leaf))), leaf...)
		}
		s[tlog.EntriesPath(index, tlog.PartialOf(0, index, size))] = b
	}
	for level := uint64(0); len(hashes) > 0; level++ {
		var above []digest.SHA256
		for index := uint64(0); index*tlog.TileWidth < uint64(len(hashes)); index++ {
			tile := hashes[index*tlog.TileWidth : min(uint64(len(hashes)), (index+1)*tlog.TileWidth)]
			var b []byte
			var below []tlog.Leaf
			for i, h := range tile {
				b = append(b, h[:]...)
				below = append(below, tlog.Leaf{Index: uint64(i), Hash: h})
			}
			s[tlog.TilePath(level, index, tlog.PartialOf(level, index, size))] = b
			if len(tile) == tlog.TileWidth {
				h, err := tlog.RootOf(tlog.TileWidth, below, nil)
				if err != nil {
					t.Fatal(err)
				}
				above = append(above, h)
			}
		}
		hashes = above
	}
	root, err := tlog.RootOf(size, all, nil)
	if err != nil {
		t.Fatal(err)
	}
	s["checkpoint"] = k.checkpoint(t, size, root)
	return s
}

func (k keys) checkpoint(t testing.TB, size uint64, root digest.SHA256) []byte {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: tlog.CheckpointText(origin, size, root)}, k.signer)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func texts(r mirror.Result) string {
	var out []string
	for _, f := range r.Findings {
		at := "-"
		if f.Leaf != nil {
			at = fmt.Sprint(*f.Leaf)
		}
		out = append(out, at+": "+f.Text)
	}
	return strings.Join(out, "\n")
}

func TestAWholeLogIsWhole(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	for _, n := range []int{0, 1, 2, 255, 256, 257, 700, 65536 + 300} {
		leaves := leavesOf("a", n, n)
		s := k.serve(t, leaves)
		var olds []mirror.Old
		for _, m := range []int{0, 1, 256, 300, 65536, n} {
			if m <= n {
				olds = append(olds, mirror.Old{Name: fmt.Sprint("old ", m), Raw: k.serve(t, leaves[:m])["checkpoint"]})
			}
		}
		r, err := mirror.Check(t.Context(), s, mirror.Options{Policy: k.policy, Old: olds})
		if err != nil || !r.Whole() || r.Size != uint64(n) || len(r.Extends) != len(olds) {
			t.Errorf("%d leaves: %+v, %v\n%s", n, r, err, texts(r))
		}
	}
}

// The log that Tessera writes is whole, and one changed byte in any of its files is found.
func TestFindsOneChangedByteInATesseraLog(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	dir := t.TempDir()
	const n = 300
	writeTessera(t, k, dir, n)
	s := served{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		s[filepath.ToSlash(name)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := mirror.Check(t.Context(), s, mirror.Options{Policy: k.policy})
	if err != nil || !r.Whole() || r.Size != n {
		t.Fatalf("%+v, %v\n%s", r, err, texts(r))
	}
	for _, path := range []string{"tile/entries/000", "tile/entries/001.p/44", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"} {
		for _, at := range []int{0, len(s[path]) / 2, len(s[path]) - 1} {
			lie := maps.Clone(s)
			lie[path] = bytes.Clone(s[path])
			lie[path][at] ^= 1
			r, err := mirror.Check(t.Context(), lie, mirror.Options{Policy: k.policy})
			if err != nil || r.Whole() || r.Findings[0].Leaf == nil {
				t.Errorf("%s byte %d: %v, findings %q; want one with a leaf", path, at, err, texts(r))
			}
		}
	}
}

func writeTessera(t *testing.T, k keys, dir string, n int) {
	t.Helper()
	driver, err := posix.New(t.Context(), posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	appender, shutdown, _, err := tessera.NewAppender(t.Context(), driver, tessera.NewAppendOptions().WithCheckpointSigner(k.signer).WithBatching(64, 0).WithCheckpointInterval(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var last tessera.IndexFuture
	for _, leaf := range leavesOf("a", n, n) {
		last = appender.Add(t.Context(), tessera.NewEntry(leaf))
	}
	if _, err := last(); err != nil {
		t.Fatal(err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Each row is a server that lies. olds are what the auditor kept of the true history of 300 leaves.
func TestFindsRewrittenHistory(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	truth := leavesOf("a", 300, 300)
	kept := func(n int) mirror.Old {
		return mirror.Old{Name: fmt.Sprintf("kept-%d", n), Raw: k.serve(t, truth[:n])["checkpoint"]}
	}
	changed := func(at, n int) [][]byte {
		out := append([][]byte{}, truth[:n]...)
		out[at] = []byte(`{"n":0}`)
		return out
	}
	for _, c := range []struct {
		name string
		s    served
		olds []mirror.Old
		leaf string
		says string
	}{
		{"one leaf, all of the tree made again", k.serve(t, changed(17, 300)), []mirror.Old{kept(10), kept(200)}, "10", "kept-200 is not of this history"},
		{"rolled back", k.serve(t, truth[:200]), []mirror.Old{kept(300)}, "-", "history was rolled back"},
		{"rolled back and gone on", k.serve(t, leavesOf("b", 200, 310)), []mirror.Old{kept(100), kept(300)}, "100", "kept-300 is not of this history"},
		{"a fork of the same size", k.serve(t, leavesOf("b", 250, 300)), []mirror.Old{kept(300)}, "0", "kept-300 is not of this history"},
		{"a leaf left out", func() served {
			s := k.serve(t, append(append([][]byte{}, truth[:50]...), truth[51:]...))
			return s
		}(), []mirror.Old{kept(100)}, "0", "kept-100 is not of this history"},
		{"checkpoint of another tree", func() served {
			s := k.serve(t, truth)
			s["checkpoint"] = k.checkpoint(t, 300, digest.Of([]byte("x")))
			return s
		}(), []mirror.Old{kept(256)}, "-", "one of the leaves from 256 on"},
		{"a bundle is gone", func() served {
			s := k.serve(t, truth)
			delete(s, "tile/entries/001.p/44")
			return s
		}(), nil, "256", "tile/entries/001.p/44 is not there"},
		{"a tile is gone", func() served {
			s := k.serve(t, truth)
			delete(s, "tile/1/000.p/1")
			return s
		}(), nil, "0", "tile/1/000.p/1 is not there"},
		{"a bundle is too short", func() served {
			s := k.serve(t, truth)
			s["tile/entries/000"] = s["tile/entries/000"][:100]
			return s
		}(), nil, "0", "tile is not valid"},
		{"leaf and its hash changed", func() served {
			s, lie := k.serve(t, truth), k.serve(t, changed(17, 300))
			for _, path := range []string{"tile/entries/000", "tile/0/000"} {
				s[path] = lie[path]
			}
			return s
		}(), nil, "0", "tile/1/000.p/1 is not what the leaves make"},
	} {
		r, err := mirror.Check(t.Context(), c.s, mirror.Options{Policy: k.policy, Old: c.olds})
		if err != nil || r.Whole() || !strings.Contains(texts(r), c.says) || !strings.HasPrefix(texts(r), c.leaf+":") {
			t.Errorf("%s: %v, findings:\n%s\nwant %s: %s", c.name, err, texts(r), c.leaf, c.says)
		}
	}
}

// With a copy of the last run the first changed leaf is named, and the copy stays as it was.
func TestNamesTheFirstChangedLeaf(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	truth := leavesOf("a", 700, 700)
	dir := filepath.Join(t.TempDir(), "copy")
	for _, n := range []int{0, 300, 300, 512, 530} {
		if r, err := mirror.Check(t.Context(), k.serve(t, truth[:n]), mirror.Options{Policy: k.policy, Dir: dir}); err != nil || !r.Whole() {
			t.Fatalf("size %d: %v, %s", n, err, texts(r))
		}
	}
	for _, at := range []int{0, 255, 256, 511, 512, 529} {
		lie := append([][]byte{}, truth...)
		lie[at] = []byte(`{"n":0}`)
		r, err := mirror.Check(t.Context(), k.serve(t, lie), mirror.Options{Policy: k.policy, Dir: dir})
		if err != nil || r.Whole() || r.Findings[0].Leaf == nil || *r.Findings[0].Leaf != uint64(at) {
			t.Errorf("leaf %d: %v, findings %q", at, err, texts(r))
		}
	}
	if r, err := mirror.Check(t.Context(), k.serve(t, truth[:400]), mirror.Options{Policy: k.policy, Dir: dir}); err != nil || !strings.Contains(texts(r), "rolled back") {
		t.Errorf("rolled back: %v, findings %q", err, texts(r))
	}
	if r, err := mirror.Check(t.Context(), k.serve(t, truth), mirror.Options{Policy: k.policy, Dir: dir}); err != nil || !r.Whole() {
		t.Errorf("the truth afterwards: %v, %s", err, texts(r))
	}
	copied := served{}
	for path, b := range k.serve(t, truth) {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		if err != nil || !bytes.Equal(got, b) && path != "checkpoint" {
			t.Errorf("the copy's %s is %d bytes, %v; want %d", path, len(got), err, len(b))
		}
		copied[path] = got
	}
	if r, err := mirror.Check(t.Context(), copied, mirror.Options{Policy: k.policy}); err != nil || !r.Whole() {
		t.Errorf("the copy served: %v, %s", err, texts(r))
	}
}

// What only a crash or an attacker leaves in the copy is not believed.
func TestRefusesADamagedCopy(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	truth := leavesOf("a", 300, 300)
	for name, damage := range map[string]func(dir string) error{
		"no bundle":        func(dir string) error { return os.Remove(filepath.Join(dir, "tile", "entries", "000")) },
		"bundle cut":       func(dir string) error { return os.Truncate(filepath.Join(dir, "tile", "entries", "000"), 50) },
		"other checkpoint": func(dir string) error { return os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("x"), 0o600) },
	} {
		dir := t.TempDir()
		o := mirror.Options{Policy: k.policy, Dir: dir}
		if _, err := mirror.Check(t.Context(), k.serve(t, truth), o); err != nil {
			t.Fatal(err)
		}
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := mirror.Check(t.Context(), k.serve(t, truth), o); !errors.Is(err, mirror.ErrCopy) && !errors.Is(err, mirror.ErrOld) {
			t.Errorf("%s: got %v, want ErrCopy or ErrOld", name, err)
		}
	}
}

// A full tile may have taken the place of the partial one that the checkpoint asks for.
func TestTakesFullTilesForPartialOnes(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	truth := leavesOf("a", 600, 600)
	s := k.serve(t, truth)
	old := k.serve(t, truth[:300])
	s["checkpoint"] = old["checkpoint"]
	s["tile/1/000.p/1"] = old["tile/1/000.p/1"]
	if r, err := mirror.Check(t.Context(), s, mirror.Options{Policy: k.policy}); err != nil || !r.Whole() {
		t.Errorf("%v, %s", err, texts(r))
	}
}

func TestBelievesOnlyTheLogKeyOfThePolicy(t *testing.T) {
	t.Parallel()
	k, thief := newKeys(t), newKeys(t)
	s := k.serve(t, leavesOf("a", 5, 5))
	if _, err := mirror.Check(t.Context(), thief.serve(t, leavesOf("a", 5, 5)), mirror.Options{Policy: k.policy}); !errors.Is(err, tlog.ErrCheckpoint) {
		t.Errorf("another key: %v, want ErrCheckpoint", err)
	}
	old := mirror.Old{Name: "x", Raw: thief.serve(t, leavesOf("a", 5, 5))["checkpoint"]}
	if _, err := mirror.Check(t.Context(), s, mirror.Options{Policy: k.policy, Old: []mirror.Old{old}}); !errors.Is(err, mirror.ErrOld) {
		t.Errorf("another key's older checkpoint: %v, want ErrOld", err)
	}
	p := k.policy
	p.Witnesses = []tlog.Witness{{Name: "w", Key: "w1.example+867ccc0b+BIIfZ9ZWfxf0/6MaOVal6Dkf8buiRumfvfwzvJfp9bbL", URL: "https://w.example"}}
	p.Quorum = 1
	if r, err := mirror.Check(t.Context(), s, mirror.Options{Policy: p}); err != nil || !r.Whole() || r.Unwitnessed == "" {
		t.Errorf("no witness: %+v, %v", r, err)
	}
}

// FuzzFile: whatever bytes stand in place of a bundle, only the true ones make a whole log.
func FuzzFile(f *testing.F) {
	k := newKeys(f)
	s := k.serve(f, leavesOf("a", 3, 3))
	path := "tile/entries/000.p/3"
	f.Add(s[path][:10])
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		lie := maps.Clone(s)
		lie[path] = b
		r, err := mirror.Check(t.Context(), lie, mirror.Options{Policy: k.policy})
		if err != nil || r.Whole() != bytes.Equal(b, s[path]) {
			t.Fatalf("%v, whole %t\n%s", err, r.Whole(), texts(r))
		}
	})
}
