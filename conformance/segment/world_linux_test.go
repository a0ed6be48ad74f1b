package segment_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// Ports of the server in the network.
const (
	portDevices = 8443 // the device listener: the recovery road
	portOther   = 9000 // any other service, of every host
)

// world is a network with a server, a device that runs the agent, and a neighbour.
type world struct {
	t     *testing.T
	net   *parts.Network
	stage *demo.Stage
	dev   *demo.Device
	lines []*parts.TestLine // open connections between device and neighbour
	rows  []string          // of the table
}

// newNetwork makes the network alone.
func newNetwork(t *testing.T, bridged bool) *world {
	t.Helper()
	return &world{t: t, net: parts.TestNetwork(t, parts.NetworkConfig{Hosts: []string{"device", "neighbour", "server"}, Bridged: bridged})}
}

func (w *world) host(name string) *parts.NetHost { return w.net.Host(name) }

// recovery is the device listener as the network sees it.
func (w *world) recovery() netip.AddrPort {
	return netip.AddrPortFrom(w.host("server").Address4, portDevices)
}

// start sets the stage: cordond with the points, whose device listener is only to be reached through the network, and a
// device that has proven 1.0 from its own namespace.
func (w *world) start(points string) {
	w.t.Helper()
	w.stage = demo.NewStage(w.t, demo.StageConfig{
		Bin:   programs.Dir(w.t),
		Names: []string{"127.0.0.1", "localhost", w.host("server").Address4.String()},
		Listen: func() (net.Listener, error) {
			return w.host("server").Listen(w.t.Context(), w.recovery().String())
		},
		Enter: func(name string) []string {
			if h := w.host(name); h != nil {
				return []string{"nsenter", "--net=" + h.Namespace, "--"}
			}
			return nil
		},
		Config: "[segment]\ntimeout = \"10s\"\nretry_max = \"1s\"\nreconcile = \"1s\"\n" + points,
	})
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the end of cordond's log:\n%s", w.stage.Log())
		}
	})
	w.dev = w.stage.Updated("device")
	for _, name := range []string{"device", "neighbour", "server"} {
		parts.TestEcho(w.t, w.host(name), netip.AddrPortFrom(w.host(name).Address4, portOther))
	}
	for _, pair := range [][2]string{{"device", "neighbour"}, {"neighbour", "device"}} {
		l, err := parts.TestConnect(w.t, pair[0]+" to "+pair[1], w.host(pair[0]), w.at(pair[1]), 10*time.Second)
		if err != nil {
			w.t.Fatal(err)
		}
		w.lines = append(w.lines, l)
	}
}

func (w *world) at(host string) netip.AddrPort {
	return netip.AddrPortFrom(w.host(host).Address4, portOther)
}

// locate tells the inventory where the device is.
func (w *world) locate() {
	w.t.Helper()
	c, err := w.stage.As("bob")
	if err != nil {
		w.t.Fatal(err)
	}
	entry, err := c.InventoryOf(w.t.Context(), w.dev.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	h := w.host("device")
	entry.Addresses, entry.MACs = []string{h.Address4.String(), h.Address6.String()}, []string{h.MAC}
	if err := c.PutInventory(w.t.Context(), entry); err != nil {
		w.t.Fatal(err)
	}
}

// order is what the server says about the device at a point.
func (w *world) order(point string) (api.PointSegment, error) {
	c, err := w.stage.As("bob")
	if err != nil {
		return api.PointSegment{}, err
	}
	s, err := c.Segment(w.t.Context(), w.dev.ID())
	if err != nil {
		return api.PointSegment{}, err
	}
	for _, p := range s.Points {
		if p.Point == point {
			return p, nil
		}
	}
	return api.PointSegment{}, fmt.Errorf("no order for point %s: %+v", point, s)
}

// reaches waits until the order of the point is for that segment and in that state.
func (w *world) reaches(point, segment, state string) api.PointSegment {
	w.t.Helper()
	var p api.PointSegment
	w.stage.WaitFor(fmt.Sprintf("%s to be %s at %s", segment, state, point), func() error {
		var err error
		p, err = w.order(point)
		if err == nil && (p.Segment != segment || p.State != state) {
			err = fmt.Errorf("it is %+v", p)
		}
		return err
	})
	return p
}

// verified waits for the order and adds its times to the table.
func (w *world) verified(point, segment, what string) api.PointSegment {
	w.t.Helper()
	p := w.reaches(point, segment, api.SegmentVerified)
	after := func(at *time.Time) string {
		if at == nil {
			return "-"
		}
		return fmt.Sprintf("%.3f", at.Sub(p.RequestedAt).Seconds())
	}
	w.rows = append(w.rows, fmt.Sprintf("%-8s %-10s %-36s %6d %14s %10s", point, segment, what, p.Epoch, after(p.AcknowledgedAt), after(p.VerifiedAt)))
	return p
}

// table prints the times, in seconds after the decision.
func (w *world) table() {
	w.t.Logf("seconds after the request\n%-8s %-10s %-36s %6s %14s %10s\n%s", "point", "segment", "cause", "epoch", "acknowledged", "verified", strings.Join(w.rows, "\n"))
}

// told checks that the audit log has an event of that type about the device.
func (w *world) told(kind string) {
	w.t.Helper()
	c, err := w.stage.As("dave")
	if err != nil {
		w.t.Fatal(err)
	}
	for after, more := int64(0), true; more; {
		page, err := c.Events(w.t.Context(), after, 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range page.Items {
			if e.Type == kind && e.Subject == w.dev.ID() {
				return
			}
			after = e.Number
		}
		more = len(page.Items) > 0
	}
	w.t.Errorf("the audit log tells nothing of %s", kind)
}

const (
	patience   = 20 * time.Second       // for what has to pass
	impatience = 400 * time.Millisecond // for what must not
)

// passes checks new and open connections between the device and its surroundings.
func (w *world) passes(when string, open bool) {
	w.t.Helper()
	most := impatience
	if open {
		most = patience
	}
	for _, l := range w.lines {
		if err := l.Says(when, most); (err == nil) != open {
			w.t.Errorf("%s: the open connection %s: got %v, want it to pass: %v", when, l.Name, err, open)
		}
	}
	for _, pair := range [][2]string{{"device", "neighbour"}, {"neighbour", "device"}, {"device", "server"}, {"server", "device"}} {
		l, err := parts.TestConnect(w.t, "", w.host(pair[0]), w.at(pair[1]), most)
		if err == nil {
			err = l.Says(when, most)
		}
		if (err == nil) != open {
			w.t.Errorf("%s: a new connection %s to %s: got %v, want it to pass: %v", when, pair[0], pair[1], err, open)
		}
	}
	// Others are never touched, and neither is the recovery road.
	for _, l := range []struct {
		from string
		to   netip.AddrPort
	}{{"neighbour", w.at("server")}, {"device", w.recovery()}} {
		if _, err := parts.TestConnect(w.t, "", w.host(l.from), l.to, patience); err != nil {
			w.t.Errorf("%s: %s to %s: %v", when, l.from, l.to, err)
		}
	}
}

// relayUDP carries packets between a socket in one namespace and dialled sockets in another, each sender with a socket of
// its own.
func relayUDP(t *testing.T, l net.PacketConn, dial func() (net.Conn, error)) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		senders := map[string]net.Conn{}
		defer func() {
			for _, c := range senders {
				c.Close()
			}
		}()
		b := make([]byte, 4096)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			c := senders[from.String()]
			if c == nil {
				if c, err = dial(); err != nil {
					continue // the sender tries again
				}
				senders[from.String()] = c
				go func() {
					b := make([]byte, 4096)
					for {
						n, err := c.Read(b)
						if err != nil && n == 0 {
							if netErr, ok := err.(net.Error); ok && !netErr.Timeout() && strings.Contains(err.Error(), "refused") {
								continue // nobody listens there now
							}
							return
						}
						_, _ = l.WriteTo(b[:n], from)
					}
				}()
			}
			_, _ = c.Write(b[:n])
		}
	}()
}
