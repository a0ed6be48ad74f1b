package app_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/backup"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// A restored server is the same to everybody who trusts it, and vouches for nothing that the lost one said.
func TestRestoredServerIsAnotherEpoch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string {
		return write(t, fmt.Sprintf("data_dir = %q\nnames = [\"localhost\", \"127.0.0.1\"]\n", filepath.Join(dir, name)))
	}
	lost := start(t, configured(t, filepath.Join(dir, "lost")))
	polls, enrollments := lost.Challenges()
	poll := polls.Mint(attestation.PurposePoll, "a", time.Now())
	enrollment := enrollments.Mint(attestation.PurposeEnroll, "a", time.Now())
	before, err := lost.client(t, "").Status(t.Context())
	if err != nil || before.Epoch != 0 {
		t.Fatalf("got epoch %d, %v", before.Epoch, err)
	}
	code, stdout, stderr := command(t.Context(), "backup", "--config", file("lost"), "--out", filepath.Join(dir, "backups"))
	if code != 0 {
		t.Fatalf("backup: exit %d\n%s", code, stderr)
	}
	if err := lost.stop(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t.Context(), "restore", "--config", file("new"), "--from", strings.TrimSpace(stdout)); code != 0 {
		t.Fatalf("restore: exit %d\n%s", code, stderr)
	}
	restored := start(t, configured(t, filepath.Join(dir, "new")))
	after, err := restored.client(t, "").Status(t.Context())
	if err != nil || after.Epoch == 0 {
		t.Fatalf("got epoch %d, %v", after.Epoch, err)
	}
	if restored.CASHA256() != lost.CASHA256() || len(after.Keys) != len(before.Keys) || after.Keys[0] != before.Keys[0] {
		t.Error("the restored server has other keys")
	}
	if after.LogKey == before.LogKey || !strings.Contains(after.LogKey, fmt.Sprint(after.Epoch)) {
		t.Errorf("got log key %q after %q, want one that names the epoch %d", after.LogKey, before.LogKey, after.Epoch)
	}
	polls, enrollments = restored.Challenges()
	if _, why := polls.Check(poll, attestation.PurposePoll, "a", time.Now()); why != reason.NonceUnknown {
		t.Errorf("a challenge of before the restore: got %q, want %s", why, reason.NonceUnknown)
	}
	if _, why := enrollments.Check(enrollment, attestation.PurposeEnroll, "a", time.Now()); why != reason.NonceUnknown {
		t.Errorf("an enrollment of before the restore: got %q, want %s", why, reason.NonceUnknown)
	}
}

// The network may have been told to let a quarantined device go in the history that was lost, and the device may keep
// silent: the restored server says once more, by itself, that it is restricted.
func TestRestoredServerOrdersRestrictionsAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := func(name string) string {
		return fmt.Sprintf("data_dir = %q\nnames = [\"127.0.0.1\"]\n[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n"+
			"[[segment.webhook]]\nname = \"switch\"\nurl = \"https://127.0.0.1:1\"\n", filepath.Join(dir, name))
	}
	lost := open(t, dir, "lost")
	quarantined := fleet.Device{ID: "quarantined", Lifecycle: fleet.Active, Standing: fleet.Refused, Segment: fleet.Restricted, Epoch: 7}
	stale := fleet.Device{ID: "stale", Lifecycle: fleet.Active, Standing: fleet.Affirmed, LeaseUntil: time.Now().Add(time.Hour), Segment: fleet.Production, Epoch: 7, TLSKey: digest.Of([]byte("b")), EKSPKI: digest.Of([]byte("b"))}
	err := lost.Commit(t.Context(), store.Change{
		Writes: []store.Write{store.PutDevice{Device: quarantined}, store.PutDevice{Device: stale},
			store.PutQuarantine{Quarantine: fleet.Quarantine{ID: "q", Device: "quarantined", Since: time.Now()}}},
		Events: []store.Event{{At: time.Now(), Type: "quarantine.opened", Actor: "bob", Subject: "quarantined"}},
	})
	if err := errors.Join(err, lost.Close(), os.MkdirAll(filepath.Join(dir, "lost", "keys"), 0o700)); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t.Context(), "backup", "--config", write(t, text("lost")), "--out", filepath.Join(dir, "backups"))
	if code != 0 {
		t.Fatalf("backup: exit %d\n%s", code, stderr)
	}
	file := write(t, text("new"))
	if code, _, stderr := command(t.Context(), "restore", "--config", file, "--from", strings.TrimSpace(stdout)); code != 0 {
		t.Fatalf("restore: exit %d\n%s", code, stderr)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	restored := start(t, c)
	status, err := restored.client(t, "").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := open(t, dir, "new")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		orders, err := rows.PendingOrders(t.Context(), "switch", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(orders) > 0 {
			if o := orders[0]; len(orders) != 1 || o.Device != "quarantined" || o.Segment != fleet.Restricted || o.Epoch <= status.Epoch<<20 {
				t.Errorf("got orders %+v, want one for the quarantined device above %d", orders, status.Epoch<<20)
			}
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no order came")
		case <-tick.C:
		}
	}
}

// open opens the database of a data directory.
func open(t *testing.T, dir, name string) *store.Store {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, name, "cordon.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestServerDoesNotStartOnHalfARestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, backup.Unfinished), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := write(t, fmt.Sprintf("data_dir = %q\n[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n", dir))
	for name, args := range map[string][]string{
		"start": {"--config", config}, "backup": {"backup", "--config", config, "--out", filepath.Join(dir, "backups")},
	} {
		code, _, stderr := command(t.Context(), args...)
		if code != 3 || !strings.Contains(stderr, "restore") || !strings.Contains(stderr, "hint: run the same") {
			t.Errorf("%s: got exit %d\n%s", name, code, stderr)
		}
	}
}
