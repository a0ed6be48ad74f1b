package parts_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// The hosts reach each other through the gateway, and the namespaces are gone afterwards.
func TestNetworkCarriesPackets(t *testing.T) {
	t.Parallel()
	for name, bridged := range map[string]bool{"routed": false, "bridged": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := parts.StartNetwork(t.Context(), parts.NetworkConfig{Hosts: []string{"a", "b"}, Bridged: bridged, Log: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			a, b := n.Host("a"), n.Host("b")
			for _, to := range []netip.Addr{b.Address4, b.Address6} {
				l, err := b.Listen(t.Context(), netip.AddrPortFrom(to, 9000).String())
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				c, err := a.Dial(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if from, ok := c.LocalAddr().(*net.TCPAddr); !ok || from.AddrPort().Addr() != a.Address4 && from.AddrPort().Addr() != a.Address6 {
					t.Errorf("connected from %s, want from %s or %s", c.LocalAddr(), a.Address4, a.Address6)
				}
			}
			if out, err := b.Output(t.Context(), "ip", "link", "show", "eth0"); err != nil || !strings.Contains(out, b.MAC) {
				t.Errorf("link of b: %v\n%s", err, out)
			}
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(a.Namespace); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("namespace after the end: got %v, want none", err)
			}
		})
	}
}
