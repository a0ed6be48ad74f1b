package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// newDevice is a Change that touches a versioned row, an event and an order at once.
func newDevice(id string) store.Change {
	d := fleet.Device{ID: id, EKSPKI: digest.Of([]byte("ek" + id)), TLSKey: digest.Of([]byte("tls" + id))}
	return store.Change{
		Expect: []store.Expect{{Table: store.Devices, Key: id}},
		Writes: []store.Write{store.PutDevice{Device: d}},
		Events: []store.Event{{At: noon, Type: "device.enrolled", Actor: "server", Subject: id}},
		Orders: []store.Order{{Device: id, Segment: fleet.Restricted, Point: "door", Epoch: 1, At: noon}},
	}
}

// wantDevices fails unless exactly the Changes of these devices are there as a whole, and nothing of any other.
func wantDevices(t *testing.T, s *store.Store, want ...string) {
	t.Helper()
	devices, err := s.ListDevices(t.Context(), store.DeviceFilter{}, "", 0)
	if err != nil {
		t.Fatalf("ListDevices: %v", err)
	}
	events, err := s.Events(t.Context(), store.EventFilter{}, 0, 0)
	if err != nil {
		t.Fatalf("Events: %v", err)
	}
	orders, err := s.PendingOrders(t.Context(), "door", 0)
	if err != nil {
		t.Fatalf("PendingOrders: %v", err)
	}
	var got []string
	for _, d := range devices {
		got = append(got, d.ID)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") || len(events) != len(want) || len(orders) != len(want) {
		t.Errorf("got devices %v, %d events, %d orders, want all of %v", got, len(events), len(orders), want)
	}
	for i, e := range events {
		if e.Number != int64(i)+1 {
			t.Errorf("event %d has number %d", i+1, e.Number)
		}
	}
}

func TestKeepsEverythingOverReopen(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		if err := s.Commit(t.Context(), newDevice("a")); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		s = open(t, dsn)
		wantDevices(t, s, "a")
		if err := s.Commit(t.Context(), newDevice("b")); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		wantDevices(t, s, "a", "b")
	})
}

// TestCrashLeavesNothingHalfWritten takes what a power cut would leave on the disk, just before a COMMIT and after it.
func TestCrashLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	from := filepath.Join(t.TempDir(), "live.db")
	s := open(t, "sqlite:"+from)
	var crashed []string
	crash := func() error {
		dir := t.TempDir()
		// Another process copies: a file closed in this one would give up SQLite's locks on it.
		out, err := exec.CommandContext(t.Context(), "cp", from, from+"-wal", dir).CombinedOutput()
		if err != nil {
			t.Errorf("cp: %v: %s", err, out)
		}
		crashed = append(crashed, "sqlite:"+filepath.Join(dir, "live.db"))
		return nil
	}
	s.BeforeCommit(crash)
	s.AfterCommit(crash)
	for _, id := range []string{"a", "b"} {
		if err := s.Commit(t.Context(), newDevice(id)); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	for i, want := range [][]string{nil, {"a"}, {"a"}, {"a", "b"}} {
		wantDevices(t, open(t, crashed[i]), want...)
	}
}

// killWriter ends the PostgreSQL session that is in the middle of a transaction.
func killWriter(t *testing.T, dsn string) error {
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		return err
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND state = 'idle in transaction'`)
	return err
}

func TestBeginsAgainWhenTheConnectionBreaksBeforeCommit(t *testing.T) {
	t.Parallel()
	dsn := engines()["postgres"](t)
	s := open(t, dsn)
	kills := 1
	s.BeforeCommit(func() error {
		if kills == 0 {
			return nil
		}
		kills--
		return killWriter(t, dsn)
	})
	if err := s.Commit(t.Context(), newDevice("a")); err != nil {
		t.Errorf("Commit over one broken connection: %v", err)
	}
	wantDevices(t, s, "a")
	kills = 1000
	err := s.Commit(t.Context(), newDevice("b"))
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Commit over broken connections only: got %v, want %v", err, store.ErrUnavailable)
	}
	wantDevices(t, s, "a")
	kills = 0
	if err := s.Commit(t.Context(), newDevice("b")); err != nil {
		t.Errorf("Commit after recovery: %v", err)
	}
	wantDevices(t, s, "a", "b")
}

// TestFindsOutWhenTheAnswerIsLost: failed, but persisted.
func TestFindsOutWhenTheAnswerIsLost(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		s.AfterCommit(func() error { return errors.New("connection reset") })
		for _, id := range []string{"a", "b"} {
			if err := s.Commit(t.Context(), newDevice(id)); err != nil {
				t.Errorf("Commit: %v", err)
			}
		}
		wantDevices(t, s, "a", "b")
	})
}

func TestAbandonedTransactionLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		broken := true
		s.BeforeCommit(func() error {
			if broken {
				return errors.New("disk on fire")
			}
			return nil
		})
		if err := s.Commit(t.Context(), newDevice("a")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Commit: got %v, want %v", err, store.ErrUnavailable)
		}
		wantDevices(t, s)
		broken = false
		if err := s.Commit(t.Context(), newDevice("a")); err != nil {
			t.Errorf("Commit after recovery: %v", err)
		}
		wantDevices(t, s, "a")
	})
}

// stalled opens a Store whose committer stops before its first COMMIT until resume is called.
func stalled(t *testing.T, dsn string) (s *store.Store, inside <-chan struct{}, resume func()) {
	t.Helper()
	s = open(t, dsn)
	entered, wait := make(chan struct{}, 100), make(chan struct{})
	s.BeforeCommit(func() error {
		entered <- struct{}{}
		<-wait
		return nil
	})
	return s, entered, func() { close(wait) }
}

func commitLater(ctx context.Context, s *store.Store, id string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Commit(ctx, newDevice(id)) }()
	return done
}

func waitQueued(t *testing.T, s *store.Store, n int) {
	t.Helper()
	for s.Queued() < n {
		if t.Context().Err() != nil {
			t.Fatal("test ended before the queue filled")
		}
		runtime.Gosched()
	}
}

func TestCancellationCountsOnlyWhileQueued(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s, inside, resume := stalled(t, dsn)
		takenCtx, cancelTaken := context.WithCancel(t.Context())
		queuedCtx, cancelQueued := context.WithCancel(t.Context())
		taken := commitLater(takenCtx, s, "taken")
		<-inside
		queued := commitLater(queuedCtx, s, "queued")
		waitQueued(t, s, 1)
		cancelTaken()
		cancelQueued()
		if err := <-queued; !errors.Is(err, context.Canceled) {
			t.Errorf("queued Change: got %v, want %v", err, context.Canceled)
		}
		select {
		case err := <-taken:
			t.Errorf("taken Change returned %v before its transaction ended", err)
		default:
		}
		wantDevices(t, s) // nothing uncommitted is seen
		resume()
		if err := <-taken; err != nil {
			t.Errorf("taken Change: %v", err)
		}
		wantDevices(t, s, "taken")
	})
}

func TestCloseDecidesWhatIsQueued(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s, inside, resume := stalled(t, dsn)
		first := commitLater(t.Context(), s, "0")
		<-inside
		var rest []<-chan error
		for i := range 3 {
			rest = append(rest, commitLater(t.Context(), s, fmt.Sprint(i+1)))
		}
		waitQueued(t, s, 3)
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		resume()
		for i, done := range append(rest, first, closed) {
			if err := <-done; err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
		wantDevices(t, open(t, dsn), "0", "1", "2", "3")
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dsn := engines()["postgres"](t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/no_such_database"
	dir := t.TempDir()
	for _, tt := range []struct {
		name, dsn, text string
		unavailable     bool
	}{
		{"no scheme", "cordon.db", `must start with "sqlite:" or "postgres://"`, false},
		{"no file", "sqlite:", "must name a file", false},
		{"memory", "sqlite::memory:", "must name a file", false},
		{"no folder", "sqlite:" + filepath.Join(dir, "missing", "a.db"), "its folder must exist", true},
		{"a folder", "sqlite:" + dir, "must be writable", true},
		{"nobody listens", "postgres://ota:secret@127.0.0.1:1/x?connect_timeout=5", "127.0.0.1 port 1", true},
		{"no database", u.String(), "does it run", true},
	} {
		_, err := store.Open(t.Context(), tt.dsn, discard)
		if err == nil || !strings.Contains(err.Error(), tt.text) || errors.Is(err, store.ErrUnavailable) != tt.unavailable {
			t.Errorf("%s: got %v, want %q and unavailable %v", tt.name, err, tt.text, tt.unavailable)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", tt.name, err)
		}
	}
}
