package tilelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// scrubEvery is the time from one bundle of old rows to the next that is compared: a million events take half a day.
const scrubEvery = 10 * time.Second

// scrub compares one bundle of old rows with the tiles, round and round.
func (l *Log) scrub(ctx context.Context) error {
	now := l.c.Now()
	full := l.tree.durable.Load() / tlog.TileWidth
	if full == 0 || now.Before(l.scrubNext) {
		return nil
	}
	l.scrubNext = now.Add(scrubEvery)
	if l.scrubbed >= full {
		l.scrubbed = 0
	}
	if err := l.compare(ctx, l.tree, l.scrubbed); err != nil {
		return err
	}
	l.scrubbed++
	return nil
}

// Check compares every row with the tiles and every tile with those above it. It reads the whole log.
func (l *Log) Check(ctx context.Context) error {
	l.mu.Lock()
	t := l.reader
	l.mu.Unlock()
	if t == nil {
		return errors.New("the log was not read yet")
	}
	return l.compareAll(ctx, t)
}

func (l *Log) compareAll(ctx context.Context, t *tree) error {
	size := t.durable.Load()
	for bundle := uint64(0); bundle*tlog.TileWidth < size; bundle++ {
		if err := l.compare(ctx, t, bundle); err != nil {
			return err
		}
	}
	return nil
}

// locate says where rows and tiles first differ, for the person who has to look.
func (l *Log) locate(ctx context.Context) string {
	var halt *stopped
	if err := l.compareAll(ctx, l.tree); errors.As(err, &halt) {
		return "; " + halt.detail
	}
	return ""
}

// compare holds the rows of one bundle against the entries and hashes on disk, and a tile that they complete against
// the one above.
func (l *Log) compare(ctx context.Context, t *tree, bundle uint64) error {
	size := t.durable.Load()
	first := bundle * tlog.TileWidth
	width := int(min(tlog.TileWidth, size-first))
	events, err := l.rowsFrom(ctx, first, uint64(width))
	if err != nil {
		return err
	}
	raw, err := t.readEntries(bundle, width)
	if err != nil {
		return asStop(missing(err, tlog.EntriesPath(bundle, 0)))
	}
	entries, err := tlog.ParseEntries(raw, width)
	if err != nil {
		return asStop(err)
	}
	tile, err := t.readTile(0, bundle, width)
	if err != nil {
		return asStop(missing(err, tlog.TilePath(0, bundle, 0)))
	}
	hashes, err := tlog.ParseHashes(tile, width)
	if err != nil {
		return asStop(err)
	}
	for i := range width {
		if tlog.LeafHash(entries[i]) != hashes[i] {
			return &stopped{causeDamaged, fmt.Sprintf("leaf of event %d is not the one that was hashed", events[i].Number), rebuild}
		}
		if !bytes.Equal(entries[i], events[i].Leaf) {
			return &stopped{causeRowsDiffer, fmt.Sprintf("the row of event %d is not what it was when it became a leaf", events[i].Number),
				"the log has the leaf as it was: compare both with a backup before you change either"}
		}
	}
	return compareAbove(t, hashes, bundle)
}

// compareAbove holds a full tile against its hash in the tile above, and on upwards where that one is full as well.
func compareAbove(t *tree, hashes []digest.SHA256, index uint64) error {
	size := t.durable.Load()
	for level := uint64(1); level < tileLevels && len(hashes) == tlog.TileWidth; level++ {
		want := fold(hashes)
		at := int(index % tlog.TileWidth)
		index /= tlog.TileWidth
		width := tlog.TileWidth
		if edge, n := edgeOf(size, level); edge == index {
			width = n
		}
		raw, err := t.readTile(level, index, width)
		if err != nil {
			return asStop(missing(err, tlog.TilePath(level, index, 0)))
		}
		above, err := tlog.ParseHashes(raw, width)
		if err != nil {
			return asStop(err)
		}
		if above[at] != want {
			return &stopped{causeDamaged, fmt.Sprintf("hash %d of tile %d/%d is not that of the tile below", at, level, index), rebuild}
		}
		if at != tlog.TileWidth-1 {
			return nil
		}
		hashes = above
	}
	return nil
}

// asStop makes damage a reason to stop; a failure of the disk may pass.
func asStop(err error) error {
	if damage(err) {
		return &stopped{causeDamaged, err.Error(), rebuild}
	}
	return err
}
