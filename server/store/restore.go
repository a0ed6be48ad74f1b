package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// ErrNotEmpty is returned by Restore for a database that a server has used: nothing in it is ever overwritten.
var ErrNotEmpty = errors.New("the database is not empty")

// Restored says what a restore makes of a snapshot: the new server's state, beside what the rows say.
type Restored struct {
	At          time.Time
	Setting     PutSetting // the epoch
	Event       Event
	EventNumber int64 // the one behind the newest event of the snapshot
}

// Loader puts the rows of a snapshot into an empty database. It belongs to one goroutine.
type Loader struct {
	w       writer
	ctx     context.Context
	shapes  map[string]TableShape
	pending []statement
	size    int
}

// Bounds of one round trip.
const (
	loadRows  = 128
	loadBytes = 4 << 20
)

// CheckRestore says whether Restore could begin: ErrNotEmpty when a server has used the database, ErrNewerSchema when this
// build does not know the schema. It makes a SQLite file if there is none.
func CheckRestore(ctx context.Context, dsn string, schema int64) error {
	if err := checkKnown(schema); err != nil {
		return err
	}
	e, err := openEngine(ctx, dsn)
	if err != nil {
		return fmt.Errorf("cannot open database: %w", err)
	}
	return errors.Join(checkUnused(ctx, e), e.close())
}

func checkKnown(schema int64) error {
	all, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	if schema < 1 || schema > int64(len(all)) {
		return fmt.Errorf("%w: its schema is %d, this build knows %d", ErrNewerSchema, schema, len(all))
	}
	return nil
}

// Restore fills an empty database with the rows that fill hands to the Loader, which are of that schema, and makes it the
// state of a restored server: no lease, no stored answer, no challenge, no unused enrollment token, no enforcement order
// and no lock of the past counts any more. All of it happens in one transaction or not at all; a database that a server has
// used is ErrNotEmpty.
func Restore(ctx context.Context, dsn string, schema int64, r Restored, log *slog.Logger, fill func(*Loader) error) error {
	e, err := openEngine(ctx, dsn)
	if err != nil {
		return fmt.Errorf("cannot open database: %w", err)
	}
	err = restore(ctx, e, schema, r, log, fill)
	return errors.Join(err, e.close())
}

func restore(ctx context.Context, e engine, schema int64, r Restored, log *slog.Logger, fill func(*Loader) error) error {
	if err := checkKnown(schema); err != nil {
		return err
	}
	all, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	if err := checkUnused(ctx, e); err != nil {
		return err
	}
	if err := migrateTo(ctx, e, all[:schema], log); err != nil {
		return fmt.Errorf("cannot migrate database: %w", err)
	}
	if err := load(ctx, e, r, fill); err != nil {
		return err
	}
	return migrateTo(ctx, e, all, log)
}

// checkUnused refuses a database in which a server has ever written something.
func checkUnused(ctx context.Context, e engine) error {
	shapes, err := readShapes(ctx, e.reader(), catalogOf(e))
	if err != nil {
		return err
	}
	if len(shapes) == 0 {
		return nil
	}
	if !slices.ContainsFunc(shapes, func(t TableShape) bool { return t.Name == "audit_head" }) {
		if len(shapes) == 1 && shapes[0].Name == "schema_migrations" {
			return nil
		}
		return fmt.Errorf("%w: it holds the table %s, which is not ours", ErrNotEmpty, shapes[0].Name)
	}
	var number, commits int64
	if err := e.reader().QueryRowContext(ctx, headText).Scan(&number, &commits); err != nil {
		return fmt.Errorf("cannot read database: %w", err)
	}
	if number != 0 || commits != 0 {
		return fmt.Errorf("%w: a server has written %d events to it", ErrNotEmpty, number)
	}
	return nil
}

// load runs the one transaction that fills the database.
func load(ctx context.Context, e engine, r Restored, fill func(*Loader) error) error {
	w, err := e.writer(ctx)
	if err != nil {
		return outcome(err)
	}
	defer w.release()
	number, commits, err := w.begin(ctx, headText)
	if err == nil && (number != 0 || commits != 0) {
		err = ErrNotEmpty // somebody was faster
	}
	if err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	if err := loadAll(ctx, e, w, r, fill); err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	if err := w.commit(ctx); err != nil {
		return fmt.Errorf("cannot commit the restored database: %w", err)
	}
	return nil
}

func loadAll(ctx context.Context, e engine, w writer, r Restored, fill func(*Loader) error) error {
	shapes, err := readShapes(ctx, e.reader(), catalogOf(e))
	if err != nil {
		return err
	}
	l := &Loader{w: w, ctx: ctx, shapes: map[string]TableShape{}}
	for _, t := range shapes {
		if slices.Contains(notInSnapshot, t.Name) {
			continue
		}
		l.shapes[t.Name] = t
		if err := w.exec(ctx, one("DELETE FROM "+t.Name)); err != nil { // what the migrations themselves put there
			return outcome(err)
		}
	}
	if err := fill(l); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.identities(e); err != nil {
		return err
	}
	return l.begin(r)
}

// Add adds one row of a table; values are as Snapshot.Rows hands them out. The table must have exactly the columns that
// it has in this schema.
func (l *Loader) Add(t TableShape, row []any) error {
	have, ok := l.shapes[t.Name]
	if !ok || !slices.Equal(have.Columns, t.Columns) || len(row) != len(t.Columns) {
		return fmt.Errorf("cannot restore table %s: its columns are not those of this schema", t.Name)
	}
	values := make([]any, len(row))
	names := make([]string, len(row))
	for i, c := range t.Columns {
		v, err := c.normal(row[i])
		if err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
		values[i], names[i] = v, c.Name
		switch v := v.(type) {
		case []byte:
			l.size += len(v)
		case string:
			l.size += len(v)
		}
	}
	text := "INSERT INTO " + t.Name + " (" + strings.Join(names, ", ") + ") VALUES (" + placeholders(len(names)) + ")"
	l.pending = append(l.pending, statement{sql: text, args: values, want: 1})
	if len(l.pending) < loadRows && l.size < loadBytes {
		return nil
	}
	return l.flush()
}

func (l *Loader) flush() error {
	if len(l.pending) == 0 {
		return nil
	}
	if err := l.w.exec(l.ctx, l.pending); err != nil {
		return fmt.Errorf("cannot restore rows: %w", outcome(err))
	}
	l.pending, l.size = l.pending[:0], 0
	return nil
}

// identities lets numbers that the database hands out go on behind those that were loaded.
func (l *Loader) identities(e engine) error {
	text := catalogOf(e).identities
	if text == "" {
		return nil // SQLite counts explicit values, too
	}
	rows, err := e.reader().QueryContext(l.ctx, text)
	if err != nil {
		return fmt.Errorf("cannot list numbered columns: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			return fmt.Errorf("cannot list numbered columns: %w", err)
		}
		set := fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s', '%s'), coalesce(max(%s), 0) + 1, false) FROM %s", table, column, column, table)
		if err := l.w.exec(l.ctx, one(set)); err != nil {
			return fmt.Errorf("cannot set the next number of %s: %w", table, outcome(err))
		}
	}
	return rows.Err()
}

// What a restored server does not count on any more. The texts use only what every schema since the first has.
const (
	// Everybody has to prove again; the grace begins with the restore, since nobody could prove anything before it.
	voidLeases = `UPDATE devices SET version = version + 1, standing = 'stale', stale_since = $1, lease_until = 0
		WHERE lifecycle = 'active' AND (standing = 'affirmed' OR (standing = 'stale' AND segment = 'production'))`
	voidAnswers      = `UPDATE devices SET last_poll = NULL, last_answer = NULL`
	voidChallenges   = `DELETE FROM challenges`
	voidEnrollTokens = `DELETE FROM enroll_tokens WHERE used_at = 0`
	// The network may have seen newer orders; each device gets one of the new epoch.
	voidOrders = `UPDATE orders SET superseded = TRUE`
	voidLocks  = `UPDATE locks SET expires_at = 0, fence = fence + 1`
	moveHead   = `UPDATE audit_head SET number = $1, commits = commits + 1 WHERE one = 1 AND number = $2`
	putSetting = `INSERT INTO settings (name, version, value) VALUES ($1, 1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, version = settings.version + 1`
)

// begin makes the loaded rows the beginning of a new epoch.
func (l *Loader) begin(r Restored) error {
	event, err := compileEvent(r.Event)
	if err != nil {
		return err
	}
	number := r.EventNumber
	all := []statement{
		{sql: voidLeases, args: []any{micros(r.At)}, want: anyRows},
		{sql: putSetting, args: []any{r.Setting.Name, r.Setting.Value}, want: 1},
		event.statement(number),
		{sql: moveHead, args: []any{number, number - 1}, want: 1}, // an archive whose head is another one is refused here
	}
	for _, text := range []string{voidAnswers, voidChallenges, voidEnrollTokens, voidOrders, voidLocks} {
		if err := l.w.exec(l.ctx, one(text)); err != nil {
			return fmt.Errorf("cannot begin a new epoch: %w", outcome(err))
		}
	}
	if err := l.w.exec(l.ctx, all); err != nil {
		return fmt.Errorf("cannot begin a new epoch: %w", outcome(err))
	}
	return nil
}
