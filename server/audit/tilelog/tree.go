package tilelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"path/filepath"
	"sync/atomic"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// errDamaged says that the files of the tree do not agree with one another.
var errDamaged = errors.New("the log's directory is damaged")

const (
	stateName      = "state.json"
	checkpointName = "checkpoint"
	maxState       = 1 << 10
	tileLevels     = 7 // 2^53 leaves
)

// tree is the Merkle tree of the leaves so far as tiles in a directory (C2SP tlog-tiles). Full tiles never change; of the
// right edge only the newest partial tiles are kept, and narrower ones are cut out of them. Appending is for one
// goroutine, reading is for any.
//
// What is on disk counts up to the size in the state file, which is replaced last. Whatever lies beyond was cut off in
// the middle, and is written again with the same bytes.
type tree struct {
	dir     string
	durable atomic.Uint64 // size on disk; the only field that readers use

	size   uint64
	edge   [tileLevels][]digest.SHA256 // by tile level: the hashes of the tile that is not full yet
	bundle []byte                      // the leaves of edge[0], as an entry bundle

	beforeWrite func(name string) error // lets tests break things at the worst moment; nil outside tests
}

// state is the content of the state file.
type state struct {
	Size uint64        `json:"size"`
	Root digest.SHA256 `json:"root"`
}

func decodeState(b []byte) (state, error) {
	var s state
	if len(b) > maxState {
		return s, fmt.Errorf("%w: %s has %d bytes", errDamaged, stateName, len(b))
	}
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return s, fmt.Errorf("%w: %s: %w", errDamaged, stateName, err)
	}
	if s.Size > tlog.MaxSize {
		return s, fmt.Errorf("%w: %s has the size %d", errDamaged, stateName, s.Size)
	}
	return s, nil
}

// openTree reads the right edge of the tree; a directory that is empty or missing is the empty tree. It returns
// errDamaged when the edge does not make the root of the state file. Whether leaves and rows agree is for compare to say.
func openTree(dir string) (*tree, error) {
	t := &tree{dir: dir}
	b, err := readFile(filepath.Join(dir, stateName), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return t, makeFolder(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the log's state: %w", err)
	}
	s, err := decodeState(b)
	if err != nil {
		return nil, err
	}
	t.size = s.Size
	for level := range uint64(tileLevels) {
		index, width := edgeOf(s.Size, level)
		if width == 0 {
			continue
		}
		raw, err := t.readTile(level, index, width)
		if err != nil {
			return nil, missing(err, tlog.TilePath(level, index, uint8(width)))
		}
		if t.edge[level], err = tlog.ParseHashes(raw, width); err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	if index, width := edgeOf(s.Size, 0); width > 0 {
		raw, err := t.readEntries(index, width)
		if err != nil {
			return nil, missing(err, tlog.EntriesPath(index, uint8(width)))
		}
		t.bundle = raw
	}
	if root := t.root(); root != s.Root {
		return nil, fmt.Errorf("%w: its right edge makes the root %s, its state says %s", errDamaged, root, s.Root)
	}
	t.durable.Store(s.Size)
	return t, nil
}

// missing makes a file that should be there a damage; any other failure may pass.
func missing(err error, path string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", errDamaged, path)
	}
	return fmt.Errorf("cannot read %s: %w", path, err)
}

// edgeOf is the tile of a level that is not full in a tree of that size, and how many hashes it has; 0 for none.
func edgeOf(size, level uint64) (index uint64, width int) {
	n := size >> (8 * level)
	return n / tlog.TileWidth, int(n % tlog.TileWidth)
}

// append adds a leaf in memory and writes the tiles that it makes full. flush makes it durable.
func (t *tree) append(leaf []byte) error {
	if len(leaf) > tlog.MaxLeafBytes {
		return fmt.Errorf("leaf %d has %d bytes, at most %d are allowed", t.size, len(leaf), tlog.MaxLeafBytes)
	}
	t.bundle = append(binary.BigEndian.AppendUint16(t.bundle, uint16(len(leaf))), leaf...)
	t.edge[0] = append(t.edge[0], tlog.LeafHash(leaf))
	t.size++
	if len(t.edge[0]) < tlog.TileWidth {
		return nil
	}
	if err := t.write(tlog.EntriesPath(t.size/tlog.TileWidth-1, 0), t.bundle); err != nil {
		return err
	}
	t.bundle = nil
	for level := 0; len(t.edge[level]) == tlog.TileWidth; level++ {
		index := t.size>>(8*uint(level+1)) - 1
		if err := t.write(tlog.TilePath(uint64(level), index, 0), tileBytes(t.edge[level])); err != nil {
			return err
		}
		t.edge[level+1] = append(t.edge[level+1], fold(t.edge[level]))
		t.edge[level] = nil
	}
	return nil
}

// flush writes the right edge and then the state: from here on the size counts.
func (t *tree) flush() error {
	before := t.durable.Load()
	if before == t.size {
		return nil
	}
	for level := range uint64(tileLevels) {
		index, width := edgeOf(t.size, level)
		if width == 0 {
			continue
		}
		if err := t.write(tlog.TilePath(level, index, uint8(width)), tileBytes(t.edge[level])); err != nil {
			return err
		}
	}
	if index, width := edgeOf(t.size, 0); width > 0 {
		if err := t.write(tlog.EntriesPath(index, uint8(width)), t.bundle); err != nil {
			return err
		}
	}
	b, err := json.Marshal(state{Size: t.size, Root: t.root()}, json.Deterministic(true))
	if err != nil {
		return err
	}
	if err := t.write(stateName, b); err != nil {
		return err
	}
	t.durable.Store(t.size)
	t.dropPartials(before)
	return nil
}

func (t *tree) write(name string, data []byte) error {
	if t.beforeWrite != nil {
		if err := t.beforeWrite(name); err != nil {
			return err
		}
	}
	if err := writeFile(t.dir, name, data); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// root is the root over everything that was appended.
func (t *tree) root() digest.SHA256 {
	var root digest.SHA256
	found := false
	for _, nodes := range t.edge { // from the smallest subtrees, on the right, to the largest
		for len(nodes) > 0 {
			width := 1 << bits.TrailingZeros(uint(len(nodes)))
			h := fold(nodes[len(nodes)-width:])
			nodes = nodes[:len(nodes)-width]
			if found {
				h = tlog.NodeHash(h, root)
			}
			root, found = h, true
		}
	}
	if !found {
		return tlog.EmptyRoot()
	}
	return root
}

// rootAt is the root that the files have at a size up to the durable one.
func (t *tree) rootAt(ctx context.Context, size uint64) (digest.SHA256, error) {
	if size == 0 {
		return tlog.EmptyRoot(), nil
	}
	hashes, err := tlog.Prove(ctx, size, nil, t.nodes(size))
	if err != nil {
		return digest.SHA256{}, err
	}
	return hashes[0], nil
}

// nodes reads the hashes of a tree of that size, which is at most the durable one. It is for one goroutine.
func (t *tree) nodes(size uint64) tlog.NodeReader {
	return tlog.TileNodes(size, func(_ context.Context, level, index uint64, partial uint8) ([]byte, error) {
		b, err := t.readTile(level, index, widthOf(partial))
		if err != nil {
			return nil, missing(err, tlog.TilePath(level, index, partial))
		}
		return b, nil
	})
}

// widthOf is the number of hashes behind the partial of a name.
func widthOf(partial uint8) int {
	if partial == 0 {
		return tlog.TileWidth
	}
	return int(partial)
}

func tileBytes(hashes []digest.SHA256) []byte {
	b := make([]byte, 0, len(hashes)*digest.Size)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// fold is the root over 2^n hashes.
func fold(hashes []digest.SHA256) digest.SHA256 {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(fold(hashes[:half]), fold(hashes[half:]))
}
