package radius_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	wire "layeh.com/radius"

	"github.com/cordon-ota/cordon/server/segment/radius"
)

func TestLinkAddressFormats(t *testing.T) {
	t.Parallel()
	for _, format := range []string{
		radius.FormatHyphenUpper, radius.FormatHyphenLower, radius.FormatColonUpper, radius.FormatColonLower,
		radius.FormatDots, radius.FormatPlainUpper, radius.FormatPlainLower,
	} {
		// The constants are the example address in their own format.
		if got := radius.FormatMAC("02:00:00:00:00:0a", format); got != format {
			t.Errorf("got %q, want %q", got, format)
		}
		if got := radius.ParseMAC(format); got != "02:00:00:00:00:0a" {
			t.Errorf("%q: got %q", format, got)
		}
	}
	if got := radius.ParseMAC("02-00-00-00-00-0A:guests"); got != "02:00:00:00:00:0a" {
		t.Errorf("with the name of a network behind it: got %q", got)
	}
	for _, text := range []string{"", "02-00-00-00-00", "0g-00-00-00-00-00", "+49 30 1234", "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x10\x11"} {
		if got := radius.ParseMAC(text); got != "" {
			t.Errorf("%q: got %q, want none", text, got)
		}
	}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, coaSecret)
	valid := func() radius.Config {
		return radius.Config{
			Name: "x", Server: "192.0.2.1:3799", SecretFile: secret,
			Restricted: radius.Attributes{VLAN: "666"}, Production: radius.Attributes{VLAN: "10"},
		}
	}
	if _, err := radius.New(valid()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*radius.Config){
		"no name":              func(c *radius.Config) { c.Name = "" },
		"the door":             func(c *radius.Config) { c.Name = "door" },
		"no server":            func(c *radius.Config) { c.Server = "" },
		"no port":              func(c *radius.Config) { c.Server = "192.0.2.1" },
		"mode":                 func(c *radius.Config) { c.Mode = "both" },
		"format":               func(c *radius.Config) { c.MACFormat = "xx" },
		"no restricted":        func(c *radius.Config) { c.Restricted = radius.Attributes{} },
		"the same":             func(c *radius.Config) { c.Restricted = c.Production },
		"nothing in common":    func(c *radius.Config) { c.Restricted = radius.Attributes{FilterID: "q"} },
		"half the same":        func(c *radius.Config) { c.Restricted.FilterID, c.Production.FilterID = "q", "q" },
		"tries":                func(c *radius.Config) { c.Tries = 99 },
		"rate":                 func(c *radius.Config) { c.Rate = -1 },
		"accounting of nobody": func(c *radius.Config) { c.AccountingListen = ":1813" },
		"long filter":          func(c *radius.Config) { c.Restricted.FilterID = string(make([]byte, 254)) },
	} {
		c := valid()
		change(&c)
		if _, err := radius.New(c); !errors.Is(err, radius.ErrConfig) {
			t.Errorf("%s: got %v, want ErrConfig", name, err)
		}
	}
	c := valid()
	c.AccountingListen, c.AccountingClients = ":1813", []netip.Prefix{netip.MustParsePrefix("::/0")}
	if _, err := radius.New(c); err == nil {
		t.Error("accounting without a secret is taken")
	}
}

// The seeds that are real are taken for what they are.
func TestRealPacketsAreTaken(t *testing.T) {
	t.Parallel()
	secret := []byte("secret-for-this-test")
	asked, err := radius.Request("02-00-00-00-00-0A", radius.Attributes{FilterID: "quarantine", VLAN: "666"}, secret)
	if err != nil {
		t.Fatal(err)
	}
	for i, seed := range realPackets {
		b, err := hex.DecodeString(seed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := radius.ReadAccounting(b, secret); (err == nil) != (i == 0) {
			t.Errorf("packet %d as accounting: %v", i, err)
		}
		if err := radius.ReadReply(b, asked, secret, false); (err == nil) != (i > 0) {
			t.Errorf("packet %d as reply: %v", i, err)
		}
	}
}

func FuzzPackets(f *testing.F) {
	secret := []byte("secret-for-this-test")
	asked, err := radius.Request("02-00-00-00-00-0A", radius.Attributes{FilterID: "quarantine", VLAN: "666"}, secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(asked)
	for _, seed := range realPackets {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if response, err := radius.ReadAccounting(b, secret); err == nil {
			if !wire.IsAuthenticRequest(b[:int(b[2])<<8|int(b[3])], secret) || !wire.IsAuthenticResponse(response, b, secret) {
				t.Errorf("taken, or answered, and not authentic: %x", b)
			}
		}
		if err := radius.ReadReply(b, asked, secret, false); err == nil && !wire.IsAuthenticResponse(b[:int(b[2])<<8|int(b[3])], asked, secret) {
			t.Errorf("taken, and not authentic: %x", b)
		}
		if !bytes.Equal(before, b) {
			t.Error("the packet was changed while it was read")
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("cordon/1 device restricted 7", "device")
	f.Add("cordon/1 a b restricted 07", "a b")
	f.Add("02-00-00-00-00-0A", "")
	f.Fuzz(func(t *testing.T, text, device string) {
		if again, ok := radius.ReadClass(text, device); ok && again != text {
			t.Errorf("%q of %q became %q", text, device, again)
		}
		if mac := radius.ParseMAC(text); mac != "" && radius.ParseMAC(radius.FormatMAC(mac, radius.FormatDots)) != mac {
			t.Errorf("%q became %q", text, mac)
		}
	})
}
