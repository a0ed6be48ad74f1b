package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// Store is the server's state. It is safe for concurrent use; several Stores, in one process or many, may share a
// database.
type Store struct {
	engine engine
	read   *sql.DB
	log    *slog.Logger
	queue  queue
	ended  chan struct{} // closed when the committer has returned

	closeOnce sync.Once
	closeErr  error
	hooks     hooks
}

// hooks let tests break things at the worst moment. They are nil outside tests and set before the first Commit.
type hooks struct {
	beforeCommit func() error // everything is written, nothing is durable
	afterCommit  func() error // durable, but the answer is lost
}

// Open connects to the database that dsn names and brings its schema up to date.
//
//	sqlite:FILE           a file in a folder that exists, for one replica
//	postgres://...        PostgreSQL 14 or newer, for any number; behind a pooler in transaction mode add
//	                      default_query_exec_mode=exec
//
// It returns ErrUnavailable when the database cannot be reached, and ErrNewerSchema when a newer build has used it.
func Open(ctx context.Context, dsn string, log *slog.Logger) (*Store, error) {
	if log == nil {
		return nil, errors.New("cannot open database: no logger given")
	}
	engine, err := openEngine(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("cannot open database: %w", err)
	}
	if err := migrate(ctx, engine, log); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot migrate database: %w", err), engine.close())
	}
	s := &Store{engine: engine, read: engine.reader(), log: log, ended: make(chan struct{})}
	s.queue.wake = make(chan struct{}, 1)
	go s.commitAll()
	return s, nil
}

func openEngine(ctx context.Context, dsn string) (engine, error) {
	switch {
	case strings.HasPrefix(dsn, "sqlite:"):
		return openSQLite(ctx, strings.TrimPrefix(dsn, "sqlite:"))
	case strings.HasPrefix(dsn, "postgres://"), strings.HasPrefix(dsn, "postgresql://"):
		return openPostgres(ctx, dsn)
	}
	return nil, errors.New(`its address must start with "sqlite:" or "postgres://"`)
}

// Close refuses new Changes, waits until the queued ones are decided, and disconnects.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.queue.close()
		<-s.ended
		s.closeErr = s.engine.close()
	})
	return s.closeErr
}
