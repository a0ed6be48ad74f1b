package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

// blind is an installer that cannot tell what runs while it is told so.
type blind struct {
	installer.Installer
	cannot bool
}

func (b *blind) Running(ctx context.Context) (installer.Boot, error) {
	if b.cannot {
		return installer.Boot{}, errors.New("the image that was booted is none of mine")
	}
	return b.Installer.Running(ctx)
}

// Whoever starts the genuine image by an entry of his own must not make the device silent: it proves what was booted, and
// concludes nothing about the trial until somebody can tell what runs.
func TestDeviceThatCannotTellWhatRunsStillProvesIt(t *testing.T) {
	t.Parallel()
	d := newCounted(t)
	d.offer("1.1.0", 3, d.esp.Image("good", 2))
	d.stage()
	in := &blind{cannot: true}
	open := d.cfg
	d.cfg = func(c *client.Config) {
		open(c)
		in.Installer = c.Installers[0]
		c.Installers[0] = in
	}
	d.reboot()
	var before, quotes int
	d.server.set(func() { before = len(d.server.polls) })
	for range 2 {
		r, err := d.client.Step(t.Context())
		if err != nil {
			t.Fatalf("Step: %v", err)
		}
		if r.Proven {
			t.Error("a trial was committed that nobody has seen running")
		}
	}
	d.server.set(func() {
		for _, poll := range d.server.polls[before:] {
			if len(poll.Evidence) > 0 {
				quotes++
			}
		}
	})
	if quotes == 0 {
		t.Error("no Evidence was sent")
	}
	if c := d.server.lastClaims(t); len(c.Components) != 0 || c.Boot != nil {
		t.Errorf("claims name %v and boot %v, want neither", c.Components, c.Boot)
	}
	in.cannot = false
	if r, err := d.client.Step(t.Context()); err != nil || !r.Proven {
		t.Errorf("Step = %+v, %v, want the trial proven once it can be seen", r, err)
	}
}
