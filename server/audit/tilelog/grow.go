package tilelog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/server/store"
)

// Rows are read by the bundle; the tiles become durable after so many of them.
const (
	pageRows    = tlog.TileWidth
	flushEvery  = 16
	lockName    = "audit-log"
	signedRow   = "/signed"    // behind the log's id: the newest checkpoint that the key signed
	witnessRow  = "/witnessed" // the newest one with the policy's quorum
	maxNoteSize = tlog.MaxCheckpointBytes
	holderName  = "lock" // in the directory
	holderBytes = 16
)

// open reads the directory, at the start and after a failed write.
func (l *Log) open(ctx context.Context) error {
	if l.tree != nil {
		return nil
	}
	if err := l.occupy(); err != nil {
		return err
	}
	if err := dropUnfinished(l.c.Dir); err != nil {
		return err
	}
	t, err := openTree(l.c.Dir)
	if errors.Is(err, errDamaged) {
		return &stopped{causeDamaged, err.Error(), rebuild}
	}
	if err != nil {
		return err
	}
	disk, err := l.readDisk()
	if err != nil {
		return err
	}
	rows, err := l.c.Store.Feed(ctx)
	if err != nil {
		return err
	}
	if int64(t.size) > rows || int64(disk.Size) > rows {
		return &stopped{causeRowsBehind, fmt.Sprintf("the database ends at event %d, the log's directory has %d leaves and a checkpoint of %d", rows, t.size, disk.Size), renew}
	}
	if t.size > 0 {
		if err := l.compare(ctx, t, (t.size-1)/tlog.TileWidth); err != nil {
			return err
		}
	}
	t.beforeWrite = l.beforeWrite
	l.tree, l.onDisk = t, disk
	l.mu.Lock()
	l.reader = t
	l.mu.Unlock()
	l.setStatus(func(s *Status) { s.Size = int64(t.size) })
	return nil
}

// occupy keeps other processes away from the directory, and takes the name for the database's lock from it: a server that
// was killed goes on at once when it starts again.
func (l *Log) occupy() error {
	if l.inUse != nil {
		return nil
	}
	if err := makeFolder(l.c.Dir); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(l.c.Dir, holderName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("another process uses the log's directory %s; each replica needs its own: %w", l.c.Dir, err)
	}
	name := make([]byte, 2*holderBytes)
	if n, _ := f.ReadAt(name, 0); n < len(name) { // a new one, or one that was cut off
		name = []byte(hex.EncodeToString(randomBytes(holderBytes)))
		if _, err := f.WriteAt(name, 0); err != nil {
			_ = f.Close()
			return err
		}
	}
	l.inUse, l.holder = f, string(name)
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// readDisk reads the checkpoint in the directory.
func (l *Log) readDisk() (tlog.Checkpoint, error) {
	raw, err := readFile(filepath.Join(l.c.Dir, checkpointName), maxNoteSize)
	if errors.Is(err, fs.ErrNotExist) {
		return tlog.Checkpoint{}, nil
	}
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("cannot read the log's checkpoint: %w", err)
	}
	cp, err := l.c.Key.open(raw)
	if err != nil {
		return tlog.Checkpoint{}, &stopped{causeCheckpoint, fmt.Sprintf("the checkpoint in the log's directory is not of this key: %v", err),
			"the directory belongs to another log: give this one a directory of its own"}
	}
	return cp, nil
}

// grow takes in the rows behind the tree, up to the given one.
func (l *Log) grow(ctx context.Context, rows int64) error {
	t := l.tree
	if int64(t.size) > rows {
		return &stopped{causeRowsBehind, fmt.Sprintf("the database ends at event %d, the log has %d leaves", rows, t.size), renew}
	}
	for page := 1; int64(t.size) < rows; page++ {
		// Up to the end of a bundle, so that a tree that is built in one go writes each tile once.
		want := tlog.TileWidth - t.size%tlog.TileWidth
		events, err := l.rowsFrom(ctx, t.size, min(want, uint64(rows)-t.size))
		if err != nil {
			return err
		}
		for _, e := range events {
			if len(e.Leaf) > tlog.MaxLeafBytes {
				return &stopped{causeTooLarge, fmt.Sprintf("event %d has %d bytes", e.Number, len(e.Leaf)), "no build of cordon writes such a row: compare the database with a backup"}
			}
			if err := t.append(e.Leaf); err != nil {
				return l.reopen(err)
			}
		}
		if page%flushEvery == 0 || int64(t.size) == rows {
			if err := t.flush(); err != nil {
				return l.reopen(err)
			}
			crash.Here(crash.LogGrown)
			l.setStatus(func(s *Status) { s.Size = int64(t.size) })
		}
		if err := ctx.Err(); err != nil {
			return l.reopen(err)
		}
	}
	return nil
}

// reopen drops what is in memory only: the next round goes on from what is durable.
func (l *Log) reopen(err error) error {
	l.tree = nil
	return err
}

// rowsFrom reads exactly n rows from leaf first on. They were counted, so one that is not there was removed.
func (l *Log) rowsFrom(ctx context.Context, first, n uint64) ([]store.StoredEvent, error) {
	events, err := l.c.Store.Events(ctx, store.EventFilter{}, int64(first), int(n))
	if err != nil {
		return nil, err
	}
	for i := range n {
		if uint64(len(events)) <= i || events[i].Number != int64(first+i)+1 {
			return nil, &stopped{causeRowsDiffer, fmt.Sprintf("event %d is not in the database", first+i+1), "compare the database with a backup: events are never removed"}
		}
	}
	return events, nil
}
