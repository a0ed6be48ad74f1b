package radius_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/radius"
)

// freeLocal is a free UDP address of this host.
func freeLocal(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}

// Against FreeRADIUS, which checks our authenticators, moves its ports by a program of its own and reports with radclient:
// what it shows is believed, what it only acknowledges is not.
func TestFreeRADIUS(t *testing.T) {
	t.Parallel()
	const secret, accounting = "secret-for-freeradius", "accounting-of-freeradius"
	listen := freeLocal(t)
	nas, err := parts.StartRADIUS(t.Context(), parts.RADIUSConfig{
		Dir: filepath.Join(t.TempDir(), "radius"), Secret: secret, Restricted: "quarantine", Accounting: listen, AcctSecret: accounting,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nas.Stop() })
	p := newNAS(t).point(func(c *radius.Config) {
		c.Server, c.SecretFile, c.Timeout, c.SendClass = nas.Address().String(), secretFile(t, secret), 2*time.Second, true
		c.AccountingListen, c.AccountingSecretFile = listen, secretFile(t, accounting)
		c.AccountingClients = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	if _, err := p.Apply(t.Context(), order(fleet.Restricted, 1)); !errors.Is(err, segment.ErrRefused) || !contains(err.Error(), "503") {
		t.Errorf("nothing plugged in: got %v\n%s", err, nas.Log())
	}
	if err := nas.Connect(t.Context(), stationOne, "open"); err != nil {
		t.Fatal(err)
	}
	shows(t, p, fleet.Production, 0)
	for epoch, want := range map[int64]fleet.Segment{2: fleet.Restricted} {
		if _, err := p.Apply(t.Context(), order(want, epoch)); err != nil {
			t.Fatalf("Apply: %v\n%s", err, nas.Log())
		}
		shows(t, p, want, epoch)
	}
	if got := nas.Filter(stationOne); got != "quarantine" {
		t.Errorf("port: %q", got)
	}
	if err := nas.Lie(true); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply(t.Context(), order(fleet.Production, 3)); err != nil {
		t.Fatal(err)
	}
	if err := nas.Report(t.Context(), stationOne); err != nil {
		t.Fatal(err)
	}
	shows(t, p, fleet.Restricted, 2)
	if err := nas.Lie(false); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply(t.Context(), order(fleet.Production, 3)); err != nil {
		t.Fatal(err)
	}
	shows(t, p, fleet.Production, 3)
	nas.Kill()
	if _, err := p.Apply(t.Context(), order(fleet.Restricted, 4)); !errors.Is(err, segment.ErrUnreachable) {
		t.Errorf("killed: got %v", err)
	}
}

// shows waits until accounting shows the device so.
func shows(t *testing.T, p *radius.Point, want fleet.Segment, epoch int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		o, err := p.Observe(ctx, order(want, epoch).Target)
		if err == nil && o.Known && o.Segment == want && o.Epoch == epoch {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("observed %+v, %v, want %s at epoch %d", o, err, want, epoch)
		case <-tick.C:
		}
	}
}
