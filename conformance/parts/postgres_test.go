package parts_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/jackc/pgx/v5"
)

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	defer conn.Close(t.Context())
	var got string
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func exec1(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	t.Parallel()
	one, two := parts.TestPostgres(t), parts.TestPostgres(t)
	exec1(t, one, "CREATE TABLE t (n bigint)")
	if got := query(t, one, "SELECT to_regclass('t') IS NOT NULL || ''"); got != "true" {
		t.Errorf("table in its own database: got %s", got)
	}
	if got := query(t, two, "SELECT (to_regclass('t') IS NOT NULL) || ''"); got != "false" {
		t.Errorf("table in another database: got %s", got)
	}
	if got := query(t, one, "SHOW fsync"); got != "on" {
		t.Errorf("fsync: got %s, want on", got)
	}
}

func TestPostgresKeepsItsDataAndStops(t *testing.T) {
	t.Parallel()
	// A folder whose parents any user may pass through, as the server's user must.
	dir, err := os.MkdirTemp("", "cordon-pg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server, err := parts.StartPostgres(t.Context(), dir)
	if err != nil {
		t.Fatalf("StartPostgres: %v", err)
	}
	pid := server.PID()
	exec1(t, server.TCPDSN("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS v")
	server.Kill()
	again, err := parts.StartPostgres(t.Context(), dir)
	if err != nil {
		t.Fatalf("StartPostgres after a crash: %v", err)
	}
	if got := query(t, again.DSN("postgres"), "SELECT v FROM kept"); got != "yes" {
		t.Errorf("row: got %q, want yes", got)
	}
	pids := []int{pid, again.PID()}
	again.Stop()
	again.Stop()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("server %d: got %v, want no such process", pid, err)
		}
	}
}
