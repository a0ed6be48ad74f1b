package tlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Tiles of C2SP tlog-tiles: a tile has 256 hashes of one of the levels 0, 8, 16, ...; an entry bundle has 256 leaves.
const (
	tileHeight = 8
	TileWidth  = 1 << tileHeight

	MaxBundleBytes = TileWidth * (2 + MaxLeafBytes)
	MaxTileBytes   = TileWidth * digest.Size
)

// ErrTile is returned for a tile or an entry bundle that is not exactly what its place in the tree asks for.
var ErrTile = errors.New("tile is not valid")

// TileReader returns a tile: its 256 hashes one after the other, or the first partial of them when partial is not 0. It
// has the form of Tessera's LogReader.ReadTile.
type TileReader func(ctx context.Context, level, index uint64, partial uint8) ([]byte, error)

// PartialOf is how many of the 256 places of a tile (or of an entry bundle, which lies at level 0) are taken in a log of
// size leaves, in the way that names are made: 0 is a full tile.
func PartialOf(level, index, size uint64) uint8 {
	hashes := size
	if level > 0 {
		hashes = shift(size, level*tileHeight)
	}
	if index < hashes/TileWidth {
		return 0
	}
	return uint8(hashes % TileWidth)
}

func shift(n, by uint64) uint64 {
	if by > 63 {
		return 0
	}
	return n >> by
}

// TilePath is the path of a tile below the log's prefix: tile/<level>/<index>, with .p/<n> for a partial one.
func TilePath(level, index uint64, partial uint8) string {
	return fmt.Sprintf("tile/%d/%s", level, tileName(index, partial))
}

// EntriesPath is the path of an entry bundle below the log's prefix.
func EntriesPath(index uint64, partial uint8) string {
	return "tile/entries/" + tileName(index, partial)
}

// tileName groups the index by three digits, all but the last with an x before it: x001/x234/067.
func tileName(index uint64, partial uint8) string {
	name := fmt.Sprintf("%03d", index%1000)
	for index /= 1000; index > 0; index /= 1000 {
		name = fmt.Sprintf("x%03d/", index%1000) + name
	}
	if partial > 0 {
		name += fmt.Sprintf(".p/%d", partial)
	}
	return name
}

// ParseHashes reads a tile of width hashes, 1 to 256. It returns ErrTile for any other length.
func ParseHashes(b []byte, width int) ([]digest.SHA256, error) {
	if width < 1 || width > TileWidth || len(b) != width*digest.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, want %d hashes", ErrTile, len(b), width)
	}
	out := make([]digest.SHA256, width)
	for i := range out {
		copy(out[i][:], b[i*digest.Size:])
	}
	return out, nil
}

// ParseEntries reads an entry bundle of width leaves, 1 to 256: each has a big-endian 16 bit length before it. It returns
// ErrTile for anything else, trailing bytes included. The leaves alias b.
func ParseEntries(b []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, fmt.Errorf("%w: a bundle has 1 to %d entries, not %d", ErrTile, TileWidth, width)
	}
	out := make([][]byte, 0, width)
	for range width {
		if len(b) < 2 {
			return nil, fmt.Errorf("%w: it has %d entries, want %d", ErrTile, len(out), width)
		}
		n := int(b[0])<<8 | int(b[1])
		if b = b[2:]; n > len(b) {
			return nil, fmt.Errorf("%w: entry %d goes beyond its end", ErrTile, len(out))
		}
		out = append(out, b[:n:n])
		b = b[n:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes follow its %d entries", ErrTile, len(b), width)
	}
	return out, nil
}

// TileNodes reads nodes out of the tiles of a log of size leaves. It keeps the last tile of each level, so that proofs
// read in the order of the leaves fetch every tile once. It is for one goroutine.
func TileNodes(size uint64, read TileReader) NodeReader {
	t := tileNodes{size: size, read: read, last: map[uint64]keptTile{}}
	return t.node
}

type tileNodes struct {
	size uint64
	read TileReader
	last map[uint64]keptTile // by tile level
}

type keptTile struct {
	index  uint64
	hashes []digest.SHA256
}

func (t *tileNodes) node(ctx context.Context, level uint, index uint64) (digest.SHA256, error) {
	if level > 52 || index >= t.size>>level {
		return digest.SHA256{}, fmt.Errorf("%w: node %d of level %d is not complete at size %d", ErrProof, index, level, t.size)
	}
	inner := level % tileHeight
	first := index << inner // the node's first hash in the tile's level
	hashes, err := t.tile(ctx, uint64(level/tileHeight), first/TileWidth)
	if err != nil {
		return digest.SHA256{}, err
	}
	at := first % TileWidth
	return foldComplete(hashes[at : at+1<<inner]), nil
}

func (t *tileNodes) tile(ctx context.Context, level, index uint64) ([]digest.SHA256, error) {
	if kept, ok := t.last[level]; ok && kept.index == index {
		return kept.hashes, nil
	}
	partial := PartialOf(level, index, t.size)
	width := TileWidth
	if partial > 0 {
		width = int(partial)
	}
	b, err := t.read(ctx, level, index, partial)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", TilePath(level, index, partial), err)
	}
	hashes, err := ParseHashes(b, width)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", TilePath(level, index, partial), err)
	}
	t.last[level] = keptTile{index, hashes}
	return hashes, nil
}

// foldComplete is the root over 2^n hashes.
func foldComplete(hashes []digest.SHA256) digest.SHA256 {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return NodeHash(foldComplete(hashes[:half]), foldComplete(hashes[half:]))
}
