package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// engine is SQLite or PostgreSQL: everything that differs between the two stands in dialect.go. It is safe for
// concurrent use.
type engine interface {
	// reader is for statements that write nothing. They see committed rows only.
	reader() *sql.DB
	// writer takes a connection for one transaction; it waits for a free one until ctx ends.
	writer(ctx context.Context) (writer, error)
	// fault says what an error of its driver means.
	fault(err error) fault
	// ddl translates a statement of a migration.
	ddl(text string) string
	// close disconnects; queries under way are waited for.
	close() error
}

// writer is one transaction at a time on one connection. It belongs to one goroutine.
type writer interface {
	// begin opens the transaction. lock, a SELECT of two integers, is its first statement; the row it returns, or on
	// SQLite the whole file, is locked against all other writers until the end.
	begin(ctx context.Context, lock string) (a, b int64, err error)
	// exec runs the statements in order up to the first that fails. A *statementFailure leaves the connection usable,
	// but the transaction has to go back to a savepoint or to its start.
	exec(ctx context.Context, statements []statement) error
	// commit returns nil only when everything is durable.
	commit(ctx context.Context) error
	// rollback ends the transaction if there is one.
	rollback(ctx context.Context) error
	// release gives the connection back; a second call does nothing.
	release()
}

// fault is what an error of a driver means to the committer.
type fault int

const (
	faultUnavailable fault = iota // the database, the disk or the network failed; trying again at once is no use
	faultRetry                    // the connection broke or the transaction lost a race before anything was decided
	faultConflict                 // a unique rule did not hold
	faultStatement                // the statement is at fault: its Change alone fails
)

// statementFailure says that a statement was refused or touched another number of rows than it must; the connection
// itself is fine.
type statementFailure struct{ err error }

func (e *statementFailure) Error() string { return e.err.Error() }
func (e *statementFailure) Unwrap() error { return e.err }

func isStatementFailure(err error) bool {
	_, ok := errors.AsType[*statementFailure](err)
	return ok
}

// countRows is the check behind every statement.
func countRows(s statement, rows int64) error {
	if s.want == anyRows || rows == s.want {
		return nil
	}
	return &statementFailure{ErrConflict}
}

// statementError sorts the error of one statement: its Change's fault, or the connection's.
func statementError(e engine, err error) error {
	switch e.fault(err) {
	case faultConflict:
		return &statementFailure{fmt.Errorf("%w: %w", ErrConflict, err)}
	case faultStatement:
		return &statementFailure{err}
	case faultRetry, faultUnavailable:
		return err
	}
	return err
}

// outcome is the error that the caller of Commit sees.
func outcome(err error) error {
	if failure, ok := errors.AsType[*statementFailure](err); ok {
		return failure.err
	}
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
