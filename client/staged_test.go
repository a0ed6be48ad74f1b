package client_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/wire"
)

// wantNothingStaged takes one more step and a power cut: neither may bring another image than the one that runs.
func (d *device) wantNothingStaged() {
	d.t.Helper()
	running := string(d.read("running"))
	if _, err := d.client.Step(d.t.Context()); err != nil {
		d.t.Fatalf("Step: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.slots, "next")); !errors.Is(err, os.ErrNotExist) {
		d.t.Errorf("next = %v: the image is still named for the next boot", err)
	}
	if d.client.Pending() {
		d.t.Error("an update still waits for the restart")
	}
	d.boot()
	if got := string(d.read("running")); got != running {
		d.t.Errorf("slot %q was booted, want %q", got, running)
	}
}

// countReboots lets a test see how often the device asks for its restart.
func (d *device) countReboots() *int {
	n := new(int)
	d.cfg = func(c *client.Config) {
		c.Reboot = func(context.Context) error { *n++; return nil }
	}
	d.restart()
	return n
}

// A recovery release that was staged when the quarantine ended must not boot at the next restart, whether the director
// then offers the release that runs or nothing.
func TestRecoveryThatWasStagedGoesWithItsQuarantine(t *testing.T) {
	t.Parallel()
	for _, nothing := range []bool{false, true} {
		name := "what runs is offered"
		if nothing {
			name = "nothing is offered"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			image, old := randomImage(t, 1000), randomImage(t, 1000)
			d.install("1.1.0", 3, image)
			good := release("1.1.0", 3, image)
			d.server.policy.Recovery = []digest.SHA256{digest.Of(old)}
			rel := release("0.9.0", 1, old)
			rel.Recovery = true
			d.server.publish(rel, old, d.server.ci, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
			reboots := d.countReboots()
			d.stage()
			asked := *reboots
			if nothing {
				d.server.offer(d.client.DeviceID().String(), nil)
			} else {
				d.server.offer(d.client.DeviceID().String(), &good)
			}
			d.wantNothingStaged()
			if *reboots != asked {
				t.Errorf("the device asked for %d more restarts into what is not offered", *reboots-asked)
			}
			d.check()
			d.server.mu.Lock()
			defer d.server.mu.Unlock()
			for _, p := range d.server.polls {
				if bytes.Contains(p.Claims, []byte("0.9.0 was staged and is taken back: it is not offered any more")) {
					return
				}
			}
			t.Error("no poll told that the staged release was taken back")
		})
	}
}

// A release that the offline role withdraws between staging and restart is not restarted into.
func TestStagedReleaseThatIsRefusedNowIsTakenBack(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	reboots := d.countReboots()
	image := randomImage(t, 1000)
	d.publish("1.1.0", 3, image)
	d.stage()
	asked := *reboots
	d.server.policy.Withdrawn = []digest.SHA256{digest.Of(image)}
	d.server.sign()
	d.wantNothingStaged()
	if *reboots != asked {
		t.Error("the device asked for a restart into a release that it refuses")
	}
}

// A power cut between naming an image and writing that down is a boot of the image, and the boot is proven.
func TestTrialThatAPowerCutStartedIsProven(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	f := &faulty{step: "activate", after: true}
	d.cfg = func(c *client.Config) {
		f.Installer = c.Installers[0]
		c.Installers = []installer.Installer{f}
	}
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	if _, err := d.client.Step(t.Context()); !errors.Is(err, errCrash) {
		t.Fatalf("Step = %v, want the power cut", err)
	}
	d.boot()
	if r, err := d.client.Step(t.Context()); err != nil || !r.Proven || len(r.Refusals) > 0 {
		t.Fatalf("Step = %+v, %v, want the proof and the commit", r, err)
	}
	if got := string(bytes.TrimSpace(d.read("active"))); got != "b" {
		t.Errorf("active = %q, want b", got)
	}
}

// jammed is an installer that cannot clean up.
type jammed struct {
	installer.Installer
	free *bool
}

var errJammed = errors.New("the partition is read-only")

func (j jammed) Rollback(ctx context.Context) error {
	if !*j.free {
		return errJammed
	}
	return j.Installer.Rollback(ctx)
}

// A fallback is reported, and counted once, also where nothing can be cleaned up.
func TestFallbackIsReportedWhereItCannotBeCleanedUp(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	free := false
	d.cfg = func(c *client.Config) { c.Installers = []installer.Installer{jammed{c.Installers[0], &free}} }
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.stage()
	if err := os.Remove(filepath.Join(d.slots, "next")); err != nil { // the boot took it and the image did not start
		t.Fatal(err)
	}
	d.boot()
	for range 4 { // more checks than an image has trials
		if r := d.check(); r.Update == nil {
			t.Fatalf("Check = %+v, want the release offered again: it failed once", r)
		}
		if c := d.server.lastClaims(t); c.Boot == nil || c.Boot.Result != "fallback" {
			t.Fatalf("claims = %+v, want the fallback", c.Boot)
		}
		d.restart()
	}
	free = true
	d.stage()
	d.boot()
	if r := d.check(); !r.Proven {
		t.Errorf("Check = %+v, want the proof", r)
	}
}

// A trial that the server refuses does not keep the recovery release out: the machine leaves it, says so and installs.
func TestRefusedTrialMakesRoomForRecovery(t *testing.T) {
	t.Parallel()
	d := newCounted(t)
	reboots, with := 0, d.cfg
	d.cfg = func(c *client.Config) {
		with(c)
		c.Reboot = func(context.Context) error { reboots++; return nil }
	}
	d.restart()
	d.offer("1.1.0", 3, d.esp.Image("refused", 2))
	d.stage()
	if got := d.reboot(); got != "refused" {
		t.Fatalf("%s boots, want the trial", got)
	}
	d.server.set(func() {
		d.server.onAnswer = func(p *wire.PollAnswer) {
			if p.Verdict != "" {
				p.Verdict = string(attestation.Refused)
			}
		}
	})
	asked := reboots
	d.offer("1.1.1", 4, d.esp.Image("remedy", 1))
	for range 2 {
		if r, err := d.client.Step(t.Context()); err != nil || r.Proven || r.Update != nil {
			t.Fatalf("Step = %+v, %v, want the end of the trial", r, err)
		}
	}
	if reboots == asked {
		t.Error("the device did not ask for the restart out of its trial")
	}
	d.server.set(func() { d.server.onAnswer = nil })
	if got := d.reboot(); got != "factory" {
		t.Fatalf("%s boots, want the image before the trial", got)
	}
	d.stage()
	d.wantTold("the trial was refused and ends with the next restart")
	d.wantTold("the trial of thermostat/1.1.0 fell back")
	if got := d.reboot(); got != "remedy" {
		t.Fatalf("%s boots, want what was offered instead", got)
	}
	if r, err := d.client.Step(t.Context()); err != nil || !r.Proven {
		t.Errorf("Step = %+v, %v, want the proof", r, err)
	}
}

// A boot loader that starts a refused trial again, whatever it was told, does not make the machine restart for ever.
func TestRefusedTrialThatStaysDoesNotRestartForEver(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.stage()
	d.boot()
	d.server.set(func() {
		d.server.onAnswer = func(p *wire.PollAnswer) {
			if p.Verdict != "" {
				p.Verdict = string(attestation.Refused)
			}
		}
	})
	d.publish("1.1.1", 4, randomImage(t, 1000))
	reboots := d.countReboots()
	for range 6 {
		if _, err := d.client.Step(t.Context()); err != nil {
			t.Fatalf("Step: %v", err)
		}
		d.restart() // slot b runs again
	}
	if *reboots != 3 {
		t.Errorf("the device asked for %d restarts, want 3", *reboots)
	}
}

// A device that cannot tell what runs does not know whether its restart took place, and does not ask for another one.
func TestDeviceThatCannotTellWhatRunsDoesNotRestartForEver(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.stage()
	d.boot()
	n := 0
	d.cfg = func(c *client.Config) {
		c.Installers[0] = &blind{Installer: c.Installers[0], cannot: true}
		c.Reboot = func(context.Context) error { n++; return nil }
	}
	for range 2 {
		d.restart()
		if _, err := d.client.Step(t.Context()); err != nil {
			t.Fatalf("Step: %v", err)
		}
	}
	if n != 0 {
		t.Errorf("the device asked for %d restarts", n)
	}
}
