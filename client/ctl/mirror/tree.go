package mirror

import (
	"math/bits"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// tree is the right edge of a Merkle tree in tiles: of each tile level, the hashes of the tile that is not full yet.
type tree struct {
	size  uint64
	edge  [8][]digest.SHA256
	index [8]uint64 // of the tile at the edge
}

// done is told of every tile when it is complete, or at the end of the log.
type done func(level, index uint64, hashes []digest.SHA256) error

// add appends a leaf.
func (t *tree) add(leaf digest.SHA256, full done) error {
	t.size++
	t.edge[0] = append(t.edge[0], leaf)
	for level := 0; len(t.edge[level]) == tlog.TileWidth; level++ {
		if err := full(uint64(level), t.index[level], t.edge[level]); err != nil {
			return err
		}
		t.edge[level+1] = append(t.edge[level+1], fold(t.edge[level]))
		t.edge[level] = t.edge[level][:0]
		t.index[level]++
	}
	return nil
}

// rest tells of the tiles that did not become full.
func (t *tree) rest(partial done) error {
	for level := range t.edge {
		if len(t.edge[level]) == 0 {
			continue
		}
		if err := partial(uint64(level), t.index[level], t.edge[level]); err != nil {
			return err
		}
	}
	return nil
}

// root is the root of the leaves so far: what lies at the edge of one level is the last, smaller subtree of the level above.
func (t *tree) root() digest.SHA256 {
	if t.size == 0 {
		return tlog.EmptyRoot()
	}
	var below []digest.SHA256
	for _, hashes := range t.edge {
		if all := append(append([]digest.SHA256{}, hashes...), below...); len(all) > 0 {
			below = []digest.SHA256{fold(all)}
		}
	}
	return below[0]
}

// fold is the Merkle tree hash over subtrees: RFC 6962 section 2.1 with hashes for leaves.
func fold(hashes []digest.SHA256) digest.SHA256 {
	if len(hashes) == 1 {
		return hashes[0]
	}
	k := 1 << (bits.Len(uint(len(hashes)-1)) - 1)
	return tlog.NodeHash(fold(hashes[:k]), fold(hashes[k:]))
}
