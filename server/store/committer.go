package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A batch is what is queued, up to these bounds. There is no artificial delay: the next batch forms while one commits.
const (
	maxBatchChanges = 256
	maxBatchBytes   = 8 << 20
)

// batchTimeout ends a batch that the database does not answer. Its outcome then is ErrUnavailable.
const batchTimeout = 30 * time.Second

// batchTries bounds how often a batch is begun again after a lost connection or a serialisation failure.
const batchTries = 3

// pending is a Change on its way through the committer.
type pending struct {
	change compiled
	taken  atomic.Bool // whoever sets it first decides: the committer takes the Change, or its caller takes it back
	done   chan error
}

// queue is unbounded: every entry is a caller that waits, and the edges bound those.
type queue struct {
	wake chan struct{}

	mu     sync.Mutex
	items  []*pending // guarded by mu
	closed bool       // guarded by mu
}

var errClosed = fmt.Errorf("store is closed: %w", ErrUnavailable)

func (q *queue) add(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	q.items = append(q.items, p)
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// take waits for Changes and returns the next batch; ok is false when the queue is closed and empty.
func (q *queue) take() (batch []*pending, ok bool) {
	for {
		batch, closed := q.next()
		if len(batch) > 0 {
			return batch, true
		}
		if closed {
			return nil, false
		}
		<-q.wake
	}
}

func (q *queue) next() (batch []*pending, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, n := 0, 0
	for _, p := range q.items {
		if len(batch) == maxBatchChanges || (len(batch) > 0 && size+p.change.size > maxBatchBytes) {
			break
		}
		n++
		if p.taken.CompareAndSwap(false, true) {
			batch = append(batch, p)
			size += p.change.size
		}
	}
	q.items = append([]*pending(nil), q.items[n:]...)
	return batch, q.closed && len(q.items) == 0
}

// Commit makes the Change durable as a whole, or returns an error and nothing of it is applied.
//
// ErrConflict: an Expect or a unique rule did not hold; read again, decide again. ErrUnavailable: the database could
// not be reached and nothing was applied; only when it is lost during COMMIT and stays away the error says that nobody
// knows. When ctx ends while the Change is still queued it is not applied; once it is part of a batch the
// outcome is awaited. The caller leaves the Change's bytes alone until Commit returns.
func (s *Store) Commit(ctx context.Context, c Change) error {
	change, err := compile(c)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	p := &pending{change: change, done: make(chan error, 1)}
	if err := s.queue.add(p); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	select {
	case err = <-p.done:
	case <-ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("cannot commit: %w", ctx.Err())
		}
		err = <-p.done
	}
	if err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// commitAll is the committer: one goroutine that owns the writing connection.
func (s *Store) commitAll() {
	defer close(s.ended)
	for {
		batch, ok := s.queue.take()
		if !ok {
			return
		}
		for i, err := range s.commitBatch(batch) {
			batch[i].done <- err
		}
	}
}

// commitBatch tries all Changes as one; when one of them fails, or the connection is lost before anything was decided,
// it begins again. It returns one outcome per Change.
func (s *Store) commitBatch(batch []*pending) []error {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	outcomes := make([]error, len(batch))
	err := s.tryBatch(ctx, batch, nil)
	for range batchTries {
		if err == nil {
			return outcomes
		}
		retry := !errors.Is(err, errOutcomeUnknown) && !isStatementFailure(err) && s.engine.fault(err) == faultRetry
		if !retry && (!isStatementFailure(err) || len(batch) == 1) {
			break
		}
		if !isStatementFailure(err) {
			s.log.Warn("database transaction begun again", "error", err, "changes", len(batch))
		}
		clear(outcomes)
		err = s.tryBatch(ctx, batch, outcomes)
	}
	if err == nil {
		return outcomes
	}
	for i := range outcomes {
		outcomes[i] = outcome(err)
	}
	if isStatementFailure(err) {
		return outcomes
	}
	s.log.Error("database cannot take changes", "error", err, "changes", len(batch))
	return outcomes
}

// tryBatch runs one transaction. With outcomes every Change has a savepoint of its own, and the culprits' outcomes are
// set there; without, the first failure ends the transaction.
func (s *Store) tryBatch(ctx context.Context, batch []*pending, outcomes []error) error {
	w, err := s.engine.writer(ctx)
	if err != nil {
		return err
	}
	defer w.release()
	number, commits, err := w.begin(ctx, headText)
	if err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	mark := commitMark{number: commits + 1}
	rand.Read(mark.instance[:])
	if outcomes == nil {
		err = applyAll(ctx, w, batch, number, mark)
	} else {
		err = applyEach(ctx, w, batch, number, mark, outcomes)
	}
	if err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	return s.finish(ctx, w, mark)
}

// applyAll sends every statement of the batch at once.
func applyAll(ctx context.Context, w writer, batch []*pending, number int64, mark commitMark) error {
	var all []statement
	for _, p := range batch {
		all = append(all, p.change.statements...)
		for _, e := range p.change.events {
			number++
			all = append(all, e.statement(number))
		}
	}
	return w.exec(ctx, append(all, headStatements(number, mark)...))
}

var (
	setSavepoint  = statement{sql: "SAVEPOINT one_change", want: anyRows}
	freeSavepoint = statement{sql: "RELEASE SAVEPOINT one_change", want: anyRows}
	toSavepoint   = statement{sql: "ROLLBACK TO SAVEPOINT one_change", want: anyRows}
)

// applyEach applies one Change after the other, so that those that fail do not hurt the rest and leave no number unused.
// A savepoint is released only with the next Change: statements travel together, so a wrong count is seen after all of
// them have run, and the way back must still be there.
func applyEach(ctx context.Context, w writer, batch []*pending, number int64, mark commitMark, outcomes []error) error {
	for i, p := range batch {
		all := []statement{setSavepoint}
		if i > 0 {
			all = []statement{freeSavepoint, setSavepoint}
		}
		all = append(all, p.change.statements...)
		next := number
		for _, e := range p.change.events {
			next++
			all = append(all, e.statement(next))
		}
		err := w.exec(ctx, all)
		if err == nil {
			number = next
			continue
		}
		if !isStatementFailure(err) {
			return err
		}
		outcomes[i] = outcome(err)
		if err := w.exec(ctx, []statement{toSavepoint}); err != nil {
			return err
		}
	}
	return w.exec(ctx, headStatements(number, mark))
}

// headText reads the locked row: the newest audit number, and how many transactions there were.
const headText = `SELECT number, commits FROM audit_head WHERE one = 1`

// commitMark tells one transaction from all others.
type commitMark struct {
	number   int64
	instance [16]byte
}

// commitSlots is how many transactions the database remembers.
const commitSlots = 4096

const (
	setHead = `UPDATE audit_head SET number = $1, commits = $2 WHERE one = 1`
	setMark = `INSERT INTO commits (slot, number, instance) VALUES ($1, $2, $3)
		ON CONFLICT (slot) DO UPDATE SET number = excluded.number, instance = excluded.instance`
	getMark = `SELECT 1 FROM commits WHERE slot = $1 AND number = $2 AND instance = $3`
)

func headStatements(number int64, mark commitMark) []statement {
	return []statement{
		{sql: setHead, args: []any{number, mark.number}, want: 1},
		{sql: setMark, args: []any{mark.number % commitSlots, mark.number, mark.instance[:]}, want: 1},
	}
}

// errOutcomeUnknown: COMMIT was sent, its answer was lost, and the database could not be asked either.
var errOutcomeUnknown = errors.New("the connection broke during COMMIT and the database does not answer: " +
	"the change may have been applied, read before trying again")

// finish commits. When the answer is lost it asks the database on a new connection whether the transaction took place.
func (s *Store) finish(ctx context.Context, w writer, mark commitMark) error {
	if s.hooks.beforeCommit != nil {
		if err := s.hooks.beforeCommit(); err != nil {
			return errors.Join(err, w.rollback(ctx))
		}
	}
	err := w.commit(ctx)
	if err == nil && s.hooks.afterCommit != nil {
		err = s.hooks.afterCommit()
	}
	if err == nil {
		return nil
	}
	_ = w.rollback(ctx) // whatever of it is still open must not hold the lock that the question waits for
	w.release()
	s.log.Warn("answer to COMMIT lost: asking the database", "error", err)
	took, askErr := s.tookPlace(mark)
	switch {
	case askErr != nil:
		return fmt.Errorf("%w: %w: %w: %w", ErrUnavailable, errOutcomeUnknown, err, askErr)
	case took:
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// tookPlace locks the head row, which a transaction that is still under way would hold, and then looks for the mark.
func (s *Store) tookPlace(mark commitMark) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	w, err := s.engine.writer(ctx)
	if err != nil {
		return false, err
	}
	defer w.release()
	if _, _, err := w.begin(ctx, headText); err != nil {
		return false, errors.Join(err, w.rollback(ctx))
	}
	err = w.exec(ctx, []statement{{
		sql: getMark, args: []any{mark.number % commitSlots, mark.number, mark.instance[:]}, returns: true, want: 1,
	}})
	if isStatementFailure(err) {
		return false, w.rollback(ctx)
	}
	return err == nil, errors.Join(err, w.rollback(ctx))
}
