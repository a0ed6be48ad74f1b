package tlog

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// NodeReader returns the hash of a complete subtree: the node at a level (0: leaf hashes) with 2^level leaves, from leaf
// index<<level on. It is asked only for nodes whose leaves are all in the tree that is proven.
type NodeReader func(ctx context.Context, level uint, index uint64) (digest.SHA256, error)

// Leaf is one leaf of a tree: its index from 0, and LeafHash of its bytes.
type Leaf struct {
	Index uint64
	Hash  digest.SHA256
}

// Prove returns the fewest subtree hashes that, together with the leaves at indices (rising, none twice), make the root
// of the tree of size leaves, in the order of the leaves that they stand for. RootOf reads them. For one index it has the
// hashes of an RFC 6962 inclusion proof, for no index the root itself. It returns ErrProof for indices out of order or out
// of the tree.
func Prove(ctx context.Context, size uint64, indices []uint64, node NodeReader) ([]digest.SHA256, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("%w: size %d is too large", ErrProof, size)
	}
	for i, index := range indices {
		if index >= size || (i > 0 && index <= indices[i-1]) {
			return nil, fmt.Errorf("%w: leaf indices must rise and be below the size %d", ErrProof, size)
		}
	}
	if size == 0 {
		return nil, nil
	}
	p := prover{ctx: ctx, node: node}
	err := p.prove(0, size, indices)
	return p.hashes, err
}

type prover struct {
	ctx    context.Context
	node   NodeReader
	hashes []digest.SHA256
}

// prove handles the leaves of [begin, end) with those of the indices that lie in it. Depth is at most 53.
func (p *prover) prove(begin, end uint64, indices []uint64) error {
	if len(indices) == 0 {
		h, err := p.root(begin, end)
		p.hashes = append(p.hashes, h)
		return err
	}
	if end-begin == 1 {
		return nil
	}
	mid := split(begin, end)
	n := below(indices, mid, func(i uint64) uint64 { return i })
	if err := p.prove(begin, mid, indices[:n]); err != nil {
		return err
	}
	return p.prove(mid, end, indices[n:])
}

// root is the hash of the leaves [begin, end). Only at the tree's right edge is that not one complete node.
func (p *prover) root(begin, end uint64) (digest.SHA256, error) {
	if n := end - begin; n&(n-1) == 0 {
		level := uint(bits.TrailingZeros64(n))
		h, err := p.node(p.ctx, level, begin>>level)
		if err != nil {
			return digest.SHA256{}, fmt.Errorf("cannot read node %d of level %d: %w", begin>>level, level, err)
		}
		return h, nil
	}
	mid := split(begin, end)
	left, err := p.root(begin, mid)
	if err != nil {
		return digest.SHA256{}, err
	}
	right, err := p.root(mid, end)
	if err != nil {
		return digest.SHA256{}, err
	}
	return NodeHash(left, right), nil
}

// split is where RFC 6962 divides [begin, end), which has at least two leaves: the left side is the largest power of two
// below the whole.
func split(begin, end uint64) uint64 {
	return begin + 1<<(bits.Len64(end-begin-1)-1)
}

// below counts the items, which rise, whose index is below limit.
func below[T any](items []T, limit uint64, index func(T) uint64) int {
	lo, hi := 0, len(items)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if index(items[mid]) < limit {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// RootOf returns the root of the tree of size leaves that the leaves (rising indices, none twice) and the hashes of Prove
// make. It returns ErrProof for leaves out of order or out of the tree and for a hash too many or too few. Without a leaf
// the one hash is the root and nothing is proven.
func RootOf(size uint64, leaves []Leaf, hashes []digest.SHA256) (digest.SHA256, error) {
	if size > MaxSize {
		return digest.SHA256{}, fmt.Errorf("%w: size %d is too large", ErrProof, size)
	}
	for i, l := range leaves {
		if l.Index >= size || (i > 0 && l.Index <= leaves[i-1].Index) {
			return digest.SHA256{}, fmt.Errorf("%w: leaf indices must rise and be below the size %d", ErrProof, size)
		}
	}
	if size == 0 {
		if len(hashes) != 0 {
			return digest.SHA256{}, fmt.Errorf("%w: %d hashes prove an empty tree", ErrProof, len(hashes))
		}
		return EmptyRoot(), nil
	}
	f := folder{hashes: hashes}
	root, err := f.fold(0, size, leaves)
	if err != nil {
		return digest.SHA256{}, err
	}
	if len(f.hashes) != 0 {
		return digest.SHA256{}, fmt.Errorf("%w: it has %d hashes too many", ErrProof, len(f.hashes))
	}
	return root, nil
}

type folder struct {
	hashes []digest.SHA256 // not used yet
}

func (f *folder) fold(begin, end uint64, leaves []Leaf) (digest.SHA256, error) {
	if len(leaves) == 0 {
		if len(f.hashes) == 0 {
			return digest.SHA256{}, fmt.Errorf("%w: it has too few hashes", ErrProof)
		}
		h := f.hashes[0]
		f.hashes = f.hashes[1:]
		return h, nil
	}
	if end-begin == 1 {
		return leaves[0].Hash, nil
	}
	mid := split(begin, end)
	n := below(leaves, mid, func(l Leaf) uint64 { return l.Index })
	left, err := f.fold(begin, mid, leaves[:n])
	if err != nil {
		return digest.SHA256{}, err
	}
	right, err := f.fold(mid, end, leaves[n:])
	if err != nil {
		return digest.SHA256{}, err
	}
	return NodeHash(left, right), nil
}

// ProveConsistency returns the RFC 6962 consistency proof from oldSize to newSize leaves, for VerifyConsistency and for
// witnesses. It returns ErrProof for sizes that go down. From the empty tree, and from a size to itself, it is empty.
func ProveConsistency(ctx context.Context, oldSize, newSize uint64, node NodeReader) ([]digest.SHA256, error) {
	if oldSize > newSize || newSize > MaxSize {
		return nil, fmt.Errorf("%w: there is none from size %d to %d", ErrProof, oldSize, newSize)
	}
	if oldSize == 0 || oldSize == newSize {
		return nil, nil
	}
	p := prover{ctx: ctx, node: node}
	return p.consistency(oldSize, 0, newSize, true)
}

// consistency is SUBPROOF of RFC 6962 section 2.1.2: whole says that [begin, old) is a complete subtree that the verifier
// knows as the old root.
func (p *prover) consistency(old, begin, end uint64, whole bool) ([]digest.SHA256, error) {
	if old == end {
		if whole {
			return nil, nil
		}
		h, err := p.root(begin, end)
		return []digest.SHA256{h}, err
	}
	mid := split(begin, end)
	if old <= mid {
		out, err := p.consistency(old, begin, mid, whole)
		if err != nil {
			return nil, err
		}
		h, err := p.root(mid, end)
		return append(out, h), err
	}
	out, err := p.consistency(old, mid, end, false)
	if err != nil {
		return nil, err
	}
	h, err := p.root(begin, mid)
	return append(out, h), err
}
