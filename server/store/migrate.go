package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Migrations only go forward. All that are missing run in one transaction under a lock, so several replicas may start
// at once and a failed one leaves the schema as it was.

//go:embed migrations/*.sql
var migrationFiles embed.FS

// ErrNewerSchema is returned by Open when a newer build has migrated the database.
var ErrNewerSchema = errors.New("database was migrated by a newer build")

// migrateTimeout bounds a start that waits for another replica's migration.
const migrateTimeout = 10 * time.Minute

type migration struct {
	version int64
	name    string
	text    string
}

var migrationName = regexp.MustCompile(`^([0-9]{4})_[a-z0-9]+_[a-z0-9_]+\.sql$`)

// readMigrations returns the migrations of files in order; their numbers run from 1 without a gap.
func readMigrations(files fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(files, "migrations")
	if err != nil {
		return nil, err
	}
	var out []migration
	for _, e := range entries {
		match := migrationName.FindStringSubmatch(e.Name())
		if match == nil {
			return nil, fmt.Errorf("migration %q is not named NNNN_verb_noun.sql", e.Name())
		}
		version, err := strconv.ParseInt(match[1], 10, 64)
		if err != nil {
			return nil, err
		}
		if version != int64(len(out))+1 {
			return nil, fmt.Errorf("migration %q should have number %d", e.Name(), len(out)+1)
		}
		text, err := fs.ReadFile(files, "migrations/"+e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, migration{version: version, name: e.Name(), text: string(text)})
	}
	return out, nil
}

// statements splits at semicolons that end a line and leaves comments out: migrations hold no procedures.
func (m migration) statements() []string {
	var lines []string
	for line := range strings.Lines(m.text) {
		code, _, _ := strings.Cut(line, "--")
		lines = append(lines, strings.TrimRight(code, " \t\r\n"))
	}
	var out []string
	for _, s := range strings.Split(strings.Join(lines, "\n"), ";\n") {
		if s = strings.TrimSuffix(strings.TrimSpace(s), ";"); s != "" {
			out = append(out, s)
		}
	}
	return out
}

const (
	// schemaLockText stands for the lock of the schema; on SQLite the transaction itself is the lock.
	schemaLockText   = `SELECT 0, 0`
	createMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations (version bigint PRIMARY KEY, name text NOT NULL)`
	schemaVersion    = `SELECT coalesce(max(version), 0) FROM schema_migrations`
	addMigration     = `INSERT INTO schema_migrations (version, name) VALUES ($1, $2)`
)

func migrate(ctx context.Context, e engine, log *slog.Logger) error {
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	return migrateTo(ctx, e, migrations, log)
}

func migrateTo(ctx context.Context, e engine, migrations []migration, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	err := underSchemaLock(ctx, e, func(w writer) error { return w.exec(ctx, one(e.ddl(createMigrations))) })
	if err != nil {
		return err
	}
	return underSchemaLock(ctx, e, func(w writer) error { return runMissing(ctx, e, w, migrations, log) })
}

func underSchemaLock(ctx context.Context, e engine, run func(writer) error) error {
	w, err := e.writer(ctx)
	if err != nil {
		return outcome(err)
	}
	defer w.release()
	if _, _, err := w.begin(ctx, schemaLockText); err != nil {
		return errors.Join(outcome(err), w.rollback(ctx))
	}
	if err := run(w); err != nil {
		return errors.Join(err, w.rollback(ctx))
	}
	return w.commit(ctx)
}

// runMissing reads the version outside the transaction: the lock is held, and what another replica did is committed.
func runMissing(ctx context.Context, e engine, w writer, migrations []migration, log *slog.Logger) error {
	var current int64
	if err := e.reader().QueryRowContext(ctx, schemaVersion).Scan(&current); err != nil {
		return fmt.Errorf("cannot read schema version: %w", err)
	}
	newest := int64(len(migrations))
	if current > newest {
		return fmt.Errorf("%w: its schema is %d, this build knows %d; start the build that migrated it, or a newer one",
			ErrNewerSchema, current, newest)
	}
	for _, m := range migrations[current:] {
		for _, text := range m.statements() {
			if err := w.exec(ctx, one(e.ddl(text))); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
		}
		if err := w.exec(ctx, []statement{{sql: addMigration, args: []any{m.version, m.name}, want: 1}}); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
		log.Info("database migrated", "migration", m.name)
	}
	return nil
}

func one(text string) []statement { return []statement{{sql: text, want: anyRows}} }
