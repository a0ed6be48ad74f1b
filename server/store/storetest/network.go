package storetest

import (
	"fmt"
	"testing"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

func networkContracts() []contract {
	return []contract{
		{"KeepsAddresses", keepsAddresses},
		{"SettlesAnOrderOnce", settlesAnOrderOnce},
		{"WalksOrders", walksOrders},
		{"CountsOrders", countsOrders},
		{"FindsUnorderedDevices", findsUnorderedDevices},
		{"CountsTightenedDevices", countsTightenedDevices},
	}
}

func keepsAddresses(t *testing.T, s *store.Store) {
	ctx := t.Context()
	entry := store.Inventory{Device: "a", Product: "lamp", HardwareID: "rev-a", Profile: "p", By: "ann", At: at(1),
		Addresses: []string{"192.0.2.1", "192.0.2.2"}, MACs: []string{"02:00:00:00:00:01"}}
	write(t, s, store.PutInventory{Entry: entry}, store.PutAddresses{Device: "a", Source: store.SourcePoll, Addresses: []string{"192.0.2.9"}, At: at(2)})
	got(s.Inventory(ctx, "a"))(t, "Inventory", entry)
	got(s.ListInventory(ctx))(t, "ListInventory", []store.Inventory{entry})
	place := func(device, source, kind, address string, minute int) store.Address {
		return store.Address{Device: device, Source: source, Kind: kind, Address: address, At: at(minute)}
	}
	got(s.Addresses(ctx, "a"))(t, "Addresses", []store.Address{
		place("a", "inventory", "ip", "192.0.2.1", 1), place("a", "inventory", "ip", "192.0.2.2", 1), place("a", "poll", "ip", "192.0.2.9", 2),
		place("a", "inventory", "mac", "02:00:00:00:00:01", 1),
	})

	// Each source replaces what it said before, and nothing else.
	entry.Addresses, entry.MACs = []string{"192.0.2.3"}, nil
	write(t, s, store.PutInventory{Entry: entry})
	write(t, s, store.PutAddresses{Device: "a", Source: store.SourcePoll, Addresses: []string{"192.0.2.8"}, At: at(3)})
	got(s.Addresses(ctx, "a"))(t, "Addresses replaced", []store.Address{place("a", "inventory", "ip", "192.0.2.3", 1), place("a", "poll", "ip", "192.0.2.8", 3)})

	// Others at the same place, but not retired ones, and not by another kind.
	retired := device("r")
	retired.Lifecycle = fleet.Retired
	write(t, s, store.PutDevice{Device: retired}, store.PutAddresses{Device: "r", Source: store.SourcePoll, Addresses: []string{"192.0.2.8"}, At: at(4)},
		store.PutAddresses{Device: "b", Source: store.SourcePoll, Addresses: []string{"192.0.2.8", "192.0.2.77"}, At: at(4)},
		store.PutAddresses{Device: "c", Source: store.SourceInventory, MACs: []string{"192.0.2.8"}, At: at(4)})
	got(s.SharedAddresses(ctx, "a"))(t, "SharedAddresses", []store.Address{place("b", "poll", "ip", "192.0.2.8", 4)})
	got(s.DevicesAt(ctx, "192.0.2.8", "a", 0))(t, "DevicesAt", []string{"b", "c", "r"})
	got(s.DevicesAt(ctx, "192.0.2.8", "b", 1))(t, "DevicesAt, limited", []string{"a"})

	write(t, s, store.RemoveInventory{Device: "a"})
	got(s.Addresses(ctx, "a"))(t, "Addresses without entry", []store.Address{place("a", "poll", "ip", "192.0.2.8", 3)})
	for _, bad := range []store.PutAddresses{
		{Source: store.SourcePoll}, {Device: "a"}, {Device: "a", Source: "rumour"}, {Device: "a", Source: store.SourcePoll, Addresses: []string{""}},
	} {
		if err := s.Commit(ctx, store.Change{Writes: []store.Write{bad}}); err == nil {
			t.Errorf("%+v: committed", bad)
		}
	}
}

// at the gate.
func gateOrder(device string, epoch int64, where fleet.Segment) store.Order {
	return store.Order{Device: device, Segment: where, Epoch: epoch, Point: "gate", At: at(int(epoch))}
}

func pendingOrder(t *testing.T, s *store.Store, device string) store.Order {
	t.Helper()
	orders, err := s.CurrentOrders(t.Context(), []string{device})
	if err != nil || len(orders) != 1 {
		t.Fatalf("CurrentOrders of %s: got %+v, %v, want one", device, orders, err)
	}
	return orders[0]
}

func settlesAnOrderOnce(t *testing.T, s *store.Store) {
	ctx := t.Context()
	commit(t, s, store.Change{Orders: []store.Order{gateOrder("a", 1, fleet.Restricted)}})
	want := pendingOrder(t, s, "a")
	write(t, s, store.SettleOrder{ID: want.ID, Acked: at(2), Waiting: store.WaitingDiffers, Detail: "not yet", Observed: fleet.Production, ObservedAt: at(3)})
	want.Acked, want.Waiting, want.Detail, want.Observed, want.ObservedAt = at(2), store.WaitingDiffers, "not yet", fleet.Production, at(3)
	got(s.CurrentOrders(ctx, []string{"a"}))(t, "acknowledged", []store.Order{want})
	write(t, s, store.SettleOrder{ID: want.ID, Detail: "still"})
	want.Waiting, want.Detail = store.WaitingNothing, "still"
	got(s.CurrentOrders(ctx, []string{"a"}))(t, "what was known stays", []store.Order{want})
	verified := store.SettleOrder{ID: want.ID, Verified: at(4), Observed: fleet.Restricted, ObservedAt: at(4)}
	write(t, s, verified)
	wantConflict(t, s, "settled twice", store.Change{Writes: []store.Write{verified}})
	reopen := store.ReopenOrder{ID: want.ID, Verified: at(4), Detail: "flushed", Waiting: store.WaitingNothing, Observed: fleet.Production, ObservedAt: at(5)}
	stale := reopen
	stale.Verified = at(3)
	wantConflict(t, s, "reopened on an older look", store.Change{Writes: []store.Write{stale}})
	write(t, s, reopen)
	wantConflict(t, s, "reopened twice", store.Change{Writes: []store.Write{reopen}})
	want.Detail, want.Observed, want.ObservedAt = "flushed", fleet.Production, at(5)
	got(s.CurrentOrders(ctx, []string{"a"}))(t, "reopened", []store.Order{want})
	write(t, s, verified)

	// What is superseded is over.
	commit(t, s, store.Change{Orders: []store.Order{gateOrder("a", 2, fleet.Production)}})
	wantConflict(t, s, "superseded, reopened", store.Change{Writes: []store.Write{reopen}})
	wantConflict(t, s, "superseded, settled", store.Change{Writes: []store.Write{verified}})
	if o := pendingOrder(t, s, "a"); o.Epoch != 2 {
		t.Errorf("got epoch %d in force, want 2", o.Epoch)
	}
}

func walksOrders(t *testing.T, s *store.Store) {
	ctx := t.Context()
	var c store.Change
	for i := range 5 {
		c.Orders = append(c.Orders, gateOrder(fmt.Sprint("d", i), 1, fleet.Production))
	}
	commit(t, s, c)
	first, err := s.PendingOrdersAfter(ctx, "gate", 0, 2)
	if err != nil || len(first) != 2 {
		t.Fatalf("PendingOrdersAfter: got %+v, %v", first, err)
	}
	rest, err := s.PendingOrdersAfter(ctx, "gate", first[1].ID, 10)
	if err != nil || len(rest) != 3 || rest[0].Device != "d2" {
		t.Errorf("PendingOrdersAfter: got %+v, %v", rest, err)
	}
	for _, o := range append(first, rest...) {
		if o.Device != "d3" {
			write(t, s, store.SettleOrder{ID: o.ID, Verified: at(9)})
		}
	}
	verified, err := s.VerifiedOrders(ctx, "gate", first[0].ID, 2)
	if err != nil || len(verified) != 2 || verified[0].Device != "d1" || verified[1].Device != "d2" {
		t.Errorf("VerifiedOrders: got %+v, %v", verified, err)
	}
	commit(t, s, store.Change{Orders: []store.Order{gateOrder("d1", 2, fleet.Restricted)}})
	verified, err = s.VerifiedOrders(ctx, "gate", 0, 0)
	if err != nil || len(verified) != 3 {
		t.Errorf("VerifiedOrders after a newer order: got %+v, %v", verified, err)
	}
	got(s.VerifiedOrders(ctx, "door", 0, 0))(t, "other point", nil)
	got(s.CurrentOrders(ctx, nil))(t, "nobody's orders", nil)
	if _, err := s.CurrentOrders(ctx, make([]string, 501)); err == nil {
		t.Error("CurrentOrders of 501 devices: no error")
	}
}

func countsOrders(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for i, w := range []store.SettleOrder{{}, {Acked: at(1)}, {Waiting: store.WaitingAddress}, {Waiting: store.WaitingAddress}, {Verified: at(1)}} {
		id := fmt.Sprint("d", i)
		commit(t, s, store.Change{Orders: []store.Order{gateOrder(id, 1, fleet.Production)}})
		w.ID = pendingOrder(t, s, id).ID
		write(t, s, w)
	}
	got(s.OrderCounts(ctx, "gate"))(t, "OrderCounts", []store.OrderCount{
		{Orders: 1}, {Acked: true, Orders: 1}, {Waiting: store.WaitingAddress, Orders: 2},
	})
	got(s.OrderCounts(ctx, "door"))(t, "other point", nil)
}

func findsUnorderedDevices(t *testing.T, s *store.Store) {
	put := func(id string, lifecycle fleet.Lifecycle, epoch int64) {
		d := device(id)
		d.Lifecycle, d.Epoch = lifecycle, epoch
		write(t, s, store.PutDevice{Device: d})
	}
	put("a", fleet.Active, 3)
	put("b", fleet.Active, 3)
	put("c", fleet.Active, 0)
	put("p", fleet.Pending, 0)
	put("r", fleet.Retired, 3)
	commit(t, s, store.Change{Orders: []store.Order{gateOrder("a", 3, fleet.Production), gateOrder("b", 2, fleet.Production)}})
	ids := func(after string, limit int) (out []string) {
		devices, err := s.UnorderedDevices(t.Context(), "gate", after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			out = append(out, d.ID)
		}
		return out
	}
	got(ids("", 0), nil)(t, "UnorderedDevices", []string{"b", "c"})
	got(ids("", 1), nil)(t, "first page", []string{"b"})
	got(ids("b", 1), nil)(t, "second page", []string{"c"})
}

func countsTightenedDevices(t *testing.T, s *store.Store) {
	tightens := func(device, point string, epoch int64) store.Order {
		o := gateOrder(device, epoch, fleet.Restricted)
		o.Point, o.Tightens = point, true
		return o
	}
	want := func(what, product string, after int, restricted, active int64) {
		t.Helper()
		r, a, err := s.Tightened(t.Context(), product, at(after))
		if err != nil || r != restricted || a != active {
			t.Errorf("%s: got %d of %d, %v, want %d of %d", what, r, a, err, restricted, active)
		}
	}
	for _, id := range []string{"a", "b", "c", "x", "r"} {
		d := device(id)
		if id == "x" {
			d.Product = "lantern"
		}
		if id == "r" {
			d.Lifecycle = fleet.Retired
		}
		write(t, s, store.PutDevice{Device: d})
	}
	commit(t, s, store.Change{Orders: []store.Order{
		tightens("a", "door", 5), tightens("a", "gate", 5), tightens("b", "gate", 2), tightens("x", "gate", 5), tightens("r", "gate", 5),
		gateOrder("c", 5, fleet.Restricted),
	}})
	want("all, the retired one too", "lamp", 1, 3, 3)
	want("in the window", "lamp", 2, 2, 3)
	want("another product", "lantern", 0, 1, 1)
	want("no product", "none", 0, 0, 0)

	// The same order again, because the device moved, still tightens until it is verified.
	again := gateOrder("b", 2, fleet.Restricted)
	again.At = at(6)
	commit(t, s, store.Change{Orders: []store.Order{again}})
	if o := pendingOrder(t, s, "b"); !o.Tightens {
		t.Error("a repeated order does not tighten")
	}
	write(t, s, store.SettleOrder{ID: pendingOrder(t, s, "b").ID, Verified: at(7)})
	again.At = at(8)
	commit(t, s, store.Change{Orders: []store.Order{again}})
	if o := pendingOrder(t, s, "b"); o.Tightens {
		t.Error("an order that was verified and is repeated tightens once more")
	}
	back := gateOrder("a", 6, fleet.Production)
	commit(t, s, store.Change{Orders: []store.Order{back}})
	want("one came back at one point", "lamp", 1, 2, 3) // the door's order of it is still in force
	back.Point = "door"
	commit(t, s, store.Change{Orders: []store.Order{back}})
	want("it came back everywhere", "lamp", 1, 1, 3)
}
