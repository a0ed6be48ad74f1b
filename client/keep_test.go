package client_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

// keeping is an installer whose boot loader counts every boot.
type keeping struct {
	installer.Installer
	err  error
	kept int
}

func (k *keeping) Keep(context.Context) error {
	k.kept++
	return k.err
}

// A boot loader that counts every boot hears that this one was good, also from a device that never reached its server.
func TestBootLoaderHearsOfAGoodBootWithoutTheServer(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	away := errors.New("the network is down")
	k := &keeping{err: errors.New("the bus is not up yet")}
	d.cfg = func(c *client.Config) {
		k.Installer = c.Installers[0]
		c.Installers = []installer.Installer{k}
		c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, away }
	}
	d.restart()
	for round, want := range []int{1, 2, 2} { // the second round goes well, and once is enough
		if _, err := d.client.Step(t.Context()); !errors.Is(err, away) {
			t.Fatalf("Step = %v, want %v", err, away)
		}
		if k.kept != want {
			t.Errorf("round %d: the boot loader was told %d times, want %d", round, k.kept, want)
		}
		k.err = nil
	}
}

// A trial is a good boot when it is proven, and not before.
func TestBootLoaderDoesNotHearOfATrial(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	k := &keeping{}
	d.cfg = func(c *client.Config) {
		k.Installer = c.Installers[0]
		c.Installers = []installer.Installer{k}
	}
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1000))
	if r, err := d.client.Step(t.Context()); err != nil || r.Update == nil {
		t.Fatalf("Step = %+v, %v, want an update", r, err)
	}
	k.kept = 0
	d.boot()
	r := d.check()
	if !r.Proven || k.kept != 0 {
		t.Fatalf("Check of a trial = %+v; the boot loader was told %d times that it is good, want 0", r, k.kept)
	}
	if _, err := d.client.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	d.check()
	if k.kept != 1 {
		t.Errorf("after the commit the boot loader was told %d times, want once", k.kept)
	}
}

// A release that does not find the device's disk has neither state nor the note of what runs on trial. It is kept when it can
// reach the server, and not before: else nothing would bring the slot back that worked.
func TestBootLoaderDoesNotHearOfABootWithoutItsDisk(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	k, away := &keeping{}, errors.New("the network is down")
	var down error
	d.cfg = func(c *client.Config) {
		k.Installer = c.Installers[0]
		c.Installers = []installer.Installer{k}
		c.Dial = func(ctx context.Context, network, host string) (net.Conn, error) {
			if down != nil {
				return nil, down
			}
			return (&net.Dialer{}).DialContext(ctx, network, host)
		}
	}
	d.restart()
	d.enroll()
	d.state, down, k.kept = t.TempDir(), away, 0
	d.boot()
	for range 2 {
		if _, err := d.client.Step(t.Context()); !errors.Is(err, away) {
			t.Fatalf("Step = %v, want %v", err, away)
		}
	}
	if k.kept != 0 {
		t.Errorf("the boot loader was told %d times that the boot is good, want 0", k.kept)
	}
	down = nil
	for range 2 {
		if _, err := d.client.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if k.kept != 1 {
		t.Errorf("with the server there the boot loader was told %d times, want once", k.kept)
	}
}
