package radius_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	wire "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3576"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/radius"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	for name, class := range map[string]bool{"with Class": true, "without Class": false} {
		t.Run(name, func(t *testing.T) {
			segmenttest.Run(t, func(t *testing.T) segmenttest.Setup {
				n := newNAS(t)
				open := func() segment.Point { return n.point(func(c *radius.Config) { c.SendClass = class }) }
				macs := map[string]string{}
				target := func(device, mac string) segment.Target {
					macs[device] = mac
					n.plug(mac, "open")
					return segment.Target{Device: device, MACs: []string{mac}}
				}
				return segmenttest.Setup{
					Point: open(), Restart: open, EpochLost: true,
					Report: func(device string) { n.report(macs[device]) },
					Moved:  target("first", "02:00:00:00:00:01"), Second: target("second", "02:00:00:00:00:02"),
					First: target("first", "02:00:00:00:00:01"),
				}
			})
		})
	}
}

// What the NAS gets is what RFC 5176 and the operator ask for.
func TestRequestSaysWhatIsConfigured(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	p := n.point(func(c *radius.Config) {
		c.SendClass, c.NASIdentifier, c.NASAddress = true, "switch-1", netip.MustParseAddr("192.0.2.7")
		c.Restricted, c.Production = radius.Attributes{FilterID: "quarantine", VLAN: "666"}, radius.Attributes{VLAN: "10"}
	})
	n.apply(p, order(fleet.Restricted, 7))
	asked := n.all()[0]
	_, vlan := rfc2868.TunnelPrivateGroupID_GetString(asked)
	_, kind := rfc2868.TunnelType_Get(asked)
	_, medium := rfc2868.TunnelMediumType_Get(asked)
	if asked.Code != wire.CodeCoARequest || rfc2865.CallingStationID_GetString(asked) != "02-00-00-00-00-0A" ||
		rfc2865.FilterID_GetString(asked) != "quarantine" || vlan != "666" || kind != 13 || medium != rfc2868.TunnelMediumType_Value_IEEE802 ||
		rfc2865.NASIdentifier_GetString(asked) != "switch-1" || rfc2865.NASIPAddress_Get(asked).String() != "192.0.2.7" ||
		rfc2865.Class_GetString(asked) != "cordon/1 device restricted 7" || time.Since(rfc2869.EventTimestamp_Get(asked)).Abs() > time.Hour {
		t.Errorf("asked: %v", asked.Attributes)
	}
	n.apply(p, order(fleet.Production, 8))
	if asked := n.all()[1]; rfc2865.FilterID_GetString(asked) != "" {
		t.Errorf("production has no filter here, and got %q", rfc2865.FilterID_GetString(asked))
	}
}

func TestAcknowledgementIsNoProof(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	n.set(func(n *nas) { n.lies = true })
	p := n.point(nil)
	if r := n.apply(p, order(fleet.Restricted, 1)); r.Acknowledged.IsZero() {
		t.Errorf("receipt: %+v", r)
	}
	if o := n.observe(p); o.Known {
		t.Errorf("before any record: observed %+v", o)
	}
	n.report(stationOne)
	if o := n.observe(p); !o.Known || o.Segment != fleet.Production {
		t.Errorf("the NAS did nothing: observed %+v, want production", o)
	}
	n.set(func(n *nas) { n.lies = false })
	n.apply(p, order(fleet.Restricted, 1))
	n.report(stationOne)
	if o := n.observe(p); !o.Known || o.Segment != fleet.Restricted || o.At.IsZero() {
		t.Errorf("the NAS did it: observed %+v, want restricted", o)
	}
}

func TestWithoutAccountingNothingIsKnown(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	p := n.point(func(c *radius.Config) { c.AccountingListen = "" })
	if r := n.apply(p, order(fleet.Restricted, 1)); !contains(r.Detail, "without accounting") {
		t.Errorf("receipt: %+v", r)
	}
	if o := n.observe(p); o.Known || o.Detail == "" {
		t.Errorf("observed %+v, want not known", o)
	}
}

// A record from before the order proves nothing about it, unless it names it.
func TestOldRecordIsNoProof(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "quarantine")
	clock := &watch{now: time.Now()}
	p := n.point(func(c *radius.Config) { c.Now = clock.Now })
	behind := func(by time.Duration) {
		n.set(func(n *nas) { n.clock = func() time.Time { return clock.Now().Add(-by) } })
	}
	behind(0)
	n.report(stationOne)
	if o := n.observe(p); !o.Known || o.Segment != fleet.Restricted {
		t.Errorf("before any order: observed %+v", o)
	}
	clock.turn(10 * time.Second)
	n.set(func(n *nas) { n.lies = true })
	n.apply(p, order(fleet.Restricted, 1))
	if o := n.observe(p); o.Known {
		t.Errorf("a record from before the order: observed %+v", o)
	}
	// It arrives after the order and is from before it.
	behind(5 * time.Second)
	n.report(stationOne)
	if o := n.observe(p); o.Known {
		t.Errorf("a late record from before the order: observed %+v", o)
	}
	behind(0)
	n.report(stationOne)
	if o := n.observe(p); !o.Known {
		t.Errorf("a record from after the order: observed %+v", o)
	}
}

func TestOlderOrderIsNotSent(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	withClass := func(c *radius.Config) { c.SendClass = true }
	p := n.point(withClass)
	n.apply(p, order(fleet.Restricted, 5))
	for _, o := range []segment.Order{order(fleet.Production, 4), order(fleet.Production, 5)} {
		if r := n.apply(p, o); r.Epoch != 5 || r.Segment != fleet.Restricted {
			t.Errorf("epoch %d: receipt %+v", o.Epoch, r)
		}
	}
	if n.requests() != 1 {
		t.Errorf("the NAS was asked %d times, want once", n.requests())
	}
	// After a restart a record with the epoch says the same.
	again := n.point(withClass)
	n.report(stationOne)
	if r := n.apply(again, order(fleet.Production, 4)); r.Epoch != 5 || n.requests() != 1 {
		t.Errorf("after a restart: receipt %+v, %d requests", r, n.requests())
	}
	if o := n.observe(again); o.Epoch != 5 || o.Segment != fleet.Restricted {
		t.Errorf("after a restart: observed %+v", o)
	}
	// An order that got no answer may have been carried out all the same.
	n.set(func(n *nas) { n.silent = 100 })
	if _, err := again.Apply(t.Context(), order(fleet.Production, 9)); !errors.Is(err, segment.ErrUnreachable) {
		t.Errorf("silence: got %v", err)
	}
	n.set(func(n *nas) { n.silent = 0 })
	if r := n.apply(again, order(fleet.Restricted, 8)); r.Epoch != 9 {
		t.Errorf("an order older than one without answer: receipt %+v", r)
	}
}

func TestSilenceIsExplainedAndRetried(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	wrong := n.point(func(c *radius.Config) { c.SecretFile = secretFile(t, "quite another secret") })
	if _, err := wrong.Apply(t.Context(), order(fleet.Restricted, 1)); !errors.Is(err, segment.ErrUnreachable) || !contains(err.Error(), "shared secret") {
		t.Errorf("wrong secret: got %v", err)
	}
	if n.requests() != 0 {
		t.Error("the NAS took a request with a wrong secret")
	}
	n.set(func(n *nas) { n.silent = 2 })
	p := n.point(nil)
	n.apply(p, order(fleet.Restricted, 1))
	ids := map[byte]bool{}
	for _, r := range n.all() {
		ids[r.Identifier] = true
	}
	if n.requests() != 3 || len(ids) != 3 {
		t.Errorf("%d tries with %d identifiers, want 3 and 3", n.requests(), len(ids))
	}
	closed := n.point(func(c *radius.Config) { c.Server, c.Timeout = "127.0.0.1:9", 20*time.Millisecond })
	if _, err := closed.Apply(t.Context(), order(fleet.Restricted, 2)); !errors.Is(err, segment.ErrUnreachable) {
		t.Errorf("nobody there: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Apply(ctx, order(fleet.Restricted, 3)); !errors.Is(err, segment.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestRefusalIsPutIntoWords(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	p := n.point(nil)
	for cause, words := range map[rfc3576.ErrorCause]string{
		rfc3576.ErrorCause_Value_SessionContextNotFound:     "not connected",
		rfc3576.ErrorCause_Value_AdministrativelyProhibited: "configured not to let us",
		rfc3576.ErrorCause_Value_NASIdentificationMismatch:  "another NAS",
		999: "Error-Cause 999",
	} {
		n.set(func(n *nas) { n.nak = cause })
		if _, err := p.Apply(t.Context(), order(fleet.Restricted, 1)); !errors.Is(err, segment.ErrRefused) || !contains(err.Error(), words) {
			t.Errorf("Error-Cause %d: got %v, want %q", cause, err, words)
		}
	}
}

// One port of the device is plugged in, the other is not.
func TestEveryPortOfTheDeviceCounts(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	p := n.point(nil)
	both := order(fleet.Restricted, 1, stationOne, stationTwo)
	if r := n.apply(p, both); !contains(r.Detail, "no session for "+stationTwo) {
		t.Errorf("receipt: %+v", r)
	}
	n.report(stationOne)
	if o := n.observe(p, stationOne, stationTwo); !o.Known || o.Segment != fleet.Restricted {
		t.Errorf("the only session is restricted: observed %+v", o)
	}
	n.plug(stationTwo, "open")
	n.report(stationTwo)
	if o := n.observe(p, stationOne, stationTwo); o.Known {
		t.Errorf("the second port is open: observed %+v", o)
	}
	n.apply(p, both)
	n.report(stationTwo)
	if o := n.observe(p, stationOne, stationTwo); !o.Known || o.Segment != fleet.Restricted {
		t.Errorf("both are restricted: observed %+v", o)
	}
	if _, err := p.Apply(t.Context(), order(fleet.Restricted, 2, "not an address")); !errors.Is(err, segment.ErrNoAddress) {
		t.Errorf("broken link address: got %v", err)
	}
}

// Nobody without the secret can answer for the NAS; the right answer still counts after any number of wrong ones.
func TestForgedRepliesAreIgnored(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	sign := func(p *wire.Packet, secret string, change func(*wire.Packet)) []byte {
		r := p.Response(wire.CodeCoAACK)
		r.Secret = []byte(secret)
		if change != nil {
			change(r)
		}
		b, err := r.Encode()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	forged := map[string]func(asked []byte, p *wire.Packet) []byte{
		"other secret": func(_ []byte, p *wire.Packet) []byte { return sign(p, "another secret", nil) },
		"other request": func(_ []byte, p *wire.Packet) []byte {
			return sign(p, coaSecret, func(r *wire.Packet) { r.Identifier += 50 })
		},
		"other kind": func(_ []byte, p *wire.Packet) []byte {
			return sign(p, coaSecret, func(r *wire.Packet) { r.Code = wire.CodeDisconnectACK })
		},
		"wrong Message-Authenticator": func(_ []byte, p *wire.Packet) []byte {
			return sign(p, coaSecret, func(r *wire.Packet) { _ = rfc2869.MessageAuthenticator_Set(r, make([]byte, 16)) })
		},
		"two Message-Authenticators": func(_ []byte, p *wire.Packet) []byte {
			return sign(p, coaSecret, func(r *wire.Packet) {
				_ = rfc2869.MessageAuthenticator_Add(r, make([]byte, 16))
				_ = rfc2869.MessageAuthenticator_Add(r, make([]byte, 16))
			})
		},
		"flipped bit": func(_ []byte, p *wire.Packet) []byte { b := sign(p, coaSecret, nil); b[7] ^= 1; return b },
		"cut off":     func(_ []byte, p *wire.Packet) []byte { return sign(p, coaSecret, nil)[:19] },
		"the request": func(asked []byte, _ *wire.Packet) []byte { return bytes.Clone(asked) },
	}
	p := n.point(func(c *radius.Config) { c.Tries = 1 })
	epoch := int64(0)
	for name, forge := range forged {
		epoch++
		n.set(func(n *nas) {
			n.answer = func(asked []byte, p *wire.Packet) [][]byte { return [][]byte{forge(asked, p)} }
		})
		if r, err := p.Apply(t.Context(), order(fleet.Restricted, epoch)); !errors.Is(err, segment.ErrUnreachable) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
		n.set(func(n *nas) {
			n.answer = func(asked []byte, p *wire.Packet) [][]byte { return [][]byte{forge(asked, p), n.decide(p)} }
		})
		n.apply(p, order(fleet.Restricted, epoch))
	}
	n.set(func(n *nas) { n.answer = nil })
	strict := n.point(func(c *radius.Config) { c.Tries, c.StrictReplies = 1, true })
	if _, err := strict.Apply(t.Context(), order(fleet.Restricted, 1)); !errors.Is(err, segment.ErrUnreachable) {
		t.Errorf("strict, no Message-Authenticator: got %v", err)
	}
}

// In disconnect mode a device that is where it should be is left alone.
func TestDisconnectIsNotRepeatedForNothing(t *testing.T) {
	t.Parallel()
	n := newNAS(t)
	n.plug(stationOne, "open")
	p := n.point(func(c *radius.Config) { c.Mode = radius.ModeDisconnect })
	n.apply(p, order(fleet.Restricted, 1))
	if asked := n.all()[0]; asked.Code != wire.CodeDisconnectRequest || rfc2865.FilterID_GetString(asked) != "" {
		t.Errorf("asked: code %d, %v", asked.Code, asked.Attributes)
	}
	n.plug(stationOne, "quarantine") // it has signed on again
	n.send(n.record(stationOne, rfc2866.AcctStatusType_Value_Start, nil))
	if r := n.apply(p, order(fleet.Restricted, 1)); n.requests() != 1 || !contains(r.Detail, "there already") {
		t.Errorf("%d requests, receipt %+v", n.requests(), r)
	}
	if o := n.observe(p); !o.Known || o.Segment != fleet.Restricted {
		t.Errorf("observed %+v", o)
	}
}
