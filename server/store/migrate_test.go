package store_test

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/cordon-ota/cordon/server/store"
)

var discard = slog.New(slog.DiscardHandler)

func TestMigratesOnceHoweverManyStart(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				s, err := store.Open(t.Context(), dsn, discard)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		}
		wg.Wait()
		s := open(t, dsn)
		if err := s.Commit(t.Context(), newDevice("a")); err != nil {
			t.Errorf("Commit: %v", err)
		}
	})
}

// migrations returns the build's migrations and more.
func migrations(t *testing.T, more map[string]string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	entries, err := os.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile("migrations/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		files["migrations/"+e.Name()] = &fstest.MapFile{Data: b}
	}
	for name, text := range more {
		files["migrations/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

func TestRefusesNewerSchema(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		if err := s.Commit(t.Context(), newDevice("a")); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		newer := migrations(t, map[string]string{"0002_add_extra.sql": "CREATE TABLE extra (a bigint);\n-- done; really\n"})
		for range 2 {
			if err := store.MigrateWith(t.Context(), dsn, newer, discard); err != nil {
				t.Fatalf("migrate: %v", err)
			}
		}
		if err := s.Commit(t.Context(), newDevice("b")); err != nil { // a rolling upgrade: the old build still runs
			t.Errorf("Commit of the old build on the new schema: %v", err)
		}
		wantDevices(t, s, "a", "b")
		_, err := store.Open(t.Context(), dsn, discard)
		if !errors.Is(err, store.ErrNewerSchema) || !strings.Contains(err.Error(), "its schema is 2, this build knows 1") {
			t.Errorf("Open: got %v, want %v", err, store.ErrNewerSchema)
		}
	})
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		bad := migrations(t, map[string]string{
			"0002_add_extra.sql":  "CREATE TABLE extra (a bigint);\n",
			"0003_break_this.sql": "CREATE TABLE more (a bigint);\nCREATE TABLE extra (a bigint);\n",
		})
		err := store.MigrateWith(t.Context(), dsn, bad, discard)
		if err == nil || !strings.Contains(err.Error(), "0003_break_this.sql") {
			t.Fatalf("migrate: got %v, want an error that names the file", err)
		}
		good := migrations(t, map[string]string{"0002_add_extra.sql": "CREATE TABLE extra (a bigint);\nCREATE TABLE more (a bigint);\n"})
		if err := store.MigrateWith(t.Context(), dsn, good, discard); err != nil {
			t.Errorf("migrate after failure: %v", err)
		}
	})
}

func TestRefusesMisnamedMigrations(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2_add_extra.sql", "0003_add_extra.sql", "0002_Extra.sql", "0002_extra.sql", "0002_add_extra.txt", "0001_again_too.sql"} {
		dsn := engines()["sqlite"](t)
		if err := store.MigrateWith(t.Context(), dsn, migrations(t, map[string]string{name: "SELECT 1"}), discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
