package segment_test

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

func place(device, source, kind, address string) store.Address {
	return store.Address{Device: device, Source: source, Kind: kind, Address: address}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	own := func(a ...store.Address) []store.Address { return a }
	listed, seen := place("d", "inventory", "ip", "192.0.2.1"), place("d", "poll", "ip", "192.0.2.2")
	mac := place("d", "inventory", "mac", "02:00:00:00:00:01")
	ip := func(texts ...string) (out []netip.Addr) {
		for _, x := range texts {
			out = append(out, netip.MustParseAddr(x))
		}
		return out
	}
	tests := map[string]struct {
		own, others []store.Address
		want        segment.Target
		shared      []string
	}{
		"nowhere":            {nil, nil, segment.Target{Device: "d"}, nil},
		"listed":             {own(listed, mac), nil, segment.Target{Device: "d", Addresses: ip("192.0.2.1"), MACs: []string{"02:00:00:00:00:01"}}, nil},
		"listed and seen":    {own(listed, seen), nil, segment.Target{Device: "d", Addresses: ip("192.0.2.1", "192.0.2.2")}, nil},
		"the same twice":     {own(listed, place("d", "poll", "ip", "192.0.2.1")), nil, segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, nil},
		"listed twice":       {own(listed), own(place("x", "inventory", "ip", "192.0.2.1")), segment.Target{Device: "d"}, []string{"192.0.2.1"}},
		"MAC listed twice":   {own(listed, mac), own(place("x", "inventory", "mac", "02:00:00:00:00:01")), segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, []string{"02:00:00:00:00:01"}},
		"behind a NAT":       {own(seen), own(place("x", "poll", "ip", "192.0.2.2")), segment.Target{Device: "d"}, []string{"192.0.2.2"}},
		"listed, and a NAT":  {own(listed, seen), own(place("x", "poll", "ip", "192.0.2.2")), segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, nil},
		"seen at another's":  {own(seen), own(place("x", "inventory", "ip", "192.0.2.2")), segment.Target{Device: "d"}, []string{"192.0.2.2"}},
		"other polls here":   {own(listed), own(place("x", "poll", "ip", "192.0.2.1")), segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, nil},
		"other polls here 2": {own(listed, place("d", "poll", "ip", "192.0.2.1")), own(place("x", "poll", "ip", "192.0.2.1")), segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, nil},
		"mapped":             {own(place("d", "inventory", "ip", "::ffff:192.0.2.1")), nil, segment.Target{Device: "d", Addresses: ip("192.0.2.1")}, nil},
	}
	for name, test := range tests {
		got, shared := segment.Locate("d", test.own, test.others)
		if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: target (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(test.shared, shared); diff != "" {
			t.Errorf("%s: shared (-want +got):\n%s", name, diff)
		}
	}
}

func TestParsesAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:DB8::1": "2001:db8::1", "fe80::1": "fe80::1"} {
		if got, err := segment.ParseAddress(text); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "localhost", "192.0.2.1/32", "127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0", "192.0.2.1:80"} {
		if got, err := segment.ParseAddress(text); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
	for text, want := range map[string]string{"02-00-00-00-00-0A": "02:00:00:00:00:0a", "02:00:00:00:00:01": "02:00:00:00:00:01"} {
		if got, err := segment.ParseMAC(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "02000000000a", "02:00:00:00:00", "02:00:00:00:00:0g", "02:00:00:00:00:01:02", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02.00.00.00.00.01"} {
		if got, err := segment.ParseMAC(text); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("02-00-00-00-00-0A")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := segment.ParseMAC(text)
		if err != nil {
			return
		}
		if again, err := segment.ParseMAC(got); err != nil || again != got {
			t.Errorf("%q: got %q, and then %q, %v", text, got, again, err)
		}
	})
}

func (s *site) learner() *segment.Learner {
	return segment.NewLearner(s.store, s.rules, s.now, slog.New(slog.DiscardHandler), func() {})
}

func TestRestrictionFollowsTheDevice(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver, l := s.driver(), s.learner()
		d := s.admit(1)
		s.locate(d.ID) // the inventory knows no address
		d = s.isolate(d)
		s.round(driver, 1)
		s.want(d.ID, segment.Unverified, store.WaitingAddress, fleet.Production)
		for n, peer := range []string{"192.0.2.7:4711", "[::ffff:192.0.2.8]:1", "[2001:db8::9]:1", "[2001:db8::9]:2"} {
			l.Seen(t.Context(), d.ID, peer)
			s.round(driver, 1)
			s.want(d.ID, segment.Verified, "", fleet.Restricted)
			if n > 2 {
				n = 2
			}
			s.wantEvents(d.ID, audit.AddressLearned, n+1)
		}
		orders := s.net.Orders()
		if got := orders[len(orders)-1].Target.Addresses; len(got) != 1 || got[0].String() != "2001:db8::9" {
			t.Errorf("got target %v", got)
		}
		for _, peer := range []string{"127.0.0.1:1", "[::1]:1", "@", ""} { // nobody's
			l.Seen(t.Context(), d.ID, peer)
		}
		s.learner().Seen(t.Context(), d.ID, "[2001:db8::9]:3") // after a restart: nothing new
		s.wantEvents(d.ID, audit.AddressLearned, 3)
	})
}

// A NAT shows one address for many: it is no target, and everybody is told.
func TestSharedAddressIsNoTarget(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver, l := s.driver(), s.learner()
		a, b := s.admit(1), s.admit(2)
		s.locate(a.ID)
		s.locate(b.ID)
		l.Seen(t.Context(), a.ID, "192.0.2.1:1")
		a = s.isolate(a)
		s.round(driver, 1)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		l.Seen(t.Context(), b.ID, "192.0.2.1:2")
		s.round(driver, 1)
		for _, d := range []string{a.ID, b.ID} {
			wantIn(t, "detail", s.want(d, segment.Unverified, store.WaitingShared, fleet.Production).Detail, "192.0.2.1 belongs to other devices")
		}
		l.Seen(t.Context(), b.ID, "192.0.2.2:2")
		s.round(driver, 1)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		s.want(b.ID, segment.Verified, "", fleet.Production)
	})
}

// A device cannot take the restriction off another one by polling from its address.
func TestInventoryOutranksWhatAPollShows(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver, l := s.driver(), s.learner()
		a, b := s.admit(1), s.admit(2)
		s.locate(a.ID, "192.0.2.1")
		a = s.isolate(a)
		s.round(driver, 1)
		l.Seen(t.Context(), b.ID, "192.0.2.1:1")
		s.advance(pace.Reconcile)
		s.round(driver, 3)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		s.want(b.ID, segment.Verified, "", fleet.Production)
		orders := s.net.Orders()
		for _, o := range orders {
			if o.Target.Device == b.ID && len(o.Target.Addresses) > 0 && o.Target.Addresses[0].String() == "192.0.2.1" {
				t.Errorf("the address of another device became a target: %+v", o)
			}
		}
	})
}

func TestWanderingDeviceMakesRowsSlowly(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		l := s.learner()
		for n := range 40 {
			l.Seen(t.Context(), d.ID, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(n + 1)}), 1).String())
		}
		s.wantEvents(d.ID, audit.AddressLearned, 16)
		s.advance(5 * time.Minute)
		l.Seen(t.Context(), d.ID, "10.1.1.77:1")
		s.wantEvents(d.ID, audit.AddressLearned, 17)
	})
}

// Anybody with a TPM may enroll and is pending until a person or the inventory claims the device. Where it polls from says
// nothing about the fleet.
func TestUnclaimedDeviceHasNoPlace(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver, l := s.driver(), s.learner()
		a := s.admit(1)
		s.locate(a.ID)
		l.Seen(t.Context(), a.ID, "192.0.2.1:1")
		a = s.isolate(a)
		s.round(driver, 1)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		stranger := s.admit(2)
		s.locate(stranger.ID)
		stranger.Lifecycle = fleet.Pending
		stranger = s.close(stranger, nil, store.Change{})
		l.Seen(t.Context(), stranger.ID, "192.0.2.1:2")
		s.round(driver, 2)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		s.wantEvents(stranger.ID, audit.AddressLearned, 0)
		stranger.Lifecycle = fleet.Active
		s.close(stranger, nil, store.Change{})
		l.Seen(t.Context(), stranger.ID, "192.0.2.2:2") // claimed by now
		s.wantEvents(stranger.ID, audit.AddressLearned, 1)
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, text := range []string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%eth0", "010.0.0.1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := segment.ParseAddress(text)
		if err != nil {
			return
		}
		if again, err := segment.ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%q: got %s, and then %s, %v", text, got, again, err)
		}
	})
}
