package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	takeLock = `INSERT INTO locks (name, holder, fence, expires_at) VALUES ($1, $2, 1, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
		fence = CASE WHEN locks.holder = excluded.holder AND locks.expires_at > $4 THEN locks.fence ELSE locks.fence + 1 END
		WHERE locks.expires_at <= $4 OR locks.holder = excluded.holder`
	readLock          = `SELECT holder, fence FROM locks WHERE name = $1`
	unlock            = `UPDATE locks SET expires_at = 0 WHERE name = $1 AND holder = $2`
	sweepChallenges   = `DELETE FROM challenges WHERE expires_at <= $1`
	sweepEnrollTokens = `DELETE FROM enroll_tokens WHERE expires_at <= $1`
	sweepTokens       = `DELETE FROM tokens WHERE expires_at <= $1`
)

// Lock takes or renews the named lock for what one replica must do alone, until now + ttl. ok is false while somebody
// else holds it. The holder's name must be its own: two processes, two names.
//
// A lease is a promise about time, and clocks and pauses break it. What must not happen twice also states the fence in
// its Change: Expect{Table: Locks, Key: name, Version: fence}. The fence rises with every new holder and every lease
// that ran out.
func (s *Store) Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (fence int64, ok bool, err error) {
	if name == "" || holder == "" || ttl <= 0 {
		return 0, false, errors.New("cannot lock without name, holder and time to live")
	}
	take := statement{sql: takeLock, args: []any{name, holder, micros(now.Add(ttl)), micros(now)}, want: 1}
	err = s.alone(ctx, []statement{take})
	if isStatementFailure(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("cannot lock %s: %w", name, outcome(err))
	}
	// Somebody may have taken it over already: then it was ours only for a moment that has passed.
	var current string
	err = s.read.QueryRowContext(ctx, readLock, name).Scan(&current, &fence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, false, s.readError(ctx, "lock", err)
	}
	return fence, current == holder, nil
}

// Unlock gives the lock back if the holder still has it. The next holder gets a higher fence.
func (s *Store) Unlock(ctx context.Context, name, holder string) error {
	err := s.alone(ctx, []statement{{sql: unlock, args: []any{name, holder}, want: anyRows}})
	if err != nil {
		return fmt.Errorf("cannot unlock %s: %w", name, outcome(err))
	}
	return nil
}

// Sweep removes consumed challenges, enrollment tokens and access tokens that expired at or before the time. None of
// them would be accepted any more; what happened with them is in the audit events.
func (s *Store) Sweep(ctx context.Context, before time.Time) error {
	var all []statement
	for _, text := range []string{sweepChallenges, sweepEnrollTokens, sweepTokens} {
		all = append(all, statement{sql: text, args: []any{micros(before)}, want: anyRows})
	}
	if err := s.alone(ctx, all); err != nil {
		return fmt.Errorf("cannot sweep: %w", outcome(err))
	}
	return nil
}

// alone runs statements in a transaction of their own, under the same lock as every Commit.
func (s *Store) alone(ctx context.Context, statements []statement) error {
	w, err := s.engine.writer(ctx)
	if err != nil {
		return err
	}
	defer w.release()
	if _, _, err := w.begin(ctx, headText); err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	if err := w.exec(ctx, statements); err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	return w.commit(ctx)
}
