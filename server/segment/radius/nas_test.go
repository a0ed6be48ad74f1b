package radius_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
)

const (
	coaSecret  = "secret of the requests 1234"
	acctSecret = "secret of accounting 56789"

	stationOne = "02:00:00:00:00:0a"
	stationTwo = "02:00:00:00:00:0b"
)

// nas is a NAS in this process, on the RADIUS library's own server: its ports, and the faults that a test asks for.
type nas struct {
	t    *testing.T
	conn net.PacketConn
	acct string // where accounting goes; "" before a point listens

	mu     sync.Mutex
	ports  map[string]port // by Calling-Station-Id; guarded by mu, as everything below
	asked  []*wire.Packet
	lies   bool // acknowledges and does nothing
	silent int  // requests to leave without answer
	nak    rfc3576.ErrorCause
	answer func(asked []byte, p *wire.Packet) [][]byte // instead of the honest answer
	class  bool                                        // repeats Class in accounting
	clock  func() time.Time
}

type port struct {
	filter, vlan, class string
}

func newNAS(t *testing.T) *nas {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nas{t: t, conn: conn, ports: map[string]port{}, clock: time.Now, class: true}
	t.Cleanup(func() { conn.Close() })
	go n.serve()
	return n
}

func (n *nas) serve() {
	b := make([]byte, 4096)
	for {
		size, from, err := n.conn.ReadFrom(b)
		if err != nil {
			return
		}
		asked := bytes.Clone(b[:size])
		for _, answer := range n.handle(asked) {
			_, _ = n.conn.WriteTo(answer, from)
		}
	}
}

func (n *nas) handle(asked []byte) [][]byte {
	p, err := wire.Parse(asked, []byte(coaSecret))
	if err != nil || !wire.IsAuthenticRequest(asked, []byte(coaSecret)) || !hasMessageAuthenticator(asked, coaSecret) {
		return nil // as FreeRADIUS does
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, p)
	if n.silent > 0 {
		n.silent--
		return nil
	}
	if n.answer != nil {
		return n.answer(asked, p)
	}
	return [][]byte{n.decide(p)}
}

// decide answers honestly; n.mu is held.
func (n *nas) decide(p *wire.Packet) []byte {
	station := rfc2865.CallingStationID_GetString(p)
	code, nak := wire.CodeCoAACK, wire.CodeCoANAK
	if p.Code == wire.CodeDisconnectRequest {
		code, nak = wire.CodeDisconnectACK, wire.CodeDisconnectNAK
	}
	at, connected := n.ports[station]
	r := p.Response(code)
	switch {
	case n.nak != 0:
		r.Code = nak
		_ = rfc3576.ErrorCause_Set(r, n.nak)
	case !connected:
		r.Code = nak
		_ = rfc3576.ErrorCause_Set(r, rfc3576.ErrorCause_Value_SessionContextNotFound)
	case !n.lies && p.Code == wire.CodeCoARequest:
		at.filter = rfc2865.FilterID_GetString(p)
		_, at.vlan = rfc2868.TunnelPrivateGroupID_GetString(p)
		at.class = rfc2865.Class_GetString(p)
		n.ports[station] = at
	}
	b, err := r.Encode()
	if err != nil {
		n.t.Error(err)
	}
	return b
}

// hasMessageAuthenticator computes it another way than the driver: with the attribute zeroed in a copy.
func hasMessageAuthenticator(b []byte, secret string) bool {
	c := bytes.Clone(b)
	copy(c[4:20], make([]byte, 16))
	for i := 20; i+1 < len(c); i += int(c[i+1]) {
		if c[i] == 80 && c[i+1] == 18 {
			want := bytes.Clone(c[i+2 : i+18])
			copy(c[i+2:], make([]byte, 16))
			h := hmac.New(md5.New, []byte(secret))
			h.Write(c)
			return hmac.Equal(h.Sum(nil), want)
		}
	}
	return false
}

// set changes the NAS.
func (n *nas) set(f func(*nas)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// plug connects a station.
func (n *nas) plug(mac, filter string) {
	n.set(func(n *nas) { n.ports[radius.FormatMAC(mac, radius.FormatHyphenUpper)] = port{filter: filter} })
}

// record is an accounting packet about a station as it is now; change may alter it before it is signed.
func (n *nas) record(mac string, status rfc2866.AcctStatusType, change func(*wire.Packet)) []byte {
	n.t.Helper()
	station := radius.FormatMAC(mac, radius.FormatHyphenUpper)
	n.mu.Lock()
	at, now, class := n.ports[station], n.clock(), n.class
	n.mu.Unlock()
	p := wire.New(wire.CodeAccountingRequest, []byte(acctSecret))
	_ = rfc2866.AcctStatusType_Set(p, status)
	_ = rfc2865.CallingStationID_SetString(p, station)
	_ = rfc2865.NASIdentifier_SetString(p, "switch-1")
	_ = rfc2869.EventTimestamp_Set(p, now)
	if at.filter != "" {
		_ = rfc2865.FilterID_SetString(p, at.filter)
	}
	if at.vlan != "" {
		_ = rfc2868.TunnelPrivateGroupID_SetString(p, 1, at.vlan)
	}
	if class && at.class != "" {
		_ = rfc2865.Class_SetString(p, at.class)
	}
	if change != nil {
		change(p)
	}
	b, err := p.Encode()
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// send sends packets as they are, one after the other, and reports which of them were answered with an authentic response.
func (n *nas) send(packets ...[]byte) []bool {
	n.t.Helper()
	answered := make([]bool, len(packets))
	for i, b := range packets {
		conn, err := net.Dial("udp", n.acct)
		if err != nil {
			n.t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			n.t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		r := make([]byte, 4096)
		size, err := conn.Read(r)
		answered[i] = err == nil && wire.IsAuthenticResponse(r[:size], b, []byte(acctSecret)) && r[0] == byte(wire.CodeAccountingResponse)
		conn.Close()
	}
	return answered
}

// report sends an interim update of a station that has to be answered.
func (n *nas) report(mac string) {
	n.t.Helper()
	if !n.send(n.record(mac, rfc2866.AcctStatusType_Value_InterimUpdate, nil))[0] {
		n.t.Error("accounting is not answered")
	}
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// point is a point for the NAS that receives accounting.
func (n *nas) point(change func(*radius.Config)) *radius.Point {
	n.t.Helper()
	cfg := radius.Config{
		Name: "switch", Server: n.conn.LocalAddr().String(), SecretFile: secretFile(n.t, coaSecret),
		Restricted: radius.Attributes{FilterID: "quarantine"}, Production: radius.Attributes{FilterID: "open"},
		Timeout: 200 * time.Millisecond, Rate: 10000,
		AccountingListen: "127.0.0.1:0", AccountingSecretFile: secretFile(n.t, acctSecret),
		AccountingClients: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := radius.New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	address, err := p.Listen(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if address != nil {
		n.acct = address.String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	return p
}

func order(s fleet.Segment, epoch int64, macs ...string) segment.Order {
	if len(macs) == 0 {
		macs = []string{stationOne}
	}
	return segment.Order{Target: segment.Target{Device: "device", MACs: macs}, Segment: s, Epoch: epoch}
}

func (n *nas) apply(p *radius.Point, o segment.Order) segment.Receipt {
	n.t.Helper()
	r, err := p.Apply(n.t.Context(), o)
	if err != nil {
		n.t.Fatalf("Apply: %v", err)
	}
	return r
}

func (n *nas) observe(p *radius.Point, macs ...string) segment.Observation {
	n.t.Helper()
	o, err := p.Observe(n.t.Context(), order("", 1, macs...).Target)
	if err != nil {
		n.t.Fatalf("Observe: %v", err)
	}
	return o
}

// all are the requests that the NAS has taken as authentic.
func (n *nas) all() []*wire.Packet {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func (n *nas) requests() int { return len(n.all()) }

// watch is a clock that a test turns.
type watch struct {
	mu  sync.Mutex
	now time.Time
}

func (w *watch) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *watch) turn(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(by)
}

func contains(text, part string) bool { return strings.Contains(text, part) }
