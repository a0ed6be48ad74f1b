package tilelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// leaseTime is how long a replica that dies keeps others from signing. A replica that only thinks that it holds the lock
// cannot sign: its fence is in every change.
const leaseTime = 30 * time.Second

// lockAgain is how long a replica leaves a lock alone that another one has.
const lockAgain = 5 * time.Second

// publish signs a checkpoint over what is new and shows it to witnesses, on the one replica that holds the lock.
func (l *Log) publish(ctx context.Context) error {
	signed, err := l.lastSigned(ctx)
	if err != nil {
		return err
	}
	if err := l.followWitnessed(ctx); err != nil {
		return err
	}
	if signed.Size > int64(l.tree.size) {
		return nil // by another replica, over rows that came after ours: the next round compares it
	}
	if int64(l.tree.size) == signed.Size && !l.anyDue(uint64(signed.Size)) {
		return nil
	}
	held, err := l.lock(ctx)
	if err != nil || !held {
		return err
	}
	if signed, err = l.lastSigned(ctx); err != nil || signed.Size > int64(l.tree.size) {
		return err
	}
	if signed.Size > 0 && l.confirmed != uint64(signed.Size) && l.policy.Quorum > 0 {
		if ok, err := l.witness(ctx, signed); err != nil || !ok {
			return err
		}
	}
	if signed.Version == 0 && l.policy.Quorum > 0 && l.tree.size > 0 {
		if err := l.introduce(ctx); err != nil {
			return err
		}
	}
	if int64(l.tree.size) > signed.Size {
		if signed, err = l.sign(ctx, signed); err != nil {
			return err
		}
	}
	_, err = l.witness(ctx, signed)
	return err
}

// lock holds the lock, and renews it when it is about to end.
func (l *Log) lock(ctx context.Context) (bool, error) {
	now := l.c.Now()
	if l.fence != 0 && now.Before(l.leaseEnds.Add(-leaseTime/2)) {
		return true, nil
	}
	if l.fence == 0 && now.Before(l.lockNext) {
		return false, nil
	}
	fence, ok, err := l.c.Store.Lock(ctx, lockName, l.holder, leaseTime, now)
	if err != nil || !ok {
		l.fence, l.lockNext = 0, now.Add(lockAgain)
		return false, err
	}
	l.fence, l.leaseEnds = fence, now.Add(leaseTime)
	return true, nil
}

// lastSigned reads the newest signed checkpoint and holds it, once, against the tree and the checkpoint on disk.
func (l *Log) lastSigned(ctx context.Context) (store.Checkpoint, error) {
	row, err := l.c.Store.Checkpoint(ctx, l.c.Key.id()+signedRow)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return row, err
	}
	if row.Size < int64(l.onDisk.Size) {
		return row, &stopped{causeRowsBehind, fmt.Sprintf("the database knows a checkpoint of %d leaves, the directory one of %d: the database is older", row.Size, l.onDisk.Size), renew}
	}
	if row.Version == 0 || row.Version == l.checked.Version && row.Size == l.checked.Size && row.Root == l.checked.Root {
		return row, nil
	}
	if row.Size > int64(l.tree.size) {
		return row, l.reachable(ctx, row)
	}
	return row, l.check(ctx, row)
}

// reachable: a checkpoint was signed over committed rows only, so rows that end before it were lost.
func (l *Log) reachable(ctx context.Context, row store.Checkpoint) error {
	rows, err := l.c.Store.Feed(ctx)
	if err != nil {
		return err
	}
	if rows < row.Size {
		return &stopped{causeRowsBehind, fmt.Sprintf("the database ends at event %d and has a checkpoint of %d leaves", rows, row.Size), renew}
	}
	return nil
}

// check holds a signed checkpoint against the tree, and puts it on disk.
func (l *Log) check(ctx context.Context, row store.Checkpoint) error {
	cp, err := l.c.Key.open(row.Note)
	if err != nil || int64(cp.Size) != row.Size || cp.Root != row.Root {
		return &stopped{causeCheckpoint, fmt.Sprintf("the checkpoint row of %d leaves does not hold what the key signed: %v", row.Size, err), "compare the database with a backup"}
	}
	for _, known := range []tlog.Checkpoint{l.onDisk, cp} {
		root, err := l.rootAt(ctx, known.Size)
		if err != nil {
			return err
		}
		if known.Raw != nil && root != known.Root {
			return &stopped{causeCheckpoint, fmt.Sprintf("the signed root of %d leaves is %s, the tree has %s%s", known.Size, known.Root, root, l.locate(ctx)), rebuild}
		}
	}
	if err := l.keepOnDisk(cp); err != nil {
		return err
	}
	l.checked = row
	l.setStatus(func(s *Status) { s.Signed = row.Size })
	return nil
}

// keepOnDisk writes the checkpoint beside the tiles: a second memory of what was signed.
func (l *Log) keepOnDisk(cp tlog.Checkpoint) error {
	if l.onDisk.Raw != nil && l.onDisk.Size == cp.Size {
		return nil
	}
	if err := l.tree.write(checkpointName, cp.Raw); err != nil {
		return err
	}
	l.onDisk = cp
	return nil
}

// rootAt is tree.rootAt with damage as a reason to stop.
func (l *Log) rootAt(ctx context.Context, size uint64) (digest.SHA256, error) {
	root, err := l.tree.rootAt(ctx, size)
	if damage(err) {
		return root, &stopped{causeDamaged, err.Error(), rebuild}
	}
	return root, err
}

func damage(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, tlog.ErrTile) }

// sign signs the tree as it is on disk now. The checkpoint becomes known to anybody only after it is in the database,
// under the fence of the lock and as the successor of the last one.
func (l *Log) sign(ctx context.Context, last store.Checkpoint) (store.Checkpoint, error) {
	if err := l.notRestored(ctx, last); err != nil {
		return last, err
	}
	size := l.tree.size
	root, err := l.rootAt(ctx, size)
	if err != nil {
		return last, err
	}
	if root != l.tree.root() {
		return last, &stopped{causeDamaged, fmt.Sprintf("the files make the root %s, the leaves that were written %s", root, l.tree.root()), rebuild}
	}
	note, err := l.extend(ctx, last, size, root)
	if errors.Is(err, ErrFork) {
		return last, &stopped{causeCheckpoint, err.Error() + l.locate(ctx), rebuild}
	}
	if err != nil {
		return last, err
	}
	next := store.Checkpoint{Name: l.c.Key.id() + signedRow, Size: int64(size), Root: root, Note: note, At: l.c.Now()}
	crash.Here(crash.LogSigned)
	err = l.c.Store.Commit(ctx, store.Change{
		Expect: []store.Expect{
			{Table: store.Locks, Key: lockName, Version: l.fence},
			{Table: store.Checkpoints, Key: next.Name, Version: last.Version},
		},
		Writes: []store.Write{store.PutCheckpoint{Checkpoint: next}},
	})
	if err != nil {
		l.fence = 0 // perhaps another replica has the lock now
		return last, fmt.Errorf("cannot store the checkpoint of %d leaves: %w", size, err)
	}
	crash.Here(crash.LogStored)
	next.Version = last.Version + 1
	l.confirmed = size
	return next, l.check(ctx, next)
}

// extend asks the guarded key, with a proof for each checkpoint that it has signed before.
func (l *Log) extend(ctx context.Context, last store.Checkpoint, size uint64, root digest.SHA256) ([]byte, error) {
	var before []extension
	for _, raw := range [][]byte{last.Note, l.onDisk.Raw} {
		if raw == nil {
			continue
		}
		cp, err := l.c.Key.open(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFork, err)
		}
		proof, err := tlog.ProveConsistency(ctx, cp.Size, size, l.tree.nodes(size))
		if errors.Is(err, tlog.ErrProof) {
			return nil, fmt.Errorf("%w: %w", ErrFork, err)
		}
		if err != nil {
			return nil, err
		}
		before = append(before, extension{of: cp, proof: proof})
	}
	return l.c.Key.sign(size, root, before...)
}

// notRestored: a log ends where its database was restored. What the key signed after the backup was made is not among the
// rows, so whatever it signed now could be a fork.
func (l *Log) notRestored(ctx context.Context, last store.Checkpoint) error {
	if last.Size == 0 {
		return nil // a new log begins with whatever rows there are
	}
	found, err := l.c.Store.Events(ctx, store.EventFilter{Types: []string{audit.ServerRestored}}, last.Size, 1)
	if err != nil || len(found) == 0 {
		return err
	}
	return &stopped{causeRestored, fmt.Sprintf("the database was restored from a backup (event %d)", found[0].Number), renew}
}
