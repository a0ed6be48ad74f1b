package tilelog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// readTries bounds how often a reader looks again: the writer replaces a partial tile by a wider one meanwhile.
const readTries = 3

// readTile returns the first width hashes of a tile, out of the full one or the widest partial one. It returns
// fs.ErrNotExist when there are fewer.
func (t *tree) readTile(level, index uint64, width int) ([]byte, error) {
	b, have, err := t.readWidest(tlog.TilePath(level, index, 0), width, tlog.MaxTileBytes)
	if err != nil {
		return nil, err
	}
	if len(b) != have*digest.Size {
		return nil, fmt.Errorf("%w: tile %d/%d has %d bytes, want %d hashes", errDamaged, level, index, len(b), have)
	}
	return b[:width*digest.Size], nil
}

// readEntries returns the first width entries of a bundle; contract as for readTile.
func (t *tree) readEntries(index uint64, width int) ([]byte, error) {
	b, have, err := t.readWidest(tlog.EntriesPath(index, 0), width, tlog.MaxBundleBytes)
	if err != nil {
		return nil, err
	}
	entries, err := tlog.ParseEntries(b, have)
	if err != nil {
		return nil, fmt.Errorf("%w: entry bundle %d: %w", errDamaged, index, err)
	}
	n := 0
	for _, e := range entries[:width] {
		n += 2 + len(e)
	}
	return b[:n], nil
}

// readWidest reads the full file of that name, or the widest partial one if it is at least width wide.
func (t *tree) readWidest(name string, width int, limit int64) (b []byte, have int, err error) {
	path := filepath.Join(t.dir, filepath.FromSlash(name))
	for range readTries {
		have = 0
		b, err = readFile(path, limit)
		if err == nil {
			return b, tlog.TileWidth, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		for _, w := range partials(path) {
			have = max(have, w)
		}
		if have < width {
			continue
		}
		b, err = readFile(filepath.Join(path+".p", strconv.Itoa(have)), limit)
		if err == nil {
			return b, have, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
	}
	return nil, 0, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// partials lists the widths that there are of a tile or bundle.
func partials(path string) []int {
	entries, err := os.ReadDir(path + ".p")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if w, err := strconv.Atoi(e.Name()); err == nil && w > 0 && w < tlog.TileWidth {
			out = append(out, w)
		}
	}
	return out
}

// dropPartials removes the partial tiles that wider ones have replaced since the tree had the size before. One that stays
// behind for an error is removed with the next one of its tile, or does no harm.
func (t *tree) dropPartials(before uint64) {
	for level := range uint64(tileLevels) {
		index, _ := edgeOf(before, level)
		t.dropPartialsOf(tlog.TilePath(level, index, 0), level, index)
	}
	index, _ := edgeOf(before, 0)
	t.dropPartialsOf(tlog.EntriesPath(index, 0), 0, index)
}

func (t *tree) dropPartialsOf(name string, level, index uint64) {
	path := filepath.Join(t.dir, filepath.FromSlash(name))
	current, keep := edgeOf(t.size, level)
	if current != index {
		_ = os.RemoveAll(path + ".p")
		return
	}
	entries, err := os.ReadDir(path + ".p")
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != strconv.Itoa(keep) {
			_ = os.Remove(filepath.Join(path+".p", e.Name()))
		}
	}
}

// tile returns a tile of the log in the C2SP form; fs.ErrNotExist when the log is not that long.
func (t *tree) tile(level, index uint64, partial uint8) ([]byte, error) {
	if level >= tileLevels || !t.reaches(level, index, partial) {
		return nil, fs.ErrNotExist
	}
	return t.readTile(level, index, widthOf(partial))
}

// entries returns an entry bundle; contract as for tile.
func (t *tree) entries(index uint64, partial uint8) ([]byte, error) {
	if !t.reaches(0, index, partial) {
		return nil, fs.ErrNotExist
	}
	return t.readEntries(index, widthOf(partial))
}

// reaches reports whether the durable tree has that many hashes in the tile.
func (t *tree) reaches(level, index uint64, partial uint8) bool {
	hashes := t.durable.Load() >> (8 * level)
	full := hashes / tlog.TileWidth
	return index < full || index == full && partial > 0 && uint64(partial) <= hashes%tlog.TileWidth
}
