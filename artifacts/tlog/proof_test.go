package tlog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// tree is a log in memory. Its roots come from transparency-dev/merkle, never from the package under test.
type tree struct {
	leaves [][]byte
	nodes  map[compact.NodeID]digest.SHA256
	roots  []digest.SHA256 // by size
}

func newTree(t testing.TB, n int) *tree {
	t.Helper()
	tr := &tree{nodes: map[compact.NodeID]digest.SHA256{}, roots: []digest.SHA256{tlog.EmptyRoot()}}
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range n {
		leaf := fmt.Appendf(nil, "event %d", i)
		tr.leaves = append(tr.leaves, leaf)
		keep := func(id compact.NodeID, h []byte) { tr.nodes[id] = digest.SHA256(h) }
		h := rfc6962.DefaultHasher.HashLeaf(leaf)
		keep(compact.NewNodeID(0, uint64(i)), h)
		if err := r.Append(h, keep); err != nil {
			t.Fatal(err)
		}
		root, err := r.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		tr.roots = append(tr.roots, digest.SHA256(root))
	}
	return tr
}

// at reads the nodes of the tree as it was with size leaves; a node that was not complete then is an error.
func (tr *tree) at(size uint64) tlog.NodeReader {
	return func(_ context.Context, level uint, index uint64) (digest.SHA256, error) {
		if (index+1)<<level > size {
			return digest.SHA256{}, fmt.Errorf("node %d of level %d is beyond size %d", index, level, size)
		}
		return tr.nodes[compact.NewNodeID(level, index)], nil
	}
}

func (tr *tree) leavesAt(indices []uint64) []tlog.Leaf {
	var out []tlog.Leaf
	for _, i := range indices {
		out = append(out, tlog.Leaf{Index: i, Hash: tlog.LeafHash(tr.leaves[i])})
	}
	return out
}

func TestProvesEverySetOfLeavesOfASmallTree(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 9)
	for size := range uint64(10) {
		for set := range uint64(1) << size {
			var indices []uint64
			for i := range size {
				if set>>i&1 == 1 {
					indices = append(indices, i)
				}
			}
			hashes, err := tlog.Prove(t.Context(), size, indices, tr.at(size))
			if err != nil {
				t.Fatal(err)
			}
			got, err := tlog.RootOf(size, tr.leavesAt(indices), hashes)
			if err != nil || got != tr.roots[size] {
				t.Fatalf("size %d, leaves %v: root %s, %v; want %s", size, indices, got, err, tr.roots[size])
			}
		}
	}
}

func TestProvesLeavesOfLargerTrees(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 1500)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		size := 1 + rnd.Uint64N(1500)
		var indices []uint64
		for i, odds := uint64(0), 1+rnd.Uint64N(size); i < size; i++ {
			if rnd.Uint64N(odds) == 0 {
				indices = append(indices, i)
			}
		}
		hashes, err := tlog.Prove(t.Context(), size, indices, tr.at(size))
		if err != nil {
			t.Fatal(err)
		}
		leaves := tr.leavesAt(indices)
		if got, err := tlog.RootOf(size, leaves, hashes); err != nil || got != tr.roots[size] {
			t.Fatalf("size %d, %d leaves: root %s, %v; want %s", size, len(leaves), got, err, tr.roots[size])
		}
		if len(leaves) > 0 {
			leaves[rnd.IntN(len(leaves))].Hash[3] ^= 1
			if got, err := tlog.RootOf(size, leaves, hashes); err != nil || got == tr.roots[size] {
				t.Fatalf("size %d: a changed leaf still makes the root (%v)", size, err)
			}
		}
	}
}

// For one leaf the proof has the same hashes as an inclusion proof of RFC 6962, in another order.
func TestProofOfOneLeafIsAnInclusionProof(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 133)
	for index := range uint64(133) {
		hashes, err := tlog.Prove(t.Context(), 133, []uint64{index}, tr.at(133))
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := proof.Inclusion(index, 133)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(hashes), len(nodes.IDs); got > want || got < 1 {
			t.Errorf("leaf %d: %d hashes, the inclusion proof is made of %d nodes", index, got, want)
		}
	}
}

func TestRefusesMoreOrFewerHashesThanAProofHas(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 100)
	indices := []uint64{3, 4, 77}
	hashes, err := tlog.Prove(t.Context(), 100, indices, tr.at(100))
	if err != nil {
		t.Fatal(err)
	}
	leaves := tr.leavesAt(indices)
	for name, call := range map[string]func() (digest.SHA256, error){
		"one more": func() (digest.SHA256, error) {
			return tlog.RootOf(100, leaves, append(slices.Clone(hashes), hashes[0]))
		},
		"one less":        func() (digest.SHA256, error) { return tlog.RootOf(100, leaves, hashes[1:]) },
		"none":            func() (digest.SHA256, error) { return tlog.RootOf(100, leaves, nil) },
		"leaf twice":      func() (digest.SHA256, error) { return tlog.RootOf(100, append(leaves[:1:1], leaves...), hashes) },
		"leaf outside":    func() (digest.SHA256, error) { return tlog.RootOf(77, leaves, hashes) },
		"empty tree":      func() (digest.SHA256, error) { return tlog.RootOf(0, nil, hashes) },
		"too large":       func() (digest.SHA256, error) { return tlog.RootOf(1<<63, leaves, hashes) },
		"index backwards": func() (digest.SHA256, error) { return tlog.RootOf(100, []tlog.Leaf{leaves[1], leaves[0]}, hashes) },
	} {
		if _, err := call(); !errors.Is(err, tlog.ErrProof) {
			t.Errorf("%s: got %v, want ErrProof", name, err)
		}
	}
	for _, bad := range [][]uint64{{4, 3}, {4, 4}, {100}} {
		if _, err := tlog.Prove(t.Context(), 100, bad, tr.at(100)); !errors.Is(err, tlog.ErrProof) {
			t.Errorf("Prove(%v): got %v, want ErrProof", bad, err)
		}
	}
}

func TestConsistencyHoldsForEveryPairOfSizes(t *testing.T) {
	t.Parallel()
	const n = 70
	tr := newTree(t, n)
	for newSize := range uint64(n + 1) {
		for oldSize := range newSize + 1 {
			hashes, err := tlog.ProveConsistency(t.Context(), oldSize, newSize, tr.at(newSize))
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.VerifyConsistency(oldSize, newSize, tr.roots[oldSize], tr.roots[newSize], hashes); err != nil {
				t.Fatalf("from %d to %d: %v", oldSize, newSize, err)
			}
			if oldSize == 0 {
				continue
			}
			fork := tr.roots[oldSize]
			fork[0] ^= 1
			if err := tlog.VerifyConsistency(oldSize, newSize, fork, tr.roots[newSize], hashes); !errors.Is(err, tlog.ErrProof) {
				t.Fatalf("from a fork of %d to %d: got %v, want ErrProof", oldSize, newSize, err)
			}
		}
	}
	if err := tlog.VerifyConsistency(0, 5, digest.Of([]byte("x")), tr.roots[5], nil); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("from an empty tree with another root: got %v, want ErrProof", err)
	}
	if _, err := tlog.ProveConsistency(t.Context(), 5, 4, tr.at(5)); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("from 5 to 4: got %v, want ErrProof", err)
	}
}

// FuzzRootOf: whatever the proof, RootOf ends, and it reaches the root only with the leaves of the tree.
func FuzzRootOf(f *testing.F) {
	tr := newTree(f, 300)
	hashes, err := tlog.Prove(f.Context(), 300, []uint64{7, 250}, tr.at(300))
	if err != nil {
		f.Fatal(err)
	}
	var flat []byte
	for _, h := range hashes {
		flat = append(flat, h[:]...)
	}
	f.Add(uint64(300), uint64(7), uint64(250), flat)
	f.Add(uint64(1)<<53, uint64(0), uint64(1), flat)
	f.Add(uint64(0), uint64(0), uint64(0), []byte{})
	f.Fuzz(func(t *testing.T, size, a, b uint64, flat []byte) {
		var hashes []digest.SHA256
		for len(flat) >= digest.Size {
			hashes, flat = append(hashes, digest.SHA256(flat[:digest.Size])), flat[digest.Size:]
		}
		leaves := []tlog.Leaf{{Index: a, Hash: tlog.LeafHash([]byte("forged"))}, {Index: b, Hash: tlog.LeafHash([]byte("event 250"))}}
		root, err := tlog.RootOf(size, leaves, hashes)
		if err == nil && slices.Contains(tr.roots, root) {
			t.Fatalf("a forged leaf %d is proven at size %d", a, size)
		}
		if err != nil && !errors.Is(err, tlog.ErrProof) {
			t.Fatalf("got %v, want ErrProof", err)
		}
		_ = tlog.VerifyConsistency(a, size, tr.roots[1], tr.roots[2], hashes)
	})
}
