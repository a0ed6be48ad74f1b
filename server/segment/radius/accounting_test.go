package radius_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	wire "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment/radius"
)

const (
	interim = rfc2866.AcctStatusType_Value_InterimUpdate
	stop    = rfc2866.AcctStatusType_Value_Stop
)

// Records that nobody should believe: what was observed stays.
func TestFalseRecordsDoNotCount(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answered bool
		change   func(*wire.Packet)
		after    func([]byte) []byte
	}{
		"other secret":    {change: func(p *wire.Packet) { p.Secret = []byte("another secret") }},
		"no time":         {answered: true, change: func(p *wire.Packet) { p.Del(rfc2869.EventTimestamp_Type) }},
		"from long ago":   {answered: true, change: func(p *wire.Packet) { _ = rfc2869.EventTimestamp_Set(p, time.Now().Add(-time.Hour)) }},
		"from the future": {answered: true, change: func(p *wire.Packet) { _ = rfc2869.EventTimestamp_Set(p, time.Now().Add(time.Minute)) }},
		"an earlier one":  {answered: true, change: func(p *wire.Packet) { _ = rfc2869.EventTimestamp_Set(p, time.Now().Add(-time.Minute)) }},
		"flipped bit":     {after: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		"cut off":         {after: func(b []byte) []byte { return b[:len(b)-1] }},
		"another code":    {change: func(p *wire.Packet) { p.Code = wire.CodeCoARequest }},
		"another station": {answered: true, change: func(p *wire.Packet) { _ = rfc2865.CallingStationID_SetString(p, "02-00-00-00-00-0B") }},
		"no link address": {answered: true, change: func(p *wire.Packet) { _ = rfc2865.CallingStationID_SetString(p, "+49 30 1234") }},
		"a tunnel's":      {answered: true, change: func(p *wire.Packet) { _ = rfc2866.AcctStatusType_Set(p, 9) }},
		"wrong HMAC":      {change: func(p *wire.Packet) { _ = rfc2869.MessageAuthenticator_Set(p, make([]byte, 16)) }},
		"old NAS start": {answered: true, change: func(p *wire.Packet) {
			_ = rfc2866.AcctStatusType_Set(p, 7)
			_ = rfc2869.EventTimestamp_Set(p, time.Now().Add(-time.Hour))
		}},
		"other NAS's start": {answered: true, change: func(p *wire.Packet) {
			_ = rfc2866.AcctStatusType_Set(p, 7)
			_ = rfc2865.NASIdentifier_SetString(p, "switch-2")
		}},
		"restart before it": {answered: true, change: func(p *wire.Packet) {
			_ = rfc2866.AcctStatusType_Set(p, 8)
			_ = rfc2869.EventTimestamp_Set(p, time.Now().Add(-time.Minute))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNAS(t)
			p := n.point(nil)
			n.plug(stationOne, "open")
			n.report(stationOne)
			before := n.observe(p)
			n.plug(stationOne, "quarantine")
			b := n.record(stationOne, interim, test.change)
			if test.after != nil {
				b = test.after(b)
			}
			if got := n.send(b)[0]; got != test.answered {
				t.Errorf("answered: %v, want %v", got, test.answered)
			}
			if after := n.observe(p); after != before || !after.Known || after.Segment != fleet.Production {
				t.Errorf("observed %+v, before %+v", after, before)
			}
		})
	}
}

// Accounting has no nonce: what was heard on the wire can be sent again.
func TestReplayedRecordDoesNotCount(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	p := n.point(nil)
	now := time.Now().Truncate(time.Second)
	n.clock = func() time.Time { return now }
	n.plug(stationOne, "quarantine")
	restricted := n.record(stationOne, interim, nil)
	n.plug(stationOne, "open")
	open := n.record(stationOne, interim, nil) // within the same second
	for i, answered := range n.send(restricted, open, restricted, open, restricted) {
		if !answered {
			t.Errorf("packet %d: a record that was received before must be answered, or the NAS sends it for ever", i)
		}
	}
	if o := n.observe(p); o.Segment != fleet.Production {
		t.Errorf("a replay within the second counts: %+v", o)
	}
	now = now.Add(time.Second)
	ended := n.record(stationOne, stop, nil)
	n.send(ended)
	if o := n.observe(p); o.Known {
		t.Errorf("after the end of the session: %+v", o)
	}
	n.send(restricted, open)
	if o := n.observe(p); o.Known {
		t.Errorf("a replayed record brings an ended session back: %+v", o)
	}
}

// After a restart of the server nothing newer is there to compare with.
func TestOldRecordDoesNotCountAfterARestart(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	p := n.point(nil)
	n.plug(stationOne, "quarantine")
	n.clock = func() time.Time { return time.Now().Add(-time.Hour) }
	n.report(stationOne)
	if o := n.observe(p); o.Known {
		t.Errorf("a record from an hour ago counts: %+v", o)
	}
}

func TestRestartOfTheNASEndsItsSessions(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	p := n.point(nil)
	now := time.Now().Truncate(time.Second).Add(-10 * time.Second)
	n.clock = func() time.Time { return now }
	n.plug(stationOne, "open")
	n.report(stationOne)
	now = now.Add(time.Second)
	on := n.record(stationOne, rfc2866.AcctStatusType_Value_AccountingOn, nil)
	n.send(on)
	if o := n.observe(p); o.Known {
		t.Errorf("after Accounting-On: %+v", o)
	}
	n.report(stationOne) // within the same second
	n.send(on)
	if o := n.observe(p); !o.Known {
		t.Errorf("a replayed Accounting-On ends sessions: %+v", o)
	}
}

func TestAccountingOnlyFromKnownAddresses(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	p := n.point(func(c *radius.Config) { c.AccountingClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	n.plug(stationOne, "open")
	if n.send(n.record(stationOne, interim, nil))[0] {
		t.Error("a stranger is answered")
	}
	if o := n.observe(p); o.Known {
		t.Errorf("observed %+v", o)
	}
}

func TestProxyStateIsHandedBack(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.point(nil)
	b := n.record(stationOne, interim, func(p *wire.Packet) {
		_ = rfc2865.ProxyState_AddString(p, "one")
		_ = rfc2865.ProxyState_AddString(p, "two")
	})
	response, err := radius.ReadAccounting(b, []byte(acctSecret))
	if err != nil {
		t.Fatal(err)
	}
	got, err := wire.Parse(response, []byte(acctSecret))
	if err != nil || !wire.IsAuthenticResponse(response, b, []byte(acctSecret)) {
		t.Fatalf("response: %v", err)
	}
	if states, err := rfc2865.ProxyState_GetStrings(got); err != nil || !slices.Equal(states, []string{"one", "two"}) {
		t.Errorf("Proxy-State: %q, %v", states, err)
	}
}

// A VLAN with a tag and a filter that is neither of the two.
func TestSegmentIsReadFromWhatTheNASShows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*wire.Packet)
		known  bool
		want   fleet.Segment
	}{
		"restricted":         {func(p *wire.Packet) { _ = rfc2868.TunnelPrivateGroupID_SetString(p, 3, "666") }, true, fleet.Restricted},
		"production, no tag": {func(p *wire.Packet) { p.Add(rfc2868.TunnelPrivateGroupID_Type, []byte("10")) }, true, fleet.Production},
		"another VLAN":       {func(p *wire.Packet) { _ = rfc2868.TunnelPrivateGroupID_SetString(p, 1, "11") }, false, ""},
		"both": {func(p *wire.Packet) {
			_ = rfc2868.TunnelPrivateGroupID_AddString(p, 1, "10")
			_ = rfc2868.TunnelPrivateGroupID_AddString(p, 2, "666")
		}, false, ""},
		"none": {nil, false, ""},
	} {
		n := newNAS(t)
		p := n.point(func(c *radius.Config) {
			c.Restricted, c.Production = radius.Attributes{VLAN: "666"}, radius.Attributes{VLAN: "10"}
		})
		n.send(n.record(stationOne, interim, test.change))
		if o := n.observe(p); o.Known != test.known || o.Segment != test.want {
			t.Errorf("%s: observed %+v", name, o)
		}
	}
}

func TestSecretsAreRead(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	for name, content := range map[string]string{"empty": "", "short": "0123456789abcde", "two lines": "0123456789abcdef\n0123456789abcdef", "huge": string(make([]byte, 5000))} {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := radius.New(radius.Config{
			Name: "x", Server: n.conn.LocalAddr().String(), SecretFile: path,
			Restricted: radius.Attributes{VLAN: "1"}, Production: radius.Attributes{VLAN: "2"},
		})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestListenFailsLoudly(t *testing.T) {
	t.Parallel()
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p, err := radius.New(radius.Config{
		Name: "x", Server: "127.0.0.1:3799", SecretFile: secretFile(t, coaSecret), AccountingSecretFile: secretFile(t, acctSecret),
		Restricted: radius.Attributes{VLAN: "1"}, Production: radius.Attributes{VLAN: "2"},
		AccountingListen: taken.LocalAddr().String(), AccountingClients: []netip.Prefix{netip.MustParsePrefix("::/0")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil {
		t.Error("Run: the port is taken, and nobody says so")
	}
}
