package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
)

// seen checks what the point observes, and that nft(8) lists the address or not.
func (w *world) seen(p *nft.Point, t segment.Target, want fleet.Segment, epoch int64) {
	w.t.Helper()
	o := w.observe(p, t)
	if !o.Known || o.Segment != want || o.Epoch != epoch || o.At.IsZero() {
		w.t.Errorf("observed %+v, want %s at epoch %d", o, want, epoch)
	}
	for _, a := range t.Addresses {
		set := "quarantine4"
		if a.Is6() {
			set = "quarantine6"
		}
		listed := strings.Contains(w.sh("gateway", "nft list set inet cordon "+set), a.String()+" ")
		if listed != (want == fleet.Restricted) {
			w.t.Errorf("nft lists %s in %s: %v, want %s", a, set, listed, want)
		}
	}
}

func TestOlderOrderChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "server")
	target := w.order("device", fleet.Restricted, 1).Target
	w.apply(w.point(nil), w.order("device", fleet.Restricted, 5))
	p := w.point(nil) // a restart: nothing is remembered but in the kernel
	for _, o := range []segment.Order{w.order("device", fleet.Production, 4), w.order("device", fleet.Production, 5), w.order("device", fleet.Restricted, 1)} {
		r := w.apply(p, o)
		if r.Segment != fleet.Restricted || r.Epoch != 5 || r.Acknowledged.IsZero() {
			t.Errorf("%s at epoch %d: got %+v, want restricted at epoch 5", o.Segment, o.Epoch, r)
		}
		w.seen(p, target, fleet.Restricted, 5)
	}
	if r := w.apply(p, w.order("device", fleet.Production, 6)); r.Segment != fleet.Production || r.Epoch != 6 {
		t.Errorf("newer order: got %+v", r)
	}
	w.seen(p, target, fleet.Production, 6)
	if r := w.apply(p, w.order("device", fleet.Restricted, 5)); r.Segment != fleet.Production || r.Epoch != 6 {
		t.Errorf("older order after the release: got %+v", r)
	}
	w.seen(p, target, fleet.Production, 6)
}

// Another process carries out a newer order between the reading and the writing of an older one.
func TestOvertakenOrderChangesNothing(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"the device's first order": true, "a later order": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false, "device", "server")
			slow, fast := w.point(nil), w.point(nil)
			if err := slow.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !first {
				w.apply(fast, w.order("device", fleet.Production, 1))
			}
			once := true
			slow.AfterRead(func() {
				if once {
					once = false
					w.apply(fast, w.order("device", fleet.Production, 3))
				}
			})
			r := w.apply(slow, w.order("device", fleet.Restricted, 2))
			if once || r.Segment != fleet.Production || r.Epoch != 3 {
				t.Errorf("got %+v, want production at epoch 3", r)
			}
			w.seen(slow, w.order("device", fleet.Restricted, 2).Target, fleet.Production, 3)
		})
	}
}

// Whatever somebody does to the table, the point never claims a restriction that is not there, and the next order puts
// everything right.
func TestDriftIsSeenAndPutRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "neighbour", "server")
	p := w.point(nil)
	o := w.order("device", fleet.Restricted, 3)
	address := o.Target.Addresses[0].String()
	for _, harm := range []string{
		"delete table inet cordon",
		"flush ruleset",
		"flush table inet cordon",
		"flush set inet cordon quarantine4",
		"flush set inet cordon quarantine6",
		"delete element inet cordon quarantine4 { " + address + " }",
		"insert rule inet cordon segment_forward accept",
		"add rule inet cordon segment_forward ip saddr " + address + " drop",
		"flush set inet cordon recovery4",
		"add element inet cordon recovery4 { 10.77.2.2 . tcp . 22 }",
		"add table inet cordon { flags dormant; }",
		"flush chain inet cordon segment_output",
		"add chain inet cordon segment_forward { policy drop; }",
		"flush map inet cordon orders",
	} {
		w.apply(p, o)
		w.seen(p, o.Target, fleet.Restricted, 3)
		w.sh("gateway", "nft '"+harm+"'")
		if got := w.observe(p, o.Target); got.Known && got.Segment == fleet.Restricted && got.Epoch == 3 {
			t.Errorf("after %q: observed %+v", harm, got)
		}
		if r := w.apply(p, o); r.Segment != fleet.Restricted || r.Epoch != 3 {
			t.Errorf("after %q: receipt %+v", harm, r)
		}
		w.seen(p, o.Target, fleet.Restricted, 3)
	}
	d, n := w.hosts["device"], w.hosts["neighbour"]
	w.expect("in the end", []probe{{"device to neighbour", "device", at(d.Address4, portOther), at(n.Address4, portOther), false, false}})
	w.apply(p, w.order("device", fleet.Production, 4))
	w.sh("gateway", "nft add element inet cordon quarantine4 { "+address+" }")
	if got := w.observe(p, o.Target); got.Segment != fleet.Restricted {
		t.Errorf("restricted by hand in part: observed %+v", got)
	}
	w.apply(p, w.order("device", fleet.Production, 4))
	w.seen(p, o.Target, fleet.Production, 4)
}

// The device's places become exactly those of the order.
func TestAddressesFollowTheDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "server")
	p := w.point(nil)
	o := w.order("device", fleet.Restricted, 1)
	old, moved := o.Target, o
	moved.Target.Addresses = []netip.Addr{netip.MustParseAddr("10.77.1.50"), netip.MustParseAddr("fd77:1::50"), netip.MustParseAddr("10.77.1.51")}
	moved.Target.MACs = []string{"02:00:00:00:00:aa"}
	w.apply(p, o)
	if got := w.observe(p, moved.Target); got.Segment != fleet.Production {
		t.Errorf("before the order follows: observed %+v, want production", got)
	}
	w.apply(p, moved)
	w.seen(p, moved.Target, fleet.Restricted, 1)
	if list := w.sh("gateway", "nft list table inet cordon"); strings.Contains(list, old.Addresses[0].String()) || strings.Contains(list, old.Addresses[1].String()+" ") || !strings.Contains(list, "02:00:00:00:00:aa") {
		t.Errorf("the old addresses are not free, or the link address is missing:\n%s", list)
	}
	w.apply(p, segment.Order{Target: old, Segment: fleet.Production, Epoch: 2})
	for _, set := range []string{"quarantine4", "quarantine6", "quarantine_link", "members"} {
		if list := w.sh("gateway", "nft list set inet cordon "+set); strings.Contains(list, "elements") {
			t.Errorf("left behind after the release:\n%s", list)
		}
	}
}

// When nothing is known any more of where a device is, what was held for it is freed, and the order is not carried out.
func TestLostAddressFreesTheOldOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "server")
	p := w.point(nil)
	o := w.order("device", fleet.Restricted, 1)
	w.apply(p, o)
	o.Target.Addresses = nil
	if _, err := p.Apply(t.Context(), o); !errors.Is(err, segment.ErrNoAddress) {
		t.Errorf("Apply: got %v, want ErrNoAddress", err)
	}
	if list := w.sh("gateway", "nft list set inet cordon quarantine4"); strings.Contains(list, "elements") {
		t.Errorf("still restricted:\n%s", list)
	}
}

// An address of two restricted devices stays closed until both are released.
func TestSharedAddressStaysClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "server")
	p := w.point(nil)
	one := w.order("device", fleet.Restricted, 1)
	two := one
	two.Target.Device = "device-behind-the-same-address"
	w.apply(p, one)
	w.apply(p, two)
	one.Segment, one.Epoch = fleet.Production, 2
	if r := w.apply(p, one); !strings.Contains(r.Detail, "still restricted for another device") {
		t.Errorf("receipt: %+v", r)
	}
	if got := w.observe(p, one.Target); got.Segment != fleet.Restricted || got.Epoch != 0 || !strings.Contains(got.Detail, "another restricted device") {
		t.Errorf("observed %+v, want restricted because of the other device", got)
	}
	two.Segment, two.Epoch = fleet.Production, 2
	w.apply(p, two)
	w.seen(p, one.Target, fleet.Production, 2)
}

func TestOrderWithoutUsableAddressIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "server")
	inet, bridge := w.point(nil), w.point(func(c *nft.Config) { c.Family = nft.FamilyBridge })
	for name, test := range map[string]struct {
		p *nft.Point
		t segment.Target
	}{
		"nothing":                    {inet, segment.Target{}},
		"only a link address":        {inet, segment.Target{MACs: []string{"02:00:00:00:00:01"}}},
		"everybody":                  {inet, segment.Target{Addresses: []netip.Addr{netip.IPv4Unspecified()}}},
		"loopback":                   {inet, segment.Target{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
		"multicast":                  {inet, segment.Target{Addresses: []netip.Addr{netip.MustParseAddr("ff02::1")}}},
		"broken link address":        {inet, segment.Target{Addresses: []netip.Addr{netip.MustParseAddr("10.77.1.2")}, MACs: []string{"ff:ff:ff:ff:ff:ff"}}},
		"bridge without link":        {bridge, segment.Target{Addresses: []netip.Addr{netip.MustParseAddr("10.77.1.2")}}},
		"bridge, group link address": {bridge, segment.Target{MACs: []string{"01:00:5e:00:00:01"}}},
	} {
		test.t.Device = "d"
		if _, err := test.p.Apply(t.Context(), segment.Order{Target: test.t, Segment: fleet.Restricted, Epoch: 1}); !errors.Is(err, segment.ErrNoAddress) {
			t.Errorf("%s: Apply: got %v, want ErrNoAddress", name, err)
		}
		if _, err := test.p.Observe(t.Context(), test.t); !errors.Is(err, segment.ErrNoAddress) {
			t.Errorf("%s: Observe: got %v, want ErrNoAddress", name, err)
		}
	}
	mapped := segment.Order{Target: segment.Target{Device: "m", Addresses: []netip.Addr{netip.MustParseAddr("::ffff:10.77.1.9")}}, Segment: fleet.Restricted, Epoch: 1}
	w.apply(inet, mapped)
	if list := w.sh("gateway", "nft list set inet cordon quarantine4"); !strings.Contains(list, "10.77.1.9 ") {
		t.Errorf("an IPv4-mapped address is not matched as IPv4:\n%s", list)
	}
}

func TestUnreachableAndForbiddenAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "server")
	o := w.order("device", fleet.Restricted, 1)
	for _, namespace := range []string{"cordon-no-such-namespace", filepath.Join(t.TempDir(), "none")} {
		gone := w.point(func(c *nft.Config) { c.Namespace = namespace })
		if _, err := gone.Apply(t.Context(), o); !errors.Is(err, segment.ErrUnreachable) {
			t.Errorf("Apply without the namespace: got %v, want ErrUnreachable", err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	p := w.point(nil)
	if _, err := p.Apply(cancelled, o); !errors.Is(err, segment.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Apply, cancelled: got %v", err)
	}
	if _, err := p.Observe(cancelled, o.Target); !errors.Is(err, context.Canceled) {
		t.Errorf("Observe, cancelled: got %v", err)
	}
	// The thread inside the namespace is another user's for a moment.
	err := w.hosts["gateway"].Do(func() error {
		become := func(user uintptr) syscall.Errno {
			_, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), user, ^uintptr(0))
			return e
		}
		if e := become(65534); e != 0 {
			return e
		}
		err := w.point(func(c *nft.Config) { c.Namespace = "" }).Install(t.Context())
		if e := become(0); e != 0 {
			return e
		}
		return err
	})
	if !errors.Is(err, segment.ErrRefused) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without the capability: got %v", err)
	}
}

// The operator's own firewall stays what it is: nothing is opened that it closes.
func TestOtherTablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "neighbour", "server")
	w.sh("gateway", "nft add table inet mine; nft 'add chain inet mine forwarding { type filter hook forward priority 0; }'; nft add rule inet mine forwarding udp dport 8443 drop")
	before := w.sh("gateway", "nft list table inet mine")
	p := w.point(nil)
	w.apply(p, w.order("device", fleet.Restricted, 1))
	d, s := w.hosts["device"], w.hosts["server"]
	w.expect("restricted", []probe{{"device to the recovery road", "device", at(d.Address4, portOther), at(s.Address4, portRoad), false, false}})
	if after := w.sh("gateway", "nft list table inet mine"); after != before {
		t.Errorf("the operator's table changed:\n%s", after)
	}
}

// What nft(8) saves and restores keeps every device where it was, although nft words some rules its own way; the next
// order puts those right.
func TestTableSurvivesSaveAndRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "neighbour", "server")
	p := w.point(nil)
	o := w.order("device", fleet.Restricted, 7)
	o.Target.MACs = []string{w.hosts["device"].MAC}
	w.apply(p, o)
	w.sh("gateway", "saved=$(nft list ruleset); nft flush ruleset; echo \"$saved\" | nft -f -")
	d, n, s := w.hosts["device"], w.hosts["neighbour"], w.hosts["server"]
	w.expect("restored", []probe{
		{"device to neighbour", "device", at(d.Address4, portOther), at(n.Address4, portOther), false, false},
		{"device to the recovery road", "device", at(d.Address4, portOther), at(s.Address4, portRoad), true, true},
	})
	older := w.order("device", fleet.Production, 6)
	if r := w.apply(p, older); r.Epoch != 7 || r.Segment != fleet.Restricted {
		t.Errorf("an older order after the restoration: %+v", r)
	}
	w.apply(p, o)
	w.seen(p, o.Target, fleet.Restricted, 7)
}

// A device that is listed, or was seen, at the address of the server itself must not cut every other one off from it.
func TestRecoveryServiceIsNeverRestricted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, "device", "neighbour", "server")
	p := w.point(nil)
	o := w.order("device", fleet.Restricted, 1)
	own := o.Target.Addresses
	server := w.hosts["server"].Address4
	neighbour := at(w.hosts["neighbour"].Address4, portOther)
	free := []probe{
		{"a free device to the server", "neighbour", neighbour, at(server, portRoad), true, true},
		{"a free device to another port", "neighbour", neighbour, at(server, portOther), true, true},
	}
	w.expect("before", free)
	for epoch, addresses := range [][]netip.Addr{{server}, append(slices.Clone(own), server)} {
		o.Epoch, o.Target.Addresses = int64(epoch)+1, addresses
		if _, err := p.Apply(t.Context(), o); !errors.Is(err, segment.ErrRefused) {
			t.Errorf("Apply: got %v, want ErrRefused", err)
		}
		if got, err := p.Observe(t.Context(), o.Target); !errors.Is(err, segment.ErrRefused) {
			t.Errorf("Observe: got %+v, %v, want ErrRefused", got, err)
		}
		w.expect(fmt.Sprint("restricted at ", addresses), free)
	}
	w.seen(p, segment.Target{Device: o.Target.Device, Addresses: own}, fleet.Restricted, 2) // its own addresses are
}
