package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

// choosy is a real installer behind a program that judges images by itself.
type choosy struct {
	installer.Installer
	step  string // "prepare", "activate"; "after activate": when the slot is named for the boot already
	says  error
	tried int

	before func() // what happens before it judges
}

func (c *choosy) at(step string) error {
	if c.step != step || c.says == nil {
		return nil
	}
	if c.before != nil {
		c.before()
	}
	c.tried++
	return fmt.Errorf("rauc install: exit status 1: %w", c.says)
}

func (c *choosy) Prepare(ctx context.Context, image installer.Image) (installer.Slot, error) {
	if err := c.at("prepare"); err != nil {
		return nil, err
	}
	return c.Installer.Prepare(ctx, image)
}

func (c *choosy) Activate(ctx context.Context, image installer.Image) error {
	if err := c.at("activate"); err != nil {
		return err
	}
	return errors.Join(c.Installer.Activate(ctx, image), c.at("after activate"))
}

func newChoosy(t *testing.T, step string, says error) (*device, *choosy) {
	t.Helper()
	d, c := newDevice(t), &choosy{step: step, says: says}
	d.cfg = func(cfg *client.Config) {
		c.Installer = cfg.Installers[0]
		cfg.Installers = []installer.Installer{c}
	}
	d.restart()
	d.enroll()
	return d, c
}

// wantGivenUp lets the device try as often as it likes, over restarts of its program.
func (d *device) wantGivenUp(c *choosy, tries int) {
	d.t.Helper()
	for range 5 {
		r, err := d.client.Step(d.t.Context())
		if c.tried < tries {
			if err == nil {
				d.t.Fatalf("Step = %+v after %d tries, want an error and another try", r, c.tried)
			}
			continue
		}
		if err != nil || r.Update != nil || len(r.Refusals) == 0 || r.Refusals[0].Reason != reason.UpdateOverdue ||
			!strings.Contains(r.Refusals[0].Detail, c.says.Error()) {
			d.t.Fatalf("Step = %+v, %v, want a refusal with its cause", r, err)
		}
		d.restart()
	}
	if c.tried != tries {
		d.t.Errorf("the installer was asked %d times, want %d", c.tried, tries)
	}
	d.wantReported(reason.UpdateOverdue)
	if n := d.told("no installer of this device takes thermostat/1.1.0/system, and it is not tried again: rauc install: exit status 1: " + c.says.Error()); n == 0 {
		d.t.Error("no poll told why the release was given up")
	}
	if b := d.server.lastClaims(d.t).Boot; b == nil || b.Result != "refused" || b.Version != "thermostat/1.1.0" || !strings.Contains(b.Detail, c.says.Error()) {
		d.t.Errorf("boot report = %+v, want the refusal", b)
	}
	if _, err := os.Stat(filepath.Join(d.slots, "next")); !errors.Is(err, os.ErrNotExist) || d.client.Pending() {
		d.t.Errorf("a slot is still named for the next boot: %v", err)
	}
}

// An image that the installer refuses is not tried again, and the server is told why. Another release is.
func TestImageThatTheInstallerRefusesIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"prepare", "activate", "after activate"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			d, c := newChoosy(t, step, installer.ErrRefused)
			d.publish("1.1.0", 3, randomImage(t, 1000))
			d.wantGivenUp(c, 1)
			c.step = ""
			d.install("1.1.1", 4, randomImage(t, 1000))
		})
	}
}

// What could not be taken back when the release was given up is taken back later.
func TestGivenUpReleaseIsTakenBackAsSoonAsItCanBe(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	free := false
	d.cfg = func(cfg *client.Config) {
		c := &choosy{Installer: cfg.Installers[0], step: "after activate", says: installer.ErrRefused}
		cfg.Installers = []installer.Installer{jammed{c, &free}}
	}
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	for range 2 {
		if _, err := d.client.Step(t.Context()); !errors.Is(err, errJammed) {
			t.Fatalf("Step: %v, want %v", err, errJammed)
		}
		d.restart()
	}
	free = true
	if r, err := d.client.Step(t.Context()); err != nil || len(r.Refusals) == 0 {
		t.Errorf("Step = %+v, %v, want the refusal", r, err)
	}
	if _, err := os.Stat(filepath.Join(d.slots, "next")); !errors.Is(err, os.ErrNotExist) || d.client.Pending() {
		t.Errorf("a slot is still named for the next boot: %v", err)
	}
}

// An installation that fails, nobody knows why, has three tries.
func TestInstallationThatKeepsFailingIsGivenUp(t *testing.T) {
	t.Parallel()
	d, c := newChoosy(t, "activate", installer.ErrFailed)
	d.publish("1.1.0", 3, randomImage(t, 1000))
	d.wantGivenUp(c, 3)
	if n := d.told("try 2 of 3: cannot install system of thermostat/1.1.0: "); n != 1 {
		t.Errorf("%d polls told of the second try, want 1", n)
	}
	c.step = ""
	d.install("1.1.1", 4, randomImage(t, 1000))
}

// Trouble that passes is waited for, for as long as it lasts, and told once.
func TestInstallationWaitsForTroubleThatPasses(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	d, c := newChoosy(t, "activate", full)
	image := randomImage(t, 1000)
	d.publish("1.1.0", 3, image)
	for range 5 {
		if r, err := d.client.Step(t.Context()); !errors.Is(err, full) || len(r.Refusals) > 0 {
			t.Fatalf("Step = %+v, %v, want an error", r, err)
		}
	}
	if n := d.told("cannot install system of thermostat/1.1.0: rauc install: exit status 1: no space left on device"); n != 1 {
		t.Errorf("%d polls told of the full disk, want 1", n)
	}
	c.step = ""
	d.install("1.1.0", 3, image)
}

// An operator who holds a release and resumes it wants it to be tried again, once.
func TestImageThatIsOfferedAgainIsTriedAgain(t *testing.T) {
	t.Parallel()
	d, c := newChoosy(t, "activate", installer.ErrRefused)
	rel := d.publish("1.1.0", 3, randomImage(t, 1000))
	d.wantGivenUp(c, 1)
	d.server.offer(d.client.DeviceID().String(), nil)
	d.check()
	d.server.offer(d.client.DeviceID().String(), &rel)
	d.wantGivenUp(c, 2)
}

// Whoever can set a device's clock, or keep it from being set, must not bring it to give up a good release: installers verify
// certificates by that clock, and SWUpdate does not even say so.
func TestImageIsNotGivenUpWhileTheClockIsWrong(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Time{
		"never set":       time.Unix(0, 0),
		"behind":          start.Add(-2 * time.Hour),
		"ahead meanwhile": start.AddDate(30, 0, 0),
		"right":           start,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, c := newChoosy(t, "activate", installer.ErrRefused)
			if r, err := d.client.Step(t.Context()); err != nil || r.Verdict == "" {
				t.Fatalf("Step = %+v, %v", r, err)
			}
			d.publish("1.1.0", 3, randomImage(t, 1000))
			c.before = func() { d.now = wrong }
			for range 4 {
				d.now = start
				if wrong.Before(start) {
					d.now = wrong
				}
				r, err := d.client.Step(t.Context())
				if gaveUp := err == nil; gaveUp != wrong.Equal(start) {
					t.Fatalf("Step = %+v, %v", r, err)
				}
			}
			if wrong.Equal(start) {
				return
			}
			d.now, c.before = start, nil
			d.wantGivenUp(c, c.tried+1)
		})
	}
}

// Tries are counted up to the success: a later trouble with the same image begins anew.
func TestInstallationThatWentWellInTheEndIsForgotten(t *testing.T) {
	t.Parallel()
	d, c := newChoosy(t, "activate", installer.ErrFailed)
	image := randomImage(t, 1000)
	d.publish("1.1.0", 3, image)
	for range 2 {
		if _, err := d.client.Step(t.Context()); !errors.Is(err, installer.ErrFailed) {
			t.Fatalf("Step: %v, want %v", err, installer.ErrFailed)
		}
	}
	c.step = ""
	d.install("1.1.0", 3, image)
	if b, err := os.ReadFile(filepath.Join(d.state, "state.json")); err != nil || strings.Contains(string(b), `"rejected"`) {
		t.Errorf("the device remembers what went wrong before: %s, %v", b, err)
	}
}
