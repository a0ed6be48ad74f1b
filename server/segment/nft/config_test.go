package nft_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cordon-ota/cordon/server/segment/nft"
)

func valid() nft.Config {
	return nft.Config{Name: "gateway", Recovery: []nft.Service{{Proto: "tcp", Address: netip.MustParseAddrPort("10.0.0.5:8443")}}}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := nft.New(valid()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*nft.Config){
		"no name":             func(c *nft.Config) { c.Name = "" },
		"the door":            func(c *nft.Config) { c.Name = "door" },
		"table":               func(c *nft.Config) { c.Table = "a b" },
		"family":              func(c *nft.Config) { c.Family = "ip" },
		"no road":             func(c *nft.Config) { c.Recovery = nil },
		"road twice":          func(c *nft.Config) { c.Recovery = append(c.Recovery, c.Recovery[0]) },
		"road without port":   func(c *nft.Config) { c.Recovery[0].Address = netip.MustParseAddrPort("10.0.0.5:0") },
		"road's protocol":     func(c *nft.Config) { c.Recovery[0].Proto = "sctp" },
		"hook":                func(c *nft.Config) { c.Hooks = []string{"prerouting"} },
		"hook twice":          func(c *nft.Config) { c.Hooks = []string{"forward", "forward"} },
		"priority":            func(c *nft.Config) { c.Priority = 4000 },
		"timeout":             func(c *nft.Config) { c.Timeout = -1 },
		"relative namespace":  func(c *nft.Config) { c.Namespace = "../net" },
		"namespace's parents": func(c *nft.Config) { c.Namespace = ".." },
	} {
		c := valid()
		change(&c)
		if _, err := nft.New(c); !errors.Is(err, nft.ErrConfig) {
			t.Errorf("%s: got %v, want ErrConfig", name, err)
		}
	}
}

func FuzzParseService(f *testing.F) {
	for _, s := range []string{"10.0.0.5:8443", "udp/[2001:db8::53]:53", "tcp/[::ffff:1.2.3.4]:1", "10.0.0.5", "icmp/1.2.3.4:1", "[fe80::1%eth0]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := nft.ParseService(text)
		if err != nil {
			return
		}
		if again, err := nft.ParseService(s.String()); err != nil || again != s {
			t.Errorf("%q: %v became %v, %v", text, s, again, err)
		}
	})
}
