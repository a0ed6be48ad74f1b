package client_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
	"github.com/cordon-ota/cordon/client/wire"
)

// counted is a device whose boot loader counts the tries of a trial.
type counted struct {
	*device
	esp *installertest.ESP
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	d := &counted{device: newDevice(t), esp: installertest.NewESP(t)}
	d.esp.Put("factory.efi", d.esp.Image("factory", 1))
	d.esp.Boot()
	d.cfg = func(c *client.Config) {
		uki, err := installer.Open(d.esp.Spec())
		if err != nil {
			t.Fatalf("installer.Open: %v", err)
		}
		c.Installers = []installer.Installer{uki}
	}
	d.restart()
	d.enroll()
	return d
}

// offer publishes an image for the installer uki.
func (d *counted) offer(version string, counter uint64, image []byte) {
	d.t.Helper()
	rel := release(version, counter, image)
	rel.Components[0].Installer = "uki"
	d.server.publish(rel, image, d.server.ci, nil)
	d.server.offer(d.client.DeviceID().String(), &rel)
}

// reboot restarts as often as it takes until an image starts.
func (d *counted) reboot() string {
	d.t.Helper()
	file := d.esp.Boot()
	if err := d.parts.Reset(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.restart()
	return d.esp.Name(file)
}

// A trial gets its permanent name after the server has affirmed the quote of this boot, and not a moment before.
func TestCountedTrialIsBlessedByTheServerAlone(t *testing.T) {
	t.Parallel()
	d := newCounted(t)
	d.offer("1.1.0", 3, d.esp.Image("good", 2))
	d.stage()
	if got := d.reboot(); got != "good" {
		t.Fatalf("%s boots, want the trial", got)
	}
	d.server.set(func() {
		d.server.onAnswer = func(p *wire.PollAnswer) {
			if p.Verdict != "" {
				p.Verdict = string(attestation.Refused)
			}
		}
	})
	for range 2 { // it runs, it polls, and nobody has affirmed it
		if r, err := d.client.Step(t.Context()); err != nil || r.Proven {
			t.Fatalf("Step = %+v, %v, want no proof", r, err)
		}
		d.wantFile("+2-1.efi")
	}
	d.server.set(func() { d.server.onAnswer = nil })
	if r, err := d.client.Step(t.Context()); err != nil || !r.Proven || len(r.Refusals) > 0 {
		t.Fatalf("Step = %+v, %v, want the proof and the commit", r, err)
	}
	files, err := filepath.Glob(filepath.Join(d.esp.Linux(), "cordon-*"))
	if err != nil || len(files) != 1 || strings.Contains(files[0], "+") {
		t.Errorf("files = %v, %v, want one without a counter", files, err)
	}
}

func (d *counted) wantFile(suffix string) {
	d.t.Helper()
	entries, err := os.ReadDir(d.esp.Linux())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			return
		}
	}
	d.t.Errorf("no file ends in %q: %v", suffix, entries)
}

// An image that used up its tries is reported with them, cleaned up, and not tried again; a new release is.
func TestCountedTrialThatFailsIsReportedAndGivenUp(t *testing.T) {
	t.Parallel()
	d := newCounted(t)
	d.offer("1.1.0", 3, d.esp.Image("broken", 2))
	d.esp.Bad["broken"] = true
	d.stage()
	if got := d.reboot(); got != "factory" {
		t.Fatalf("%s boots, want the image before", got)
	}
	d.check()
	c := d.server.lastClaims(t)
	if c.Boot == nil || c.Boot.Result != "fallback" || c.Boot.Version != "thermostat/1.1.0" || !strings.Contains(c.Boot.Detail, "3 of 3 tries of cordon-") {
		t.Errorf("claims = %+v, want the fallback and its cause", c.Boot)
	}
	d.wantTold("fell back: the boot loader used 3 of 3 tries of cordon-")
	if files, _ := filepath.Glob(filepath.Join(d.esp.Linux(), "cordon-*")); len(files) != 0 {
		t.Errorf("files = %v, want the failed image gone", files)
	}
	d.wantRefused(reason.UpdateOverdue)
	d.offer("1.1.1", 4, d.esp.Image("mended", 3))
	d.stage()
	if got := d.reboot(); got != "mended" {
		t.Fatalf("%s boots, want the new release", got)
	}
	if r, err := d.client.Step(t.Context()); err != nil || !r.Proven {
		t.Errorf("Step = %+v, %v, want the proof", r, err)
	}
}

// wantTold checks that some poll told the server.
func (d *counted) wantTold(text string) {
	d.t.Helper()
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	for _, p := range d.server.polls {
		if bytes.Contains(p.Claims, []byte(text)) {
			return
		}
	}
	d.t.Errorf("no poll told %q", text)
}
