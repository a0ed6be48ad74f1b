package restore_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/conformance/restore"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// A server with devices in every state is backed up, lives on, and is destroyed. The one that is made out of the backup
// takes every device on from where that device is, on the same engine and on the other one.
func TestEveryDeviceGoesOnAfterARestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		postgres bool // what is backed up
		into     bool // what is restored into
		s3       bool // the bucket outlives the server: it is ahead of the backup, and keeps the images
	}{
		"SQLite into SQLite":             {false, false, false},
		"SQLite into PostgreSQL with S3": {false, true, true},
		"PostgreSQL into SQLite":         {true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := demo.StageConfig{Bin: programs.Dir(t), S3: c.s3}
			if c.postgres {
				cfg.Postgres = openFolder(t)
			}
			f := &fleet{t: t, stage: demo.NewStage(t, cfg), seen: map[string]map[string]int64{}}
			f.settle()
			file := f.backup()
			f.liveOn()
			f.destroy(c.into)
			f.restore(file)
			f.goOn()
			f.stage.Report()
		})
	}
}

// openFolder is a folder whose parents any user may pass through, as the user postgres must.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cordon-pg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fleet is one stage with its devices.
type fleet struct {
	t     *testing.T
	stage *demo.Stage
	seen  map[string]map[string]int64 // highest versions of metadata, by device

	steady   *demo.Device // proven on 1.0, and on 1.1 after the backup
	midway   *demo.Device // has 1.0 in its other slot
	isolated *demo.Device // in quarantine
	later    *demo.Device // in quarantine since the backup
	idle     *demo.Device // proven on 1.0, off line until the restore
	stranger *demo.Device // pending
	newcomer *demo.Device // enrolled, and proven on 1.0, since the backup
}

func (f *fleet) settle() {
	s := f.stage
	f.steady, f.isolated, f.later, f.idle = s.Updated("steady"), s.Updated("isolated"), s.Updated("later"), s.Updated("idle")
	f.midway, f.stranger = s.NewDevice("midway", true), s.NewDevice("stranger", false)
	if got := f.midway.Agent(); got.Staged != "gateway/1.0" {
		f.t.Fatalf("midway should have staged 1.0: %s", got)
	}
	if got := f.stranger.Agent(); !demo.Refused(got, reason.DevicePending, false) {
		f.t.Fatalf("stranger should be pending: %s", got)
	}
	s.Ctl("bob", "device", "quarantine", f.isolated.ID(), "--detail", "test")
}

func (f *fleet) backup() string {
	code, stdout, stderr := f.stage.Run("cordond", "backup", "--config", f.stage.Path("cordond.toml"), "--out", f.stage.Path("backups"))
	if code != 0 {
		f.t.Fatalf("backup: exit %d\n%s", code, stderr)
	}
	file := strings.TrimSpace(stdout)
	if code, stdout, stderr := f.stage.Run("cordond", "backup", "--verify", file); code != 0 || !strings.HasPrefix(stdout, "whole") {
		f.t.Fatalf("verify: exit %d\n%s%s", code, stdout, stderr)
	}
	return file
}

// liveOn is the history that the backup does not know.
func (f *fleet) liveOn() {
	f.newcomer = f.stage.Updated("newcomer")
	f.stage.Publish("1.1")
	if got := f.steady.Agent(); got.Staged != "gateway/1.1" {
		f.t.Fatalf("steady should have staged 1.1: %s", got)
	}
	f.steady.Boot()
	if got := f.steady.Agent(); !got.Committed {
		f.t.Fatalf("steady should have committed 1.1: %s", got)
	}
	f.stage.Ctl("bob", "device", "quarantine", f.later.ID(), "--detail", "test")
	if got := f.later.Agent(); !demo.Refused(got, reason.DeviceQuarantined, false) {
		f.t.Fatalf("later should be in quarantine: %s", got)
	}
	f.remember()
}

func (f *fleet) devices() []*demo.Device {
	return []*demo.Device{f.steady, f.midway, f.isolated, f.later, f.idle, f.newcomer}
}

// remember checks that no version goes backwards, on any device.
func (f *fleet) remember() {
	f.t.Helper()
	for _, d := range f.devices() {
		now, err := restore.Versions(d.StateDir())
		if err != nil {
			f.t.Fatal(err)
		}
		for name, before := range f.seen[d.ID()] {
			if now[name] < before {
				f.t.Errorf("%s of %s went from version %d to %d", name, d.ID(), before, now[name])
			}
		}
		if len(now) < 4 {
			f.t.Errorf("%s keeps only %v", d.ID(), now)
		}
		f.seen[d.ID()] = now
	}
}

// destroy takes the server away with all it had, and names the database for the next one.
func (f *fleet) destroy(postgres bool) {
	f.stage.StopServer()
	if err := os.RemoveAll(f.stage.Path("cordon-data")); err != nil {
		f.t.Fatal(err)
	}
	config := f.stage.Path("cordond.toml")
	b, err := os.ReadFile(config)
	if err != nil {
		f.t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^database_file = .*$`).ReplaceAllString(string(b), "")
	if postgres {
		file := f.stage.Path("restored.dsn")
		if err := os.WriteFile(file, []byte(parts.TestPostgres(f.t)+"\n"), 0o600); err != nil {
			f.t.Fatal(err)
		}
		text = fmt.Sprintf("database_file = %q\n", file) + text
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) restore(file string) {
	args := []string{"restore", "--config", f.stage.Path("cordond.toml"), "--from", file}
	code, stdout, stderr := f.stage.Run("cordond", args...)
	if code != 0 || !strings.HasPrefix(stdout, "restored: epoch ") {
		f.t.Fatalf("restore: exit %d\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := f.stage.Run("cordond", args...); code != 1 || !strings.Contains(stderr, "hint: ") {
		f.t.Errorf("a restore over the restored server: exit %d\n%s", code, stderr)
	}
	f.stage.StartServer()
}

// goOn lets every device do what it does by itself.
func (f *fleet) goOn() {
	t := f.t
	for _, d := range f.devices() {
		if d == f.newcomer {
			continue // nobody knows it
		}
		if got := d.Seen(); got.Standing == "affirmed" {
			t.Errorf("%s kept its lease over the restore", d.ID())
		}
	}
	f.idleAndMidway()
	// The release that steady runs is lost. That is no fault of the device: it is held, not quarantined, and proves
	// nothing.
	if got := f.steady.Agent(); !demo.Refused(got, reason.ReleaseLost, false) || got.Verdict == "affirmed" {
		t.Errorf("steady runs a lost release: %s", got)
	}
	if got := f.steady.Seen(); got.Quarantine != nil || got.Standing != "stale" {
		t.Errorf("steady: quarantine %v, standing %s", got.Quarantine, got.Standing)
	}
	f.stage.Publish("1.1")
	if got := f.steady.Agent(); got.Verdict != "affirmed" {
		t.Errorf("steady after 1.1 was published again: %s", got)
	}
	if got := f.steady.Seen(); got.Proven != "gateway/1.1" || got.Standing != "affirmed" {
		t.Errorf("steady: proven %q, standing %s", got.Proven, got.Standing)
	}
	if got := f.isolated.Agent(); !demo.Refused(got, reason.DeviceQuarantined, false) {
		t.Errorf("the quarantine of before the backup is gone: %s", got)
	}
	// A quarantine after the backup is lost with its rows; the device had to prove its boot over a challenge.
	f.later.Agent()
	if got := f.later.Seen(); got.Standing != "affirmed" || got.Quarantine != nil {
		t.Errorf("later: standing %s, quarantine %v", got.Standing, got.Quarantine)
	}
	if got := f.stranger.Agent(); !demo.Refused(got, reason.DevicePending, false) {
		t.Errorf("stranger should still be pending: %s", got)
	}
	f.enrollAgain()
	f.remember()
}

// enrollAgain: the newcomer is forgotten. It enrolls by itself, waits for the inventory, and keeps its counter.
func (f *fleet) enrollAgain() {
	d := f.newcomer
	f.stage.WaitFor("the newcomer to enroll again", func() error {
		if got := d.Agent(); !demo.Refused(got, reason.DevicePending, false) {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	f.stage.Ctl("bob", "inventory", "set", d.ID(), "--product", "gateway", "--hardware-id", "board-a", "--profile", "softpc-v1")
	d.Agent() // it proves 1.0, and installs 1.1
	if got := d.Seen(); got.Proven != "gateway/1.0" || got.Standing != "affirmed" || got.Quarantine != nil {
		f.t.Errorf("newcomer: proven %q, standing %s, quarantine %v", got.Proven, got.Standing, got.Quarantine)
	}
	d.Boot()
	if got := d.Agent(); !got.Committed {
		f.t.Errorf("newcomer should have committed 1.1: %s", got)
	}
}

func (f *fleet) idleAndMidway() {
	if got := f.idle.Agent(); got.Verdict != "affirmed" || len(got.Refusals) > 0 {
		f.t.Errorf("idle: %s", got)
	}
	f.midway.Boot()
	if got := f.midway.Agent(); !got.Committed {
		f.t.Errorf("midway should have committed 1.0: %s", got)
	}
	if got := f.midway.Seen(); got.Proven != "gateway/1.0" {
		f.t.Errorf("midway: proven %q", got.Proven)
	}
	f.remember()
}
