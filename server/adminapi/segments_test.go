package adminapi_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
	"github.com/cordon-ota/cordon/server/store"
)

// switched adds a network point to the admin API.
func switched(a *admin) (*segmenttest.Network, *segment.Driver) {
	n := segmenttest.NewNetwork("switch", segment.ByAddress, a.Now)
	driver := segment.NewDriver(segment.Drive{
		Point: n.Point(), Store: a.Store, Breaker: segment.Breaker{Devices: 3, Percent: 5, Window: time.Hour}, Pace: segment.DefaultPace,
		Now: a.Now, Log: slog.New(slog.DiscardHandler),
	})
	a.api.Points, a.api.Drivers = []string{"switch"}, []*segment.Driver{driver}
	return n, driver
}

// round runs the driver after the longest pause between two tries.
func (a *admin) round(d *segment.Driver) {
	a.t.Helper()
	a.Pass(segment.DefaultPace.RetryMax)
	if err := d.Round(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

func (a *admin) wantPoint(c *api.Client, device, state, waiting string) api.PointSegment {
	a.t.Helper()
	got, err := c.Segment(a.t.Context(), device)
	if err != nil {
		a.t.Fatal(err)
	}
	i := slices.IndexFunc(got.Points, func(p api.PointSegment) bool { return p.Point == "switch" })
	if i < 0 {
		a.t.Fatalf("no order at the switch: %+v", got)
	}
	p := got.Points[i]
	if p.State != state || p.Waiting != waiting {
		a.t.Errorf("got %s, %q (%s), want %s, %q", p.State, p.Waiting, p.Detail, state, waiting)
	}
	return p
}

func located(label, address string) api.InventoryEntry {
	return api.InventoryEntry{Device: deviceID(label), Product: "lamp", HardwareID: "rev-a", Profile: "board", Addresses: []string{address}}
}

func TestSegmentsShowHowFarThePointsAre(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	n, driver := switched(a)
	oscar, aud := a.person("oscar", api.RoleOperator), a.person("aud", api.RoleAuditor)
	id := a.device("one", nil)
	if err := oscar.PutInventory(t.Context(), located("one", "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	n.Down(true)
	if _, err := oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "odd"}); err != nil {
		t.Fatal(err)
	}
	a.wantPoint(aud, id, api.SegmentRequested, "")
	a.round(driver)
	a.wantPoint(aud, id, api.SegmentUnverified, "unreachable")
	n.Down(false)
	a.round(driver)
	p := a.wantPoint(aud, id, api.SegmentVerified, "")
	if p.Segment != "restricted" || p.Observed != "restricted" || p.AcknowledgedAt == nil || p.VerifiedAt == nil || p.ObservedAt == nil || p.Epoch != 1 {
		t.Errorf("got %+v", p)
	}
	page, err := aud.Segments(t.Context(), "lamp", "")
	if err != nil || len(page.Items) != 1 || page.Items[0].Segment != "restricted" || page.Items[0].Device != id {
		t.Errorf("list: got %+v, %v", page, err)
	}
	if page, err := aud.Segments(t.Context(), "other", ""); err != nil || len(page.Items) != 0 {
		t.Errorf("another product: got %+v, %v", page, err)
	}
	why, err := aud.Why(t.Context(), id)
	if err != nil || len(why.Segment.Points) == 0 {
		t.Errorf("why: got %+v, %v", why.Segment, err)
	}
	points, err := aud.SegmentPoints(t.Context())
	if err != nil || len(points.Points) != 1 || points.Points[0].Name != "switch" || points.Points[0].FindsBy != "address" || points.Points[0].LastOK == nil || points.Points[0].LastFailure == nil {
		t.Errorf("points: got %+v, %v", points, err)
	}
	a.api.Points = nil // not configured any more
	if got, err := aud.Segment(t.Context(), id); err != nil || slices.ContainsFunc(got.Points, func(p api.PointSegment) bool { return p.Point == "switch" }) {
		t.Errorf("a point that is gone: got %+v, %v", got, err)
	}
	if _, err := aud.Segment(t.Context(), deviceID("nobody")); api.ReasonOf(err) != reason.NotFound {
		t.Errorf("unknown device: got %v", err)
	}
}

func TestBreakerIsResumedByAnOperator(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	n, driver := switched(a)
	oscar, aud := a.person("oscar", api.RoleOperator), a.person("aud", api.RoleAuditor)
	_, err := oscar.ResumeSegment(t.Context(), "lamp", api.ResumeRequest{Reason: "x"})
	wantReason(t, "nothing to resume", err, reason.Conflict)
	var ids []string
	for i := range 3 {
		label := fmt.Sprint("device", i)
		ids = append(ids, a.device(label, nil))
		if err := oscar.PutInventory(t.Context(), located(label, fmt.Sprintf("192.0.2.%d", i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := oscar.QuarantineDevice(t.Context(), ids[i], api.QuarantineRequest{Detail: "odd"}); err != nil {
			t.Fatal(err)
		}
	}
	a.round(driver)
	for _, id := range ids {
		a.wantPoint(aud, id, api.SegmentSuspended, "suspended")
		if n.Where(id) != fleet.Production {
			t.Errorf("%s is restricted in the network", id)
		}
	}
	points, err := aud.SegmentPoints(t.Context())
	if err != nil || len(points.Breakers) != 1 || !points.Breakers[0].Tripped || points.Breakers[0].Devices != 3 || points.Points[0].Suspended != 3 {
		t.Fatalf("points: got %+v, %v", points, err)
	}
	_, err = aud.ResumeSegment(t.Context(), "lamp", api.ResumeRequest{Reason: "x"})
	wantReason(t, "an auditor", err, reason.PermissionDenied)
	for _, why := range []string{"", string(make([]byte, 2000))} {
		_, err = oscar.ResumeSegment(t.Context(), "lamp", api.ResumeRequest{Reason: why})
		wantReason(t, "without a reason", err, reason.RequestMalformed)
	}
	_, err = oscar.ResumeSegment(t.Context(), "..", api.ResumeRequest{Reason: "x"})
	wantReason(t, "no product", err, reason.RequestMalformed)
	got, err := oscar.ResumeSegment(t.Context(), "lamp", api.ResumeRequest{Reason: "they are really broken"})
	if err != nil || got.Tripped || got.By != "oscar" || got.ResumedAt == nil {
		t.Fatalf("resume: got %+v, %v", got, err)
	}
	a.round(driver)
	for _, id := range ids {
		a.wantPoint(aud, id, api.SegmentVerified, "")
	}
	events, err := a.Store.Events(t.Context(), store.EventFilter{Types: []string{audit.BreakerTripped, audit.BreakerResumed}}, 0, 0)
	if err != nil || len(events) != 2 || events[1].Actor != "oscar" {
		t.Errorf("events: got %+v, %v", events, err)
	}
}

func TestInventoryTakesAddresses(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	entry := located("one", "192.0.2.1")
	entry.Addresses = []string{"2001:DB8::1", "192.0.2.1", "::ffff:192.0.2.1"}
	entry.MACs = []string{"02-00-00-00-00-0A"}
	if err := oscar.PutInventory(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	got, err := oscar.InventoryOf(t.Context(), entry.Device)
	if err != nil || !slices.Equal(got.Addresses, []string{"192.0.2.1", "2001:db8::1"}) || !slices.Equal(got.MACs, []string{"02:00:00:00:00:0a"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []api.InventoryEntry{located("one", "127.0.0.1"), located("one", "switch-7"), located("one", "192.0.2.0/24")} {
		wantReason(t, bad.Addresses[0], oscar.PutInventory(t.Context(), bad), reason.RequestMalformed)
	}
	bad := entry
	bad.MACs = []string{"ff:ff:ff:ff:ff:ff"}
	wantReason(t, "a group's MAC", oscar.PutInventory(t.Context(), bad), reason.RequestMalformed)
	bad.Addresses, bad.MACs = slices.Repeat([]string{"192.0.2.1"}, 17), nil
	wantReason(t, "too many", oscar.PutInventory(t.Context(), bad), reason.RequestMalformed)
	wantReason(t, "another device's", oscar.PutInventory(t.Context(), located("two", "192.0.2.1")), reason.Conflict)
	if err := oscar.PutInventory(t.Context(), located("one", "192.0.2.9")); err != nil {
		t.Fatal(err)
	}
	if err := oscar.PutInventory(t.Context(), located("two", "192.0.2.1")); err != nil {
		t.Errorf("an address that was given up: %v", err)
	}
	pending := a.device("three", func(d *fleet.Device) {
		d.Lifecycle, d.Standing, d.ProvenAt = fleet.Pending, fleet.Unproven, time.Time{}
	})
	_, err = oscar.ApproveDevice(t.Context(), api.InventoryEntry{Device: pending, Product: "lamp", HardwareID: "rev-a", Profile: "board", Addresses: []string{"192.0.2.3"}})
	wantReason(t, "addresses with an approval", err, reason.RequestMalformed)
}

// Two people loosen. An entry of the inventory is one person's word, and must be no way around them.
func TestAddressesAreNoWayOutOfQuarantine(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	n, driver := switched(a)
	oscar := a.person("oscar", api.RoleOperator)
	id := a.device("one", nil)
	if err := oscar.PutInventory(t.Context(), located("one", "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "odd"}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "another address", oscar.PutInventory(t.Context(), located("one", "192.0.2.2")), reason.DeviceQuarantined)
	wantReason(t, "no entry", oscar.RemoveInventory(t.Context(), id), reason.DeviceQuarantined)
	wantReason(t, "given to another", oscar.PutInventory(t.Context(), located("two", "192.0.2.1")), reason.Conflict)
	both := located("one", "192.0.2.1")
	both.Addresses = append(both.Addresses, "192.0.2.2")
	if err := oscar.PutInventory(t.Context(), both); err != nil {
		t.Errorf("one more address: %v", err)
	}
	a.round(driver)
	a.wantPoint(oscar, id, api.SegmentVerified, "")
	if orders := n.Orders(); n.Where(id) != fleet.Restricted || len(orders[len(orders)-1].Target.Addresses) != 2 {
		t.Errorf("the network holds it in %s: %+v", n.Where(id), orders)
	}
	if _, err := oscar.RetireDevice(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := oscar.PutInventory(t.Context(), located("two", "192.0.2.1")); err != nil {
		t.Errorf("the address of a retired device: %v", err)
	}
}

// polled says that the devices were seen at the address.
func polled(a *admin, address string, devices ...string) {
	a.t.Helper()
	var change store.Change
	for _, id := range devices {
		change.Writes = append(change.Writes, store.PutAddresses{Device: id, Source: store.SourcePoll, Addresses: []string{address}, At: a.Now()})
	}
	if err := a.Store.Commit(a.t.Context(), change); err != nil {
		a.t.Fatal(err)
	}
}

// What a poll showed keeps a device in quarantine out as well as an entry does. Nobody may hand that address on alone.
func TestPolledAddressIsNoWayOutOfQuarantine(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	n, driver := switched(a)
	oscar := a.person("oscar", api.RoleOperator)
	seen := func(label, address string) string {
		id := a.device(label, nil)
		polled(a, address, id)
		return id
	}
	id := seen("one", "192.0.2.1")
	if _, err := oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "odd"}); err != nil {
		t.Fatal(err)
	}
	a.round(driver)
	wantReason(t, "given to another", oscar.PutInventory(t.Context(), located("two", "192.0.2.1")), reason.DeviceQuarantined)
	a.round(driver)
	a.wantPoint(oscar, id, api.SegmentVerified, "")
	if n.Where(id) != fleet.Restricted {
		t.Error("one operator has let a device in quarantine into the network")
	}
	seen("three", "192.0.2.3")
	if err := oscar.PutInventory(t.Context(), located("four", "192.0.2.3")); err != nil {
		t.Errorf("the address of a device that is in no quarantine: %v", err)
	}
	var crowd []string
	for k := range 300 { // must not hide whose an address is
		crowd = append(crowd, deviceID(fmt.Sprint("crowd", k)))
	}
	polled(a, "192.0.2.5", crowd...)
	wantReason(t, "an address of a crowd", oscar.PutInventory(t.Context(), located("five", "192.0.2.5")), reason.Conflict)
}

// Retiring takes one person. Somebody who retires a whole product, or a script that does, must not cut it off at once.
func TestMassRetirementWaitsForAPerson(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	n, driver := switched(a)
	oscar := a.person("oscar", api.RoleOperator)
	var ids []string
	for i := range 3 {
		label := fmt.Sprint("device", i)
		ids = append(ids, a.device(label, nil))
		if err := oscar.PutInventory(t.Context(), located(label, fmt.Sprintf("192.0.2.%d", i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := oscar.RetireDevice(t.Context(), ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	a.round(driver)
	for _, id := range ids {
		a.wantPoint(oscar, id, api.SegmentSuspended, "suspended")
		if n.Where(id) != fleet.Production {
			t.Errorf("%s is restricted in the network", id)
		}
	}
}
