package segment_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/parts"
)

const (
	coaSecret  = "secret-of-the-switch-port"
	acctSecret = "secret-of-the-accounting"
)

// freeUDP opens a socket of this host, where cordond runs.
func freeUDP(t *testing.T) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// newSwitch makes the gateway a switch: FreeRADIUS takes orders for the ports of its bridge and reports to cordond. It
// returns the table of the configuration. cordond stands at the address of host server: what it sends and gets by UDP goes
// through that namespace.
func (w *world) newSwitch() (nas func() *parts.RADIUS, config string) {
	w.t.Helper()
	gateway, server := w.net.Gateway(), w.host("server")
	requests := freeUDP(w.t)
	relayUDP(w.t, requests, func() (net.Conn, error) {
		return server.Dial(w.t.Context(), "udp", netip.AddrPortFrom(gateway.Address4, 3799).String())
	})
	probe := freeUDP(w.t)
	accounting := probe.LocalAddr().String()
	probe.Close()
	reports, err := server.ListenPacket(w.t.Context(), netip.AddrPortFrom(server.Address4, 1813).String())
	if err != nil {
		w.t.Fatal(err)
	}
	relayUDP(w.t, reports, func() (net.Conn, error) { return net.Dial("udp", accounting) })
	cfg := parts.RADIUSConfig{
		Dir: filepath.Join(w.t.TempDir(), "switch"), Host: gateway, Listen: netip.AddrPortFrom(gateway.Address4, 3799), Secret: coaSecret,
		Client: server.Address4.String(), Accounting: reports.LocalAddr().String(), AcctSecret: acctSecret,
		Restricted: "quarantine", Recovery: []string{w.recovery().String()},
	}
	nas = func() *parts.RADIUS {
		w.t.Helper()
		r, err := parts.StartRADIUS(w.t.Context(), cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = r.Stop() })
		return r
	}
	return nas, fmt.Sprintf(`[[segment.radius]]
name = "switch"
server = %q
secret_file = %q
restricted_filter = "quarantine"
production_filter = "open"
send_class = true
timeout = "300ms"
accounting_listen = %q
accounting_secret_file = %q
accounting_clients = ["127.0.0.1/32"]
`, requests.LocalAddr(), w.file("requests", coaSecret), accounting, w.file("accounting", acctSecret))
}

// The whole road over RADIUS: a switch that is killed in the middle leaves the order unverified, one that only says yes does
// too, and when it really moves the port the packets stop, new and open, in both directions, between neighbours on the same
// wire; two persons bring everything back.
func TestQuarantineMovesTheSwitchPort(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, true)
	start, config := w.newSwitch()
	nas := start()
	mac := w.host("device").MAC
	w.start(config)
	if err := nas.Connect(t.Context(), mac, "open"); err != nil {
		t.Fatal(err)
	}
	w.locate()
	w.verified("switch", "production", "enrolled")
	w.passes("in production", true)

	nas.Kill()
	w.stage.Ctl("alice", "person", "add", "erin", "--role", api.RoleOperator, "--token-out", w.stage.Path("erin.token"))
	w.stage.Ctl("erin", "device", "quarantine", w.dev.ID(), "--detail", "seen on a forum")
	if p := w.reaches("switch", "restricted", api.SegmentUnverified); p.Waiting == "" || p.Detail == "" || p.VerifiedAt != nil {
		t.Errorf("a dead switch: %+v", p)
	}
	w.passes("the switch is dead", true)

	if err := nas.Lie(true); err != nil {
		t.Fatal(err)
	}
	nas = start()
	w.stage.WaitFor("the switch to say yes", func() error {
		if err := nas.Report(t.Context(), mac); err != nil {
			return err
		}
		p, err := w.order("switch")
		if err == nil && (p.State != api.SegmentUnverified || p.AcknowledgedAt == nil || p.Observed != "production") {
			err = fmt.Errorf("it is %+v", p)
		}
		return err
	})
	w.passes("the switch only says yes", true)

	if err := nas.Lie(false); err != nil {
		t.Fatal(err)
	}
	w.verified("switch", "restricted", "killed, then lying switch")
	if got := nas.Filter(mac); got != "quarantine" {
		t.Errorf("the port has filter %q", got)
	}
	w.passes("restricted", false)

	w.recover("switch")
	w.verified("switch", "production", "let go by two persons")
	w.passes("released", true)
	if list, err := w.net.Gateway().Output(t.Context(), "nft", "list", "set", "bridge", "nas", "shut"); err != nil || strings.Contains(list, "elements") {
		t.Errorf("the switch: %v\n%s", err, list)
	}
	w.table()
}
