package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// tile cuts a tile out of the tree, as a log of size leaves has it.
func (tr *tree) tile(level, index uint64, partial uint8) []byte {
	width := uint64(tlog.TileWidth)
	if partial > 0 {
		width = uint64(partial)
	}
	var b []byte
	for i := range width {
		h := tr.nodes[compact.NewNodeID(uint(level*8), index*tlog.TileWidth+i)]
		b = append(b, h[:]...)
	}
	return b
}

func TestReadsEveryNodeOutOfTiles(t *testing.T) {
	t.Parallel()
	const size = 256*256/16 + 300 // 4396: 17 full tiles and one partial, and one partial above
	tr := newTree(t, size)
	reads := map[string]int{}
	nodes := tlog.TileNodes(size, func(_ context.Context, level, index uint64, partial uint8) ([]byte, error) {
		reads[tlog.TilePath(level, index, partial)]++
		return tr.tile(level, index, partial), nil
	})
	for level := range uint(13) {
		for index := range uint64(size) >> level {
			got, err := nodes(t.Context(), level, index)
			if want := tr.nodes[compact.NewNodeID(level, index)]; err != nil || got != want {
				t.Fatalf("node %d of level %d: %s, %v; want %s", index, level, got, err, want)
			}
		}
	}
	if _, err := nodes(t.Context(), 0, size); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("leaf beyond the tree: got %v, want ErrProof", err)
	}
	if _, err := nodes(t.Context(), 60, 0); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("level 60: got %v, want ErrProof", err)
	}
	if reads["tile/1/000.p/17"] != 1 {
		t.Errorf("reads were %v", reads)
	}
	indices := []uint64{0, 255, 256, 4000, size - 1}
	hashes, err := tlog.Prove(t.Context(), size, indices, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tlog.RootOf(size, tr.leavesAt(indices), hashes); err != nil || got != tr.roots[size] {
		t.Errorf("proof from tiles: %s, %v; want %s", got, err, tr.roots[size])
	}
}

func TestNamesTilesAsTesseraDoes(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 1, 999, 1000, 1234067, 1 << 40} {
		for _, p := range []uint8{0, 1, 255} {
			if got, want := tlog.TilePath(3, n, p), layout.TilePath(3, n, p); got != want {
				t.Errorf("tile: got %q, want %q", got, want)
			}
			if got, want := tlog.EntriesPath(n, p), layout.EntriesPath(n, p); got != want {
				t.Errorf("entries: got %q, want %q", got, want)
			}
		}
	}
	for _, size := range []uint64{1, 255, 256, 257, 65535, 65536, 65537, 1 << 24} {
		for level := range uint64(4) {
			for _, index := range []uint64{0, 1, 255, 256} {
				if got, want := tlog.PartialOf(level, index, size), layout.PartialTileSize(level, index, size); got != want {
					t.Errorf("partial of %d/%d at %d: got %d, want %d", level, index, size, got, want)
				}
			}
		}
	}
}

// FuzzParseEntries holds the bundle parser against Tessera's: what both read is the same.
func FuzzParseEntries(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0}, 2)
	f.Add([]byte{0, 3, 'a', 'b'}, 1)
	f.Add(append([]byte{1, 0}, bytes.Repeat([]byte{7}, 256)...), 1)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		got, err := tlog.ParseEntries(b, width)
		if err != nil {
			if !errors.Is(err, tlog.ErrTile) {
				t.Fatalf("got %v, want ErrTile", err)
			}
			return
		}
		var theirs api.EntryBundle
		if err := theirs.UnmarshalText(b); err != nil || len(theirs.Entries) != len(got) {
			t.Fatalf("tessera reads %d entries, %v; we read %d", len(theirs.Entries), err, len(got))
		}
		for i := range got {
			if !bytes.Equal(got[i], theirs.Entries[i]) {
				t.Fatalf("entry %d is %x, tessera reads %x", i, got[i], theirs.Entries[i])
			}
		}
	})
}

func TestRefusesTilesOfAnotherLength(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := tlog.ParseHashes(make([]byte, n), 1); !errors.Is(err, tlog.ErrTile) {
			t.Errorf("%d bytes: got %v, want ErrTile", n, err)
		}
	}
	if _, err := tlog.ParseHashes(make([]byte, 257*digest.Size), 257); !errors.Is(err, tlog.ErrTile) {
		t.Errorf("257 hashes: got %v, want ErrTile", err)
	}
}
