package nft_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
)

// Ports of the test network. Every host listens on all of them with UDP.
const (
	portRoad  = 8443 // of the server and, here, of the gateway: the recovery road
	portOther = 9000 // anything else
)

// world is a gateway with hosts around it, each with ears on its ports.
type world struct {
	t     *testing.T
	net   *parts.Network
	hosts map[string]*parts.NetHost

	mu    sync.Mutex
	heard map[string]int // payload -> how often; guarded by mu
	next  int            // guarded by mu
	socks map[string]net.PacketConn
}

func newWorld(t *testing.T, bridged bool, hosts ...string) *world {
	t.Helper()
	w := &world{
		t: t, net: parts.TestNetwork(t, parts.NetworkConfig{Hosts: hosts, Bridged: bridged}),
		hosts: map[string]*parts.NetHost{}, heard: map[string]int{}, socks: map[string]net.PacketConn{},
	}
	w.hosts["gateway"] = w.net.Gateway()
	for _, h := range hosts {
		w.hosts[h] = w.net.Host(h)
	}
	for name, h := range w.hosts {
		for _, port := range []uint16{portRoad, portOther} {
			for _, a := range []netip.Addr{h.Address4, h.Address6} {
				w.listen(name, netip.AddrPortFrom(a, port))
			}
		}
	}
	return w
}

// listen hears on an address and answers everything that is a question.
func (w *world) listen(host string, at netip.AddrPort) {
	w.t.Helper()
	c, err := w.hosts[host].ListenPacket(w.t.Context(), at.String())
	if err != nil {
		w.t.Fatalf("listen at %s of %s: %v", at, host, err)
	}
	w.t.Cleanup(func() { c.Close() })
	w.socks[fmt.Sprintf("%s/%s", host, at)] = c
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			text := string(b[:n])
			w.mu.Lock()
			w.heard[text]++
			w.mu.Unlock()
			if strings.HasPrefix(text, "question ") {
				_, _ = c.WriteTo([]byte("answer "+strings.TrimPrefix(text, "question ")), from)
			}
		}
	}()
}

// probe is one packet and what should become of it.
type probe struct {
	name     string
	from     string // host
	source   netip.AddrPort
	to       netip.AddrPort
	arrives  bool
	answered bool // both ways
}

// judge sends all probes and returns what came out otherwise; patient is how long it waits for what should arrive.
func (w *world) judge(patience time.Duration, probes []probe) []string {
	w.t.Helper()
	ids := make([]string, len(probes))
	for i, p := range probes {
		w.mu.Lock()
		w.next++
		ids[i] = fmt.Sprint(w.next)
		w.mu.Unlock()
		sock, ok := w.socks[fmt.Sprintf("%s/%s", p.from, p.source)]
		if !ok {
			w.t.Fatalf("%s: nobody at %s/%s", p.name, p.from, p.source)
		}
		_, _ = sock.WriteTo([]byte("question "+ids[i]), net.UDPAddrFromAddrPort(p.to)) // an error is a packet that does not arrive
	}
	wrong := func() (missing, unexpected []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, p := range probes {
			arrived, answered := w.heard["question "+ids[i]] > 0, w.heard["answer "+ids[i]] > 0
			if p.arrives && !arrived || p.answered && !answered {
				missing = append(missing, p.name+" does not get through")
			}
			if !p.arrives && arrived || !p.answered && answered {
				unexpected = append(unexpected, p.name+" gets through")
			}
		}
		return missing, unexpected
	}
	w.until(patience, func() bool { m, _ := wrong(); return len(m) == 0 })
	// For what should not arrive: everything that waits in a socket is read, then the answers to it.
	w.until(50*time.Millisecond, func() bool { return false })
	w.drain()
	w.drain()
	missing, unexpected := wrong()
	return slices.Concat(missing, unexpected)
}

// drain waits until every socket has read what was there before.
func (w *world) drain() {
	w.t.Helper()
	w.mu.Lock()
	w.next++
	round := w.next
	w.mu.Unlock()
	last := func(name string) string { return fmt.Sprintf("last %d %s", round, name) }
	for name, sock := range w.socks {
		if _, err := sock.WriteTo([]byte(last(name)), sock.LocalAddr()); err != nil {
			w.t.Fatalf("%s cannot write to itself: %v", name, err)
		}
	}
	w.until(20*time.Second, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for name := range w.socks {
			if w.heard[last(name)] == 0 {
				return false
			}
		}
		return true
	})
}

// until waits for a condition, at most that long.
func (w *world) until(most time.Duration, met func() bool) {
	ctx, cancel := context.WithTimeout(w.t.Context(), most)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// expect fails the test for everything that does not go as the probes say.
func (w *world) expect(when string, probes []probe) {
	w.t.Helper()
	for _, text := range w.judge(10*time.Second, probes) {
		w.t.Errorf("%s: %s", when, text)
	}
}

// sh runs a line of a shell on a host.
func (w *world) sh(host, line string) string {
	w.t.Helper()
	out, err := w.hosts[host].Output(w.t.Context(), "sh", "-euc", line)
	if err != nil {
		w.t.Fatalf("%s: %s: %v", host, line, err)
	}
	return out
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// service is a recovery service of a host for UDP.
func services(addresses ...netip.Addr) []nft.Service {
	var s []nft.Service
	for _, a := range addresses {
		s = append(s, nft.Service{Proto: "udp", Address: at(a, portRoad)}, nft.Service{Proto: "tcp", Address: at(a, portRoad)})
	}
	return s
}

// point is an enforcement point on the gateway of the world.
func (w *world) point(change func(*nft.Config)) *nft.Point {
	w.t.Helper()
	server, gateway := w.hosts["server"], w.hosts["gateway"]
	cfg := nft.Config{Name: "gateway", Namespace: gateway.Namespace, Recovery: services(server.Address4, server.Address6, gateway.Address4, gateway.Address6)}
	if change != nil {
		change(&cfg)
	}
	p, err := nft.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// order makes an order for a host of the world.
func (w *world) order(host string, s segmentName, epoch int64) segment.Order {
	h := w.hosts[host]
	return segment.Order{Target: segment.Target{Device: "device-" + host, Addresses: []netip.Addr{h.Address4, h.Address6}}, Segment: s, Epoch: epoch}
}

func (w *world) apply(p *nft.Point, o segment.Order) segment.Receipt {
	w.t.Helper()
	r, err := p.Apply(w.t.Context(), o)
	if err != nil {
		w.t.Fatalf("Apply: %v", err)
	}
	return r
}

func (w *world) observe(p *nft.Point, t segment.Target) segment.Observation {
	w.t.Helper()
	o, err := p.Observe(w.t.Context(), t)
	if err != nil {
		w.t.Fatalf("Observe: %v", err)
	}
	return o
}
