package store_test

import (
	"log/slog"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/store"
	"github.com/cordon-ota/cordon/server/store/storetest"
)

// engines returns, for each engine, a maker of addresses of empty databases.
func engines() map[string]func(t testing.TB) string {
	return map[string]func(t testing.TB) string{
		"sqlite":   func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "a b?%41#.db") },
		"postgres": func(t testing.TB) string { return parts.TestPostgres(t) },
	}
}

// onEach runs a test once per engine.
func onEach(t *testing.T, run func(t *testing.T, dsn string)) {
	t.Parallel()
	for name, address := range engines() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, address(t))
		})
	}
}

func open(t testing.TB, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	for name, address := range engines() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) *store.Store { return open(t, address(t)) })
		})
	}
}

// TestContractWithoutPreparedStatements: as behind a pooler in transaction mode, which keeps none.
func TestContractWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) *store.Store {
		u, err := url.Parse(parts.TestPostgres(t))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("default_query_exec_mode", "exec")
		u.RawQuery = q.Encode()
		return open(t, u.String())
	})
}

// TestReplicas: the rules that concern many committers also hold between Stores that share nothing but the database.
func TestReplicas(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		for name, rule := range map[string]func(*testing.T, ...*store.Store){
			"LetExactlyOneWin":        storetest.LetsExactlyOneWin,
			"NumberEventsWithoutGaps": storetest.NumbersEventsWithoutGaps,
			"CountEveryIncrement":     storetest.CountsEveryIncrement,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dsn := engines()[engineOf(dsn)](t)
				rule(t, open(t, dsn), open(t, dsn), open(t, dsn))
			})
		}
	})
}

func engineOf(dsn string) string {
	if dsn[:6] == "sqlite" {
		return "sqlite"
	}
	return "postgres"
}
