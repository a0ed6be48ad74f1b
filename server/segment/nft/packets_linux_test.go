package nft_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
)

type segmentName = fleet.Segment

// hop are addresses that the device with a known link address takes later, without telling anybody.
var (
	hop4 = netip.MustParseAddr("10.77.3.99")
	hop6 = netip.MustParseAddr("fd77:3::99")
)

// matrix is everything that must and must not pass while "device" is restricted by its addresses, "roamer" by its link
// address as well (and lives at other addresses now), "other" is restricted too, and "neighbour" is not.
func (w *world) matrix() []probe {
	d, n, s, g, r, o := w.hosts["device"], w.hosts["neighbour"], w.hosts["server"], w.hosts["gateway"], w.hosts["roamer"], w.hosts["other"]
	var probes []probe
	both := func(name, from string, source4, source6 netip.Addr, sourcePort uint16, to4, to6 netip.Addr, port uint16, arrives, answered bool) {
		probes = append(probes,
			probe{name + " (IPv4)", from, at(source4, sourcePort), at(to4, port), arrives, answered},
			probe{name + " (IPv6)", from, at(source6, sourcePort), at(to6, port), arrives, answered})
	}
	both("device to neighbour", "device", d.Address4, d.Address6, portOther, n.Address4, n.Address6, portOther, false, false)
	both("neighbour to device", "neighbour", n.Address4, n.Address6, portOther, d.Address4, d.Address6, portOther, false, false)
	both("device to the recovery road", "device", d.Address4, d.Address6, portOther, s.Address4, s.Address6, portRoad, true, true)
	both("device to another port of the server", "device", d.Address4, d.Address6, portOther, s.Address4, s.Address6, portOther, false, false)
	both("device to the road's port of the neighbour", "device", d.Address4, d.Address6, portOther, n.Address4, n.Address6, portRoad, false, false)
	both("server to device, unasked, from the road's port", "server", s.Address4, s.Address6, portRoad, d.Address4, d.Address6, portRoad, false, false)
	both("device to another restricted device", "device", d.Address4, d.Address6, portOther, o.Address4, o.Address6, portOther, false, false)
	both("device to the road of the gateway", "device", d.Address4, d.Address6, portOther, g.Address4, g.Address6, portRoad, true, true)
	both("device to another port of the gateway", "device", d.Address4, d.Address6, portOther, g.Address4, g.Address6, portOther, false, false)
	both("gateway to device", "gateway", g.Address4, g.Address6, portOther, d.Address4, d.Address6, portOther, false, false)
	both("roamer to neighbour", "roamer", hop4, hop6, portOther, n.Address4, n.Address6, portOther, false, false)
	both("roamer to the recovery road", "roamer", hop4, hop6, portOther, s.Address4, s.Address6, portRoad, true, true)
	both("roamer to another port of the gateway", "roamer", hop4, hop6, portOther, g.Address4, g.Address6, portOther, false, false)
	both("roamer to the road of the gateway", "roamer", hop4, hop6, portOther, g.Address4, g.Address6, portRoad, true, true)
	both("neighbour to server", "neighbour", n.Address4, n.Address6, portOther, s.Address4, s.Address6, portOther, true, true)
	both("neighbour to gateway", "neighbour", n.Address4, n.Address6, portOther, g.Address4, g.Address6, portOther, true, true)
	_ = r
	return probes
}

// forget empties the neighbour tables, so that address resolution has to pass as well.
func (w *world) forget() {
	for name := range w.hosts {
		w.sh(name, "ip neigh flush all; ip -6 neigh flush all")
	}
}

// newMatrix makes the world of the matrix with three restricted devices.
func newMatrix(t *testing.T) (*world, *nft.Point) {
	t.Helper()
	w := newWorld(t, false, "device", "neighbour", "roamer", "other", "server")
	p := w.point(nil)
	roamer := w.order("roamer", fleet.Restricted, 1)
	roamer.Target.MACs = []string{w.hosts["roamer"].MAC}
	w.apply(p, roamer)
	w.apply(p, w.order("device", fleet.Restricted, 1))
	w.apply(p, w.order("other", fleet.Restricted, 1))
	w.sh("roamer", "ip addr add "+hop4.String()+"/24 dev eth0; ip addr add "+hop6.String()+"/64 dev eth0 nodad")
	for _, a := range []netip.Addr{hop4, hop6} {
		w.listen("roamer", at(a, portOther))
	}
	return w, p
}

func TestRestrictedDevicesAreCutOff(t *testing.T) {
	t.Parallel()
	w, p := newMatrix(t)
	w.forget()
	w.expect("restricted", w.matrix())
	for _, host := range []string{"device", "other"} {
		w.apply(p, w.order(host, fleet.Production, 2))
	}
	open := []probe{}
	for _, pr := range w.matrix() {
		if pr.from != "roamer" {
			pr.arrives, pr.answered = true, true
			open = append(open, pr)
		}
	}
	w.expect("released", open)
}

// everyRuleMatters takes each rule out of the running ruleset: something gets through or the recovery road is stopped,
// Observe notices, and the next order puts the rule back.
func (w *world) everyRuleMatters(p *nft.Point, family string, o segment.Order, matrices ...[]probe) {
	w.t.Helper()
	for chain, comments := range p.Comments() {
		for i, comment := range comments {
			listing := strings.Split(w.sh("gateway", "nft -a list chain "+family+" cordon "+chain), "\n")
			var handles []string
			for _, line := range listing {
				if _, handle, ok := strings.Cut(line, " # handle "); ok && strings.Contains(line, "counter") {
					handles = append(handles, handle)
				}
			}
			if len(handles) != len(comments) {
				w.t.Fatalf("chain %s has %d rules, want %d:\n%s", chain, len(handles), len(comments), strings.Join(listing, "\n"))
			}
			w.sh("gateway", "nft delete rule "+family+" cordon "+chain+" handle "+handles[i])
			var wrong []string
			for _, m := range matrices {
				w.forget()
				wrong = append(wrong, w.judge(500*time.Millisecond, m)...)
			}
			if len(wrong) == 0 {
				w.t.Errorf("nothing changes without rule %d of %s, %q", i, chain, comment)
			}
			if got := w.observe(p, o.Target); got.Segment == fleet.Restricted {
				w.t.Errorf("without rule %d of %s: observed %+v", i, chain, got)
			}
			w.apply(p, o)
			if got := w.observe(p, o.Target); got.Segment != fleet.Restricted {
				w.t.Fatalf("rule %d of %s is not back: %+v", i, chain, got)
			}
		}
	}
	w.forget()
	w.expect("in the end", slices.Concat(matrices...))
}

func TestEveryRuleMatters(t *testing.T) {
	t.Parallel()
	w, p := newMatrix(t)
	w.everyRuleMatters(p, "inet", w.order("device", fleet.Restricted, 1), w.matrix())
}

// Inside a bridge a device is found by its link address; what its neighbours on the same wire send it, and it them, is
// dropped as well.
func TestBridgeKeepsNeighboursApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, "device", "neighbour", "other", "server")
	p := w.point(func(c *nft.Config) { c.Family = nft.FamilyBridge })
	order := func(host string, s segmentName, epoch int64) segment.Order {
		return segment.Order{Target: segment.Target{Device: host, MACs: []string{w.hosts[host].MAC}}, Segment: s, Epoch: epoch}
	}
	d, n, s, g, o := w.hosts["device"], w.hosts["neighbour"], w.hosts["server"], w.hosts["gateway"], w.hosts["other"]
	matrix := func(closed bool) []probe {
		var probes []probe
		for _, v6 := range []bool{false, true} {
			a := func(h *parts.NetHost, port uint16) netip.AddrPort {
				if v6 {
					return at(h.Address6, port)
				}
				return at(h.Address4, port)
			}
			probes = append(probes,
				probe{"device to neighbour", "device", a(d, portOther), a(n, portOther), !closed, !closed},
				probe{"neighbour to device", "neighbour", a(n, portOther), a(d, portOther), !closed, !closed},
				probe{"device to another restricted device", "device", a(d, portOther), a(o, portOther), !closed, !closed},
				probe{"device to another port of the server", "device", a(d, portOther), a(s, portOther), !closed, !closed},
				probe{"gateway to device", "gateway", a(g, portOther), a(d, portOther), !closed, !closed},
				probe{"device to another port of the gateway", "device", a(d, portOther), a(g, portOther), !closed, !closed},
				probe{"device to the recovery road", "device", a(d, portOther), a(s, portRoad), true, true},
				probe{"device to the road of the gateway", "device", a(d, portOther), a(g, portRoad), true, true},
				probe{"neighbour to server", "neighbour", a(n, portOther), a(s, portOther), true, true})
		}
		return probes
	}
	w.apply(p, order("device", fleet.Restricted, 1))
	w.apply(p, order("other", fleet.Restricted, 1))
	w.forget()
	w.expect("restricted", matrix(true))
	// What the gateway sends first would teach the device where the gateway is, without any address resolution of its own.
	own := slices.DeleteFunc(matrix(true), func(p probe) bool { return p.from == "gateway" })
	w.everyRuleMatters(p, "bridge", order("device", fleet.Restricted, 1), own, matrix(true))
	w.apply(p, order("device", fleet.Production, 2))
	w.apply(p, order("other", fleet.Production, 2))
	w.expect("released", matrix(false))
}

// Connections that were open before the order end, whoever opened them; those on the recovery road live on; after the
// release the old ones go on where they were.
func TestOpenConnectionsAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "neighbour", "server")
	p := w.point(nil)
	if err := p.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, n, s := w.hosts["device"], w.hosts["neighbour"], w.hosts["server"]
	connect := func(name string, from *parts.NetHost, to netip.AddrPort) *parts.TestLine {
		l, err := parts.TestConnect(t, name, from, to, 10*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return l
	}
	var cut, kept []*parts.TestLine
	for _, v6 := range []bool{false, true} {
		address := func(a4, a6 netip.Addr) netip.Addr {
			if v6 {
				return a6
			}
			return a4
		}
		parts.TestEcho(t, n, at(address(n.Address4, n.Address6), portOther))
		parts.TestEcho(t, d, at(address(d.Address4, d.Address6), portOther))
		parts.TestEcho(t, s, at(address(s.Address4, s.Address6), portRoad))
		cut = append(cut,
			connect("device to neighbour", d, at(address(n.Address4, n.Address6), portOther)),
			connect("neighbour to device", n, at(address(d.Address4, d.Address6), portOther)))
		kept = append(kept, connect("device to server", d, at(address(s.Address4, s.Address6), portRoad)))
	}
	all := append(append([]*parts.TestLine{}, cut...), kept...)
	for _, l := range all {
		if err := l.Says("before", 10*time.Second); err != nil {
			t.Errorf("%s, before: %v", l.Name, err)
		}
	}
	w.apply(p, w.order("device", fleet.Restricted, 1))
	for _, l := range cut {
		if err := l.Says("during", 200*time.Millisecond); err == nil {
			t.Errorf("%s: the open connection goes on", l.Name)
		}
	}
	for _, l := range kept {
		if err := l.Says("during", 10*time.Second); err != nil {
			t.Errorf("%s, during: %v", l.Name, err)
		}
	}
	w.apply(p, w.order("device", fleet.Production, 2))
	for _, l := range all {
		if err := l.Says("after", 30*time.Second); err != nil {
			t.Errorf("%s, after: %v", l.Name, err)
		}
	}
}
