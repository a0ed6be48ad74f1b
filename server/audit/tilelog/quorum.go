package tilelog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// followWitnessed keeps the status right on replicas that do not ask the witnesses themselves.
func (l *Log) followWitnessed(ctx context.Context) error {
	if l.policy.Quorum == 0 {
		return nil
	}
	cp, witnessed, err := l.cosigned(ctx)
	if err == nil && witnessed {
		l.cosignedSize, l.cosignedAt = cp.Size, cp.Witnesses[0].Time
		l.setStatus(func(s *Status) { s.Witnessed = int64(cp.Size) })
	}
	return err
}

// introduce shows witnesses the empty tree, which is the beginning of every log, before a log without a checkpoint gets
// its first one: whoever has seen more of this key's log says so, and nothing was signed that contradicts it.
func (l *Log) introduce(ctx context.Context) error {
	raw, err := l.c.Key.sign(0, tlog.EmptyRoot())
	if err != nil {
		return err
	}
	_, err = l.ask(ctx, store.Checkpoint{Name: l.c.Key.id() + signedRow, Note: raw})
	return err
}

// anyDue reports whether a witness should see the checkpoint of that size now. A replica that does not hold the lock goes
// by what the one that does has stored.
func (l *Log) anyDue(size uint64) bool {
	now := l.c.Now()
	if l.fence == 0 && l.cosignedSize == size && now.Before(l.cosignedAt.Add(2*recosign)) {
		return false
	}
	for _, w := range l.witnesses {
		if size > 0 && w.due(size, now) {
			return true
		}
	}
	return false
}

// witness shows a signed checkpoint to every witness that is due, all at once. ok means that the policy's quorum has
// cosigned this checkpoint. Witnesses that have seen another history are told as an event, once each; when so many have
// that no quorum is left, the log stops.
func (l *Log) witness(ctx context.Context, signed store.Checkpoint) (ok bool, err error) {
	cp, err := l.c.Key.open(signed.Note)
	if err != nil {
		return false, err
	}
	asked, err := l.ask(ctx, signed)
	if err != nil {
		return false, err
	}
	if !asked {
		return l.policy.Quorum == 0 || l.confirmed == cp.Size, nil
	}
	return l.keepWitnessed(ctx, cp)
}

// ask shows it to those that are due, and returns whether there were any.
func (l *Log) ask(ctx context.Context, signed store.Checkpoint) (asked bool, err error) {
	cp, err := l.c.Key.open(signed.Note)
	if err != nil {
		return false, err
	}
	var group sync.WaitGroup
	now, size := l.c.Now(), l.tree.durable.Load()
	results := make([]error, len(l.witnesses))
	for i, w := range l.witnesses {
		if !w.due(cp.Size, now) {
			continue
		}
		asked = true
		group.Go(func() {
			results[i] = w.ask(ctx, l.c.Client, cp, func() tlog.NodeReader { return l.tree.nodes(size) }, now)
		})
	}
	group.Wait()
	for i, w := range l.witnesses {
		if err := l.heard(ctx, w, results[i], signed); err != nil {
			return asked, err
		}
	}
	return asked, nil
}

// heard tells people what a witness answered, and counts the refusals.
func (l *Log) heard(ctx context.Context, w *witness, err error, signed store.Checkpoint) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, errRefused) {
		if text := err.Error(); w.trouble != text {
			w.trouble = text
			l.c.Log.WarnContext(ctx, "a witness does not cosign; it is asked again", "witness", w.Name, "error", err)
		}
		return nil
	}
	// Another replica may have shown it a newer checkpoint meanwhile: then the database has that one.
	newest, readErr := l.c.Store.Checkpoint(ctx, signed.Name)
	if errors.Is(readErr, store.ErrNotFound) {
		readErr = nil
	}
	if readErr != nil || newest.Size > signed.Size {
		w.refused = nil
		return readErr
	}
	l.c.Log.ErrorContext(ctx, "a witness has seen another history of the audit log", "witness", w.Name, "error", err)
	commitErr := l.c.Store.Commit(ctx, store.Change{Events: []store.Event{{
		At: l.c.Now(), Type: audit.LogRefused, Actor: "log", Subject: w.Name, Data: map[string]any{"detail": err.Error(), "size": signed.Size},
	}}})
	if commitErr != nil {
		w.refused = nil // the event must not be lost: ask again
		return commitErr
	}
	left := 0
	for _, other := range l.witnesses {
		if other.refused == nil {
			left++
		}
	}
	if left < l.policy.Quorum {
		return &stopped{causeWitness, fmt.Sprintf("witness %s: %v; %d of %d witnesses are left, the policy wants %d", w.Name, err, left, len(l.witnesses), l.policy.Quorum), renew}
	}
	return nil
}

// keepWitnessed stores the checkpoint with its cosignatures when they make the quorum.
func (l *Log) keepWitnessed(ctx context.Context, cp tlog.Checkpoint) (bool, error) {
	note := append([]byte(nil), cp.Raw...)
	cosigned := 0
	for _, w := range l.witnesses {
		if w.size == cp.Size && w.line != nil {
			note = append(note, w.line...)
			cosigned++
		}
	}
	if cosigned == 0 || cosigned < l.policy.Quorum {
		return l.policy.Quorum == 0, nil
	}
	if _, err := tlog.OpenCheckpoint(note, l.policy); err != nil {
		return false, err
	}
	name := l.c.Key.id() + witnessRow
	last, err := l.c.Store.Checkpoint(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	if last.Size > int64(cp.Size) {
		return true, nil // another replica was faster
	}
	err = l.c.Store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Locks, Key: lockName, Version: l.fence}, {Table: store.Checkpoints, Key: name, Version: last.Version}},
		Writes: []store.Write{store.PutCheckpoint{Checkpoint: store.Checkpoint{Name: name, Size: int64(cp.Size), Root: cp.Root, Note: note, At: l.c.Now()}}},
	})
	if err != nil {
		l.fence = 0
		return false, fmt.Errorf("cannot store the cosigned checkpoint of %d leaves: %w", cp.Size, err)
	}
	l.confirmed = cp.Size
	l.setStatus(func(s *Status) { s.Witnessed = int64(cp.Size) })
	return true, nil
}
