package demo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// short makes leases that end within a test.
const short = `
[times]
timestamp = "1s"
poll = "1s"
beacon_window = "9s"
lease = "12s"
grace = "1h"
challenge = "30s"
update_deadline = "1h"
enforce = "200ms"
`

func TestDeviceOfflinePastItsLeaseReturnsByItself(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t), Times: short})
	d := s.Updated("sleeper")
	s.WaitFor("the lease to end", func() error {
		if got := d.Seen().Standing; got != "stale" {
			return fmt.Errorf("standing %s", got)
		}
		return nil
	})
	if status, p := d.Fetch(s.Image("1.0")); status < 400 || p.Reason == "" {
		t.Errorf("the door is open for a stale device: %d %s", status, p.Reason)
	}
	if got := d.Agent(); len(got.Refusals) > 0 || got.Verdict != "affirmed" {
		t.Errorf("the device came back with %s", got)
	}
	if got := d.Seen(); got.Standing != "affirmed" || got.Quarantine != nil || got.Proven != "gateway/1.0" {
		t.Errorf("standing %s, proven %q, quarantine %v", got.Standing, got.Proven, got.Quarantine)
	}
	s.Report()
}

// Whatever answer of a conversation is lost, the device completes its update with the next ones.
func TestDeviceWhoseLastAnswerWasLostReturns(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.NewDevice("unlucky", true)
	release := "gateway/1.0"
	lost := 0
	for after := int64(3000); after <= 15000; after += 2000 {
		happened := s.LoseAnswer(t.Context(), after)
		code, stderr := d.TryAgent()
		s.Repair()
		select {
		case <-happened:
			lost++
		default:
			continue // the conversation was shorter than that
		}
		if code == 0 || code == 3 && strings.Contains(stderr, "hint: ") {
			continue // it ended before the cut, or says that it could not decide
		}
		t.Errorf("cut after %d bytes: exit %d, %s", after, code, stderr)
	}
	if lost == 0 {
		t.Fatal("no answer was lost")
	}
	if got := d.Agent(); got.Staged != release && d.Seen().Offered != release {
		t.Fatalf("after %d lost answers the device is not at its update: %s", lost, got)
	}
	d.Boot()
	happened := s.LoseAnswer(t.Context(), 5000)
	if code, stderr := d.TryAgent(); code != 3 {
		t.Errorf("the proof's answer was lost, got exit %d: %s", code, stderr)
	}
	s.Repair()
	select {
	case <-happened:
	default:
		t.Error("the conversation was too short to be cut")
	}
	if _, err := os.Stat(filepath.Join(d.StateDir(), "poll.json")); err != nil {
		t.Errorf("the agent does not remember the poll without an answer: %v", err)
	}
	s.WaitFor("the update to be proven", func() error {
		if got := d.Agent(); len(got.Refusals) > 0 {
			return fmt.Errorf("refused: %s", got)
		}
		if got := d.Seen(); got.Proven != release || got.Quarantine != nil {
			return fmt.Errorf("proven %q, quarantine %v", got.Proven, got.Quarantine)
		}
		return nil
	})
	s.Report()
}

// The server loses power, so to speak: what it had acknowledged is there afterwards.
func TestServerRestartChangesNothing(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("patient")
	s.StopServer()
	if code, stderr := d.TryAgent(); code != 3 || !strings.Contains(stderr, "hint: ") {
		t.Errorf("without a server: exit %d, %s", code, stderr)
	}
	s.StartServer()
	if got := d.Agent(); len(got.Refusals) > 0 {
		t.Errorf("after the restart: %s", got)
	}
	if got := d.Seen(); got.Proven != "gateway/1.0" || got.Standing != "affirmed" {
		t.Errorf("proven %q, standing %s", got.Proven, got.Standing)
	}
	s.Report()
}

// Nothing in the state directory is trusted: whatever is written there, the agent runs what it had proven, installs
// nothing and knows the same roots.
func TestEditedStateDirectoryChangesNothingThatIsTrusted(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d, other := s.Updated("victim"), s.Updated("other")
	before := believes(t, d)
	for _, name := range stateFiles(t, d) {
		path := filepath.Join(d.StateDir(), name)
		foreign, err := os.ReadFile(filepath.Join(other.StateDir(), name))
		if err != nil {
			foreign = []byte(`{"signed":{},"signatures":[]}`)
		}
		own, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for how, content := range map[string][]byte{
			"truncated": own[:len(own)/2], "empty": {}, "garbage": []byte("\x00\xff{"), "another device's": foreign,
		} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			unharmed(t, d, before, name+" "+how)
		}
	}
	if err := os.RemoveAll(d.StateDir()); err != nil {
		t.Fatal(err)
	}
	unharmed(t, d, before, "all of it is gone")
	s.Publish("1.1")
	if got := d.Agent(); got.Staged != "gateway/1.1" {
		t.Errorf("after all of that the device does not get its update: %s", got)
	}
	s.Report()
}

// A root that the holders did not sign is not taken from the state directory.
func TestForgedRootInTheStateDirectoryIsNotTaken(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("victim")
	before := believes(t, d)
	b, err := os.ReadFile(s.Path("trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	var trust struct {
		ImageRoot []byte `json:"image_root"`
	}
	if err := json.Unmarshal(b, &trust); err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(string(trust.ImageRoot), `"version":1`, `"version":2`, 1)
	if forged == string(trust.ImageRoot) {
		t.Fatal("the root does not say its version as expected")
	}
	if err := os.WriteFile(filepath.Join(d.StateDir(), "image", "2.root.json"), []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	unharmed(t, d, before, "a root that nobody signed")
}

func stateFiles(t *testing.T, d *demo.Device) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(d.StateDir(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			name, _ := filepath.Rel(d.StateDir(), path) // path is below it
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) < 4 || !slices.Contains(names, "state.json") {
		t.Fatalf("state files %q, %v", names, err)
	}
	return names
}

// believes is what the agent has verified.
func believes(t *testing.T, d *demo.Device) client.Status {
	t.Helper()
	status, err := client.ReadStatus(d.StateDir())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// unharmed runs the agent after an edit and checks what it believes afterwards: at most what it had verified before, or
// what the server signed since. What is lost is fetched again when it is needed.
func unharmed(t *testing.T, d *demo.Device, before client.Status, edit string) {
	t.Helper()
	if got := d.Agent(); got.Staged != "" || len(got.Refusals) > 0 {
		t.Errorf("%s: %s", edit, got)
	}
	after := believes(t, d)
	v, old := after.Versions, before.Versions
	if v.ImageRoot != old.ImageRoot || v.DirectorRoot != old.DirectorRoot || v.Targets > old.Targets || v.Timestamp < old.Timestamp || after.Device != d.ID() {
		t.Errorf("%s: the agent believes %+v as device %s", edit, v, after.Device)
	}
	if got := d.Seen(); got.Proven != "gateway/1.0" || got.Quarantine != nil || got.Standing != "affirmed" {
		t.Errorf("%s: the server says proven %q, standing %s, quarantine %v", edit, got.Proven, got.Standing, got.Quarantine)
	}
}

func TestUnclaimedTPMGetsNothing(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.NewDevice("unclaimed", false)
	for range 2 {
		got := d.Agent()
		if !demo.Refused(got, reason.DevicePending, false) || got.Staged != "" {
			t.Errorf("got %s", got)
		}
	}
	for _, version := range []string{demo.Recovery, "1.0"} {
		if status, p := d.Fetch(s.Image(version)); status < 400 || p.Reason != reason.DevicePending {
			t.Errorf("the door for %s: %d %s", version, status, p.Reason)
		}
	}
	if _, err := os.Stat(filepath.Join(d.StateDir(), "director", "targets.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has director metadata: %v", err)
	}
	if got := d.Seen(); got.Lifecycle != "pending" || got.Segment != "restricted" || got.Offered != "" {
		t.Errorf("lifecycle %s, segment %s, offered %q", got.Lifecycle, got.Segment, got.Offered)
	}
	s.Report()
}

// One person holds a release, and nobody gets it; two people end the hold.
func TestHeldReleaseIsNotInstalled(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("waiting")
	s.Publish("1.1")
	s.Ctl("bob", "release", "hold", "gateway/1.1", "--detail", "a customer reports a fault")
	if got := d.Agent(); got.Staged != "" {
		t.Errorf("a held release was installed: %s", got)
	}
	if status, p := d.Fetch(s.Image("1.1")); status < 400 {
		t.Errorf("the door is open for a held release: %d %s", status, p.Reason)
	}
	s.Ctl("bob", "release", "resume", "gateway/1.1")
	if got := d.Agent(); got.Staged != "" {
		t.Errorf("one person alone ended the hold: %s", got)
	}
	s.Ctl("carol", "release", "resume", "gateway/1.1")
	if got := d.Agent(); got.Staged != "gateway/1.1" {
		t.Errorf("two people have ended the hold: %s", got)
	}
	s.Report()
}
