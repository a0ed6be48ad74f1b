package store_test

import (
	"errors"
	"fmt"
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

// after is the name of a migration that comes as the n-th after those of the build.
func after(t *testing.T, n int, name string) string {
	t.Helper()
	return fmt.Sprintf("%04d_%s.sql", len(migrations(t, nil))+n, name)
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
		newer := migrations(t, map[string]string{after(t, 1, "add_extra"): "CREATE TABLE extra (a bigint);\n-- done; really\n"})
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
		if !errors.Is(err, store.ErrNewerSchema) || !strings.Contains(err.Error(), fmt.Sprintf("its schema is %d, this build knows %d", len(newer), len(newer)-1)) {
			t.Errorf("Open: got %v, want %v", err, store.ErrNewerSchema)
		}
	})
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		bad := migrations(t, map[string]string{
			after(t, 1, "add_extra"):  "CREATE TABLE extra (a bigint);\n",
			after(t, 2, "break_this"): "CREATE TABLE more (a bigint);\nCREATE TABLE extra (a bigint);\n",
		})
		err := store.MigrateWith(t.Context(), dsn, bad, discard)
		if err == nil || !strings.Contains(err.Error(), after(t, 2, "break_this")) {
			t.Fatalf("migrate: got %v, want an error that names the file", err)
		}
		good := migrations(t, map[string]string{after(t, 1, "add_extra"): "CREATE TABLE extra (a bigint);\nCREATE TABLE more (a bigint);\n"})
		if err := store.MigrateWith(t.Context(), dsn, good, discard); err != nil {
			t.Errorf("migrate after failure: %v", err)
		}
	})
}

func TestRefusesMisnamedMigrations(t *testing.T) {
	t.Parallel()
	number, gap := after(t, 1, "")[:4], after(t, 2, "")[:4]
	for _, name := range []string{"2_add_extra.sql", gap + "_add_extra.sql", number + "_Extra.sql", number + "_extra.sql", number + "_add_extra.txt", "0001_again_too.sql"} {
		dsn := engines()["sqlite"](t)
		if err := store.MigrateWith(t.Context(), dsn, migrations(t, map[string]string{name: "SELECT 1"}), discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
