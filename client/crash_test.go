package client_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

var errCrash = errors.New("the power failed")

// faulty is a real installer whose power fails once, before or after one of its steps took effect.
type faulty struct {
	installer.Installer
	step  string
	after bool
	hit   bool
}

func (f *faulty) at(step string, do func() error) error {
	if f.hit || f.step != step {
		return do()
	}
	f.hit = true
	if f.after {
		return errors.Join(do(), errCrash)
	}
	return errCrash
}

func (f *faulty) Prepare(ctx context.Context, image installer.Image) (slot installer.Slot, err error) {
	err = f.at("prepare", func() error {
		slot, err = f.Installer.Prepare(ctx, image)
		return err
	})
	return slot, err
}

func (f *faulty) Activate(ctx context.Context, image installer.Image) error {
	return f.at("activate", func() error { return f.Installer.Activate(ctx, image) })
}

func (f *faulty) Commit(ctx context.Context) error {
	return f.at("commit", func() error { return f.Installer.Commit(ctx) })
}

// TestEveryCrashIsSurvived cuts the power around each step of an update; the next start goes on and ends with the
// release committed and the counter raised once.
func TestEveryCrashIsSurvived(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"prepare", "activate", "reboot", "commit"} {
		for _, after := range []bool{false, true} {
			name := step + " before"
			if after {
				name = step + " after"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t)
				f := &faulty{step: step, after: after}
				crash := step == "reboot"
				d.cfg = func(c *client.Config) {
					f.Installer = c.Installers[0]
					c.Installers = []installer.Installer{f}
					c.Reboot = func(context.Context) error {
						if crash {
							crash = false
							return errCrash
						}
						return nil
					}
				}
				d.restart()
				d.enroll()
				before, err := d.tpm.Counter()
				if err != nil {
					t.Fatal(err)
				}
				image := randomImage(t, 5000)
				d.publish("1.1.0", 3, image)
				committed := false
				for range 8 {
					r, err := d.client.Step(t.Context())
					if err != nil && !errors.Is(err, errCrash) {
						t.Fatalf("Step: %v", err)
					}
					if r.Refusals != nil {
						t.Fatalf("Step refused %+v", r.Refusals)
					}
					if committed = err == nil && r.Proven; committed {
						break
					}
					_, statErr := os.Stat(filepath.Join(d.slots, "next"))
					if err == nil && statErr == nil {
						d.boot()
					} else {
						d.restart()
					}
				}
				if !committed || !bytes.Equal(bytes.TrimSpace(d.read("active")), []byte("b")) || !bytes.Equal(d.read("b.img"), image) {
					t.Fatalf("committed %v, active %q", committed, d.read("active"))
				}
				if got, _ := d.tpm.Counter(); got != before+3 {
					t.Errorf("counter = %d, want %d", got, before+3)
				}
				if !f.hit && step != "reboot" {
					t.Error("the fault was never hit")
				}
			})
		}
	}
}

func TestReportsATrialThatFellBackAndGivesUpInTheEnd(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	for range 3 {
		d.stage()
		if err := os.Remove(filepath.Join(d.slots, "next")); err != nil { // the boot took it and the image did not start
			t.Fatal(err)
		}
		d.boot()
		d.check()
		if c := d.server.lastClaims(t); c.Boot == nil || c.Boot.Result != "fallback" || c.Boot.Version != "thermostat/1.1.0" {
			t.Fatalf("claims = %+v, want the fallback", c.Boot)
		}
	}
	d.wantRefused("update_overdue")
	d.install("1.1.1", 4, randomImage(t, 1000))
}

func TestTrialIsFoundAgainWhenTheStateIsLost(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.stage()
	if err := os.RemoveAll(d.state); err != nil {
		t.Fatal(err)
	}
	d.boot()
	for range 3 {
		if r := d.check(); r.Proven {
			if refused, err := d.client.Commit(t.Context()); err != nil || refused != nil {
				t.Fatalf("Commit = %v, %v", refused, err)
			}
			return
		}
	}
	t.Error("the trial was never proven")
}

// TestCommitNeedsProofInThisBoot holds a forged journal against Commit.
func TestCommitNeedsProofInThisBoot(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.stage()
	d.boot()
	if _, err := d.client.Commit(t.Context()); !errors.Is(err, client.ErrNothingProven) {
		t.Errorf("Commit = %v, want ErrNothingProven", err)
	}
	// The statement that is kept beside the journal is of another release: its counter must not count.
	other := release("9.0.0", 900, []byte("x"))
	d.server.publish(other, []byte("x"), d.server.ci, nil)
	for name, b := range d.server.files {
		if strings.Contains(name, "/9.0.0/") {
			if err := os.WriteFile(filepath.Join(d.state, "journal.bundle"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, _ := d.tpm.Counter()
	if r := d.check(); !r.Proven {
		t.Fatalf("Check = %+v, want a proven trial", r)
	}
	if refused, err := d.client.Commit(t.Context()); err != nil || refused != nil {
		t.Fatalf("Commit = %v, %v", refused, err)
	}
	if got, _ := d.tpm.Counter(); got != before+3 {
		t.Errorf("counter = %d, want %d: that of the release that runs", got, before+3)
	}
}

// TestTrialOfARevokedReleaseIsNotCommitted withdraws the release between its trial and the commit.
func TestTrialOfARevokedReleaseIsNotCommitted(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	image := randomImage(t, 1000)
	d.publish("1.1.0", 3, image)
	d.stage()
	d.boot()
	d.server.policy.Withdrawn = []digest.SHA256{digest.Of(image)}
	d.server.sign()
	if r := d.check(); !r.Proven {
		t.Fatalf("Check = %+v, want a proven trial", r)
	}
	refused, err := d.client.Commit(t.Context())
	if err != nil || len(refused) == 0 {
		t.Fatalf("Commit = %v, %v, want a refusal", refused, err)
	}
	if got := string(bytes.TrimSpace(d.read("active"))); got != "a" {
		t.Errorf("active = %q, want a", got)
	}
}

// TestTornDirectorMetadataIsAskedForAgain kills the device between the three files of the director. The timestamp on disk
// leads to documents that are not there: the device must not claim to have them, or the server would never send them
// again and the offer would wait for the next change.
func TestTornDirectorMetadataIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"snapshot.json", "targets.json"} {
		t.Run(old, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			d.publish("1.1.0", 3, randomImage(t, 1000))
			d.check()
			path := filepath.Join(d.state, "director", old)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d.publish("1.1.1", 4, randomImage(t, 1000))
			d.check()
			if err := os.WriteFile(path, before, 0o600); err != nil {
				t.Fatal(err)
			}
			d.restart()
			if r := d.check(); r.Update == nil || r.Update.Version != "1.1.1" {
				t.Errorf("after the crash the device is offered %+v, want 1.1.1", r)
			}
		})
	}
}
