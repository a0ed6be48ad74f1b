package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Kind is the type of a column, the same on both engines.
type Kind string

// The kinds.
const (
	KindInt   Kind = "int"
	KindBytes Kind = "bytes"
	KindText  Kind = "text"
	KindBool  Kind = "bool"
)

// kinds are the types that columns have in either engine's catalog.
var kinds = map[string]Kind{
	"bigint": KindInt, "integer": KindInt, "bytea": KindBytes, "blob": KindBytes, "text": KindText, "boolean": KindBool,
}

// TableShape is a table with its columns.
type TableShape struct {
	Name    string        `json:"name"`
	Columns []ColumnShape `json:"columns"`
}

// ColumnShape is a column.
type ColumnShape struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
}

// Snapshot is the whole database as it was at one moment, while servers go on writing. It belongs to one goroutine.
type Snapshot struct {
	Engine string // "sqlite" or "postgres"
	Schema int64  // the last migration that the database has seen
	Tables []TableShape

	conn *sql.Conn
}

// ErrEmpty is returned for a database that no server has used.
var ErrEmpty = errors.New("the database is empty")

// tables that a snapshot leaves out: the schema has its number, and the ring of commits is about connections that are gone.
var notInSnapshot = []string{"schema_migrations", "commits"}

// ReadSnapshot shows the database that dsn names to read, all of it from one moment. It changes nothing. A database that
// is not there or was never used is ErrEmpty; one that a newer build has migrated is ErrNewerSchema.
func ReadSnapshot(ctx context.Context, dsn string, read func(*Snapshot) error) error {
	if file, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: there is no file %s", ErrEmpty, file)
		}
	}
	e, err := openEngine(ctx, dsn)
	if err != nil {
		return fmt.Errorf("cannot open database: %w", err)
	}
	err = readSnapshot(ctx, e, read)
	return errors.Join(err, e.close())
}

func readSnapshot(ctx context.Context, e engine, read func(*Snapshot) error) error {
	conn, err := e.reader().Conn(ctx)
	if err != nil {
		return fmt.Errorf("cannot read database: %w: %w", ErrUnavailable, err)
	}
	defer conn.Close()
	text := catalogOf(e)
	if _, err := conn.ExecContext(ctx, text.begin); err != nil {
		return fmt.Errorf("cannot begin a snapshot: %w", err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // nothing was written
	s := &Snapshot{Engine: text.name, conn: conn}
	if s.Tables, err = readShapes(ctx, conn, text); err != nil {
		return err
	}
	if len(s.Tables) == 0 {
		return ErrEmpty
	}
	if err := conn.QueryRowContext(ctx, schemaVersion).Scan(&s.Schema); err != nil {
		return fmt.Errorf("cannot read schema version: %w", err)
	}
	if err := s.checkSchema(); err != nil {
		return err
	}
	s.Tables = slices.DeleteFunc(s.Tables, func(t TableShape) bool { return slices.Contains(notInSnapshot, t.Name) })
	return read(s)
}

func (s *Snapshot) checkSchema() error {
	all, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	if newest := int64(len(all)); s.Schema > newest {
		return fmt.Errorf("%w: its schema is %d, this build knows %d", ErrNewerSchema, s.Schema, newest)
	}
	return nil
}

// catalog holds what differs between the engines' own descriptions of a database.
type catalog struct {
	name, begin, columns, identities string
}

func catalogOf(e engine) catalog {
	if _, ok := e.(*sqliteEngine); ok {
		return catalog{name: "sqlite", begin: "BEGIN", columns: `SELECT t.name, c.name, lower(c.type) FROM sqlite_master t
			JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' ORDER BY t.name, c.name`}
	}
	return catalog{name: "postgres", begin: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
		columns: `SELECT c.table_name, c.column_name, lower(c.data_type) FROM information_schema.columns c
			JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
			WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
			ORDER BY c.table_name COLLATE "C", c.column_name COLLATE "C"`,
		identities: `SELECT table_name, column_name FROM information_schema.columns
			WHERE table_schema = current_schema() AND is_identity = 'YES'`}
}

// querier is a connection or a pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func readShapes(ctx context.Context, q querier, text catalog) ([]TableShape, error) {
	rows, err := q.QueryContext(ctx, text.columns)
	if err != nil {
		return nil, fmt.Errorf("cannot list tables: %w", err)
	}
	defer rows.Close()
	var out []TableShape
	for rows.Next() {
		var table, column, typ string
		if err := rows.Scan(&table, &column, &typ); err != nil {
			return nil, fmt.Errorf("cannot list tables: %w", err)
		}
		kind, ok := kinds[typ]
		if !ok {
			return nil, fmt.Errorf("cannot copy column %s.%s: type %q has no kind", table, column, typ)
		}
		if len(out) == 0 || out[len(out)-1].Name != table {
			out = append(out, TableShape{Name: table})
		}
		t := &out[len(out)-1]
		t.Columns = append(t.Columns, ColumnShape{Name: column, Kind: kind})
	}
	return out, rows.Err()
}

// Rows hands every row of a table to each. A value is nil, int64, []byte, string or bool, by its column's kind; it is
// valid until each returns.
func (s *Snapshot) Rows(ctx context.Context, t TableShape, each func([]any) error) error {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	rows, err := s.conn.QueryContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+t.Name)
	if err != nil {
		return fmt.Errorf("cannot read table %s: %w", t.Name, err)
	}
	defer rows.Close()
	values, dest := make([]any, len(names)), make([]any, len(names))
	for i := range dest {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return fmt.Errorf("cannot read table %s: %w", t.Name, err)
		}
		for i, c := range t.Columns {
			if values[i], err = c.normal(values[i]); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
		}
		if err := each(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("cannot read table %s: %w", t.Name, err)
	}
	return nil
}

// normal makes what a driver returns the one Go type of the column's kind.
func (c ColumnShape) normal(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch c.Kind {
	case KindInt:
		if n, ok := v.(int64); ok {
			return n, nil
		}
	case KindText:
		switch s := v.(type) {
		case string:
			return s, nil
		case []byte:
			return string(s), nil
		}
	case KindBytes:
		switch b := v.(type) {
		case []byte:
			return nonNil(b), nil // SQLite hands out empty bytes as nil
		case string:
			return []byte(b), nil
		}
	case KindBool:
		switch b := v.(type) {
		case bool:
			return b, nil
		case int64:
			return b != 0, nil
		}
	}
	return nil, fmt.Errorf("column %s holds a %T, want %s", c.Name, v, c.Kind)
}

// Setting returns a setting as it was at the moment of the snapshot, or ErrNotFound.
func (s *Snapshot) Setting(ctx context.Context, name string) (value []byte, version int64, err error) {
	err = s.conn.QueryRowContext(ctx, `SELECT value, version FROM settings WHERE name = $1`, name).Scan(&value, &version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, fmt.Errorf("setting %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read setting %s: %w", name, err)
	}
	return value, version, nil
}

// Events is the number of the newest audit event at the moment of the snapshot.
func (s *Snapshot) Events(ctx context.Context) (n int64, err error) {
	if err = s.conn.QueryRowContext(ctx, `SELECT number FROM audit_head WHERE one = 1`).Scan(&n); err != nil {
		return 0, fmt.Errorf("cannot read the newest event: %w", err)
	}
	return n, nil
}

// Releases returns all releases at the moment of the snapshot.
func (s *Snapshot) Releases(ctx context.Context) ([]Release, error) {
	rows, err := s.conn.QueryContext(ctx, selectRelease+`ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("cannot read releases: %w", err)
	}
	defer rows.Close()
	var out []Release
	for rows.Next() {
		var r Release
		if err := rows.Scan(scanRelease(&r)...); err != nil {
			return nil, fmt.Errorf("cannot read releases: %w", err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}
