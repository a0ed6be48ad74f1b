package store

import (
	"context"
	"io/fs"
	"log/slog"
)

// BeforeCommit runs f when everything of a transaction is written and nothing is durable; an error abandons it.
func (s *Store) BeforeCommit(f func() error) { s.hooks.beforeCommit = f }

// AfterCommit runs f when a transaction is durable; an error stands for an answer that was lost.
func (s *Store) AfterCommit(f func() error) { s.hooks.afterCommit = f }

// Queued returns how many Changes wait for the committer.
func (s *Store) Queued() int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return len(s.queue.items)
}

// MigrateWith migrates the database at dsn with other migrations than the build's.
func MigrateWith(ctx context.Context, dsn string, files fs.FS, log *slog.Logger) error {
	migrations, err := readMigrations(files)
	if err != nil {
		return err
	}
	e, err := openEngine(ctx, dsn)
	if err != nil {
		return err
	}
	defer e.close()
	return migrateTo(ctx, e, migrations, log)
}
