package client_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

// A restart that fails is told to the server once, with its cause, and asked for again in every round; nothing is installed
// again for that.
func TestRestartThatFailsIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	cause, asked := errors.New("the command took longer than 5m0s and was killed"), 0
	counter := &counting{}
	d.cfg = func(c *client.Config) {
		counter.Installer = c.Installers[0]
		c.Installers = []installer.Installer{counter}
		c.Reboot = func(context.Context) error { asked++; return cause }
	}
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	for range 4 {
		if _, err := d.client.Step(t.Context()); !errors.Is(err, cause) {
			t.Fatalf("Step = %v, want the failure of the restart", err)
		}
	}
	if asked != 4 || counter.activated != 1 {
		t.Errorf("%d restarts asked for and %d images activated, want 4 and 1", asked, counter.activated)
	}
	if n := d.told("cannot restart into the staged release: the command took longer than 5m0s and was killed"); n != 1 {
		t.Errorf("%d polls told of the failure, want 1", n)
	}
	cause = errors.New("exit status 1")
	for range 2 {
		if _, err := d.client.Step(t.Context()); !errors.Is(err, cause) {
			t.Fatalf("Step = %v, want the failure of the restart", err)
		}
	}
	if n := d.told("cannot restart into the staged release: exit status 1"); n != 1 {
		t.Errorf("%d polls told of the other cause, want 1", n)
	}
}

// counting counts how often images are activated.
type counting struct {
	installer.Installer
	activated int
}

func (c *counting) Activate(ctx context.Context, image installer.Image) error {
	c.activated++
	return c.Installer.Activate(ctx, image)
}

// told counts the polls that said text.
func (d *device) told(text string) (n int) {
	d.t.Helper()
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	for _, p := range d.server.polls {
		if bytes.Contains(p.Claims, []byte(text)) {
			n++
		}
	}
	return n
}

// What is staged is no reason to leave out another release.
func TestAnotherReleaseIsInstalledWhereTheRestartFailed(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	cause, counter := errors.New("exit status 1"), &counting{}
	d.cfg = func(c *client.Config) {
		counter.Installer = c.Installers[0]
		c.Installers = []installer.Installer{counter}
		c.Reboot = func(context.Context) error { return cause }
	}
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	first := d.check()
	d.publish("1.1.1", 4, randomImage(t, 1000))
	second := d.check()
	if first.Update == nil || second.Update == nil {
		t.Fatal("no updates")
	}
	for _, u := range []*client.Update{first.Update, second.Update} {
		if _, err := u.Install(t.Context()); !errors.Is(err, cause) {
			t.Fatalf("Install = %v, want the failure of the restart", err)
		}
	}
	if counter.activated != 2 {
		t.Errorf("%d images activated, want 2", counter.activated)
	}
}
