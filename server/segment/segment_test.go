package segment_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func world(t *testing.T) *appraisetest.World {
	w := appraisetest.New(t)
	w.Publish("1", 1)
	w.Publish("2", 2)
	w.Publish("3", 3)
	w.Publish("rescue", 4, appraisetest.Recovery)
	return w
}

// device runs lamp/1 and is offered lamp/2.
func device() fleet.Device {
	return fleet.Device{
		ID: "d", Product: appraisetest.Product, HardwareID: appraisetest.Hardware, Lifecycle: fleet.Active, Standing: fleet.Affirmed, Tier: 5,
		Proven: "lamp/1", HighCounter: 1, Offered: "lamp/2", OfferedCounter: 2, LeaseUntil: now.Add(time.Hour), Grounds: grounds,
	}
}

// grounds are those of a world whose policy asks for nothing special.
var grounds = (&repository.Product{Name: appraisetest.Product}).Grounds("")

func TestAllow(t *testing.T) {
	t.Parallel()
	w := world(t)
	with := func(change func(*fleet.Device)) fleet.Device { d := device(); change(&d); return d }
	q := &fleet.Quarantine{ID: "q"}
	product := func(change func(*repository.Product)) *repository.Product {
		p := *w.Catalog().Products[appraisetest.Product]
		change(&p)
		return &p
	}
	as := func(s fleet.Standing) fleet.Device { return with(func(d *fleet.Device) { d.Standing = s }) }
	good := product(func(*repository.Product) {})
	held := product(func(p *repository.Product) {
		p.Releases = slices.Clone(p.Releases)
		for i, r := range p.Releases {
			c := *r
			c.Hold = true
			p.Releases[i] = &c
		}
	})
	tests := map[string]struct {
		d       fleet.Device
		q       *fleet.Quarantine
		p       *repository.Product
		release string
		want    reason.Reason
	}{
		"offered":                         {device(), nil, good, "lamp/2", ""},
		"what it runs":                    {device(), nil, good, "lamp/1", ""},
		"not offered":                     {device(), nil, good, "lamp/3", reason.ReleaseNotOffered},
		"nothing by this digest":          {device(), nil, good, "lamp/9", reason.ReleaseUnknown},
		"recovery":                        {device(), nil, good, "lamp/rescue", ""},
		"held":                            {device(), nil, held, "lamp/2", reason.ReleaseOnHold},
		"held recovery":                   {device(), q, held, "lamp/rescue", reason.DeviceQuarantined},
		"closed offer":                    {fleet.Withdraw(device()).Device, nil, good, "lamp/2", reason.ReleaseNotOffered},
		"lease ended":                     {with(func(d *fleet.Device) { d.LeaseUntil = now }), nil, good, "lamp/2", reason.DeviceUnproven},
		"lease ended: recovery":           {with(func(d *fleet.Device) { d.LeaseUntil = now }), nil, good, "lamp/rescue", ""},
		"affirmed on other grounds":       {with(func(d *fleet.Device) { d.Grounds[0] ^= 1 }), nil, good, "lamp/2", reason.DeviceUnproven},
		"affirmed before grounds counted": {with(func(d *fleet.Device) { d.Grounds = digest.SHA256{} }), nil, good, "lamp/1", reason.DeviceUnproven},
		"other grounds: recovery":         {with(func(d *fleet.Device) { d.Grounds[0] ^= 1 }), nil, good, "lamp/rescue", ""},
		"stale":                           {as(fleet.Stale), nil, good, "lamp/2", reason.DeviceUnproven},
		"stale: recovery":                 {as(fleet.Stale), nil, good, "lamp/rescue", ""},
		"unproven":                        {as(fleet.Unproven), nil, good, "lamp/2", reason.DeviceUnproven},
		"refused":                         {as(fleet.Refused), nil, good, "lamp/2", reason.DeviceUnproven},
		"quarantined":                     {device(), q, good, "lamp/2", reason.DeviceQuarantined},
		"quarantined: what it runs":       {device(), q, good, "lamp/1", reason.DeviceQuarantined},
		"quarantined: recovery":           {as(fleet.Refused), q, good, "lamp/rescue", ""},
		"pending":                         {with(func(d *fleet.Device) { d.Lifecycle = fleet.Pending }), nil, good, "lamp/rescue", reason.DevicePending},
		"retired":                         {with(func(d *fleet.Device) { d.Lifecycle = fleet.Retired }), nil, good, "lamp/rescue", reason.DeviceRetired},
		"no product":                      {device(), nil, nil, "lamp/2", reason.PolicyMissing},
		"other hardware":                  {with(func(d *fleet.Device) { d.HardwareID = "rev-b" }), nil, good, "lamp/2", reason.ReleaseUnknown},
		"withdrawn":                       {device(), nil, product(func(p *repository.Product) { p.Policy.Withdrawn = []digest.SHA256{appraisetest.Image("lamp/2")} }), "lamp/2", reason.ReleaseWithdrawn},
		"below the offline minimum":       {device(), nil, product(func(p *repository.Product) { p.Policy.MinimumCounter = 9 }), "lamp/2", reason.DowngradeRefused},
		"recovery below the minimum":      {device(), nil, product(func(p *repository.Product) { p.Policy.MinimumCounter = 9 }), "lamp/rescue", reason.DowngradeRefused},
		"recovery that is not listed":     {device(), nil, product(func(p *repository.Product) { p.Policy.Recovery = nil }), "lamp/rescue", reason.RecoveryNotListed},
		"tier raised after the offer":     {device(), nil, product(func(p *repository.Product) { p.Policy.MinimumTier = 5; p.Policy.Threshold = 0 }), "lamp/2", reason.PolicyMissing},
		"quarantined, nothing by the sum": {device(), q, good, "lamp/9", reason.DeviceQuarantined},
	}
	for name, test := range tests {
		grant, err := segment.Allow(test.d, test.q, test.p, appraisetest.Image(test.release), now)
		if test.want == "" {
			if err != nil || grant.Release != test.release || grant.Device != "d" || grant.Recovery != (test.release == "lamp/rescue") || grant.Length != int64(len(appraisetest.Bytes(test.release))) {
				t.Errorf("%s: got %+v, %v", name, grant, err)
			}
			continue
		}
		p, ok := errors.AsType[*problem.Error](err)
		if !ok || p.Status != http.StatusForbidden || p.Reason != test.want {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func TestDoorCutsOnlyWhatMayNotStay(t *testing.T) {
	t.Parallel()
	door := segment.NewDoor()
	a, doneA := door.Open(t.Context(), segment.Grant{Device: "a"})
	b, doneB := door.Open(t.Context(), segment.Grant{Device: "b"})
	defer doneB()
	if n := door.Cut(func(g segment.Grant) bool { return g.Device == "b" }); n != 1 || a.Err() == nil || b.Err() != nil {
		t.Errorf("cut %d: a %v, b %v", n, a.Err(), b.Err())
	}
	if !errors.Is(context.Cause(a), segment.ErrCut) {
		t.Errorf("cause %v", context.Cause(a))
	}
	doneA()
	if got := door.Streams(); len(got) != 1 || got[0].Device != "b" {
		t.Errorf("streams %+v", got)
	}
}

// enforced is a device in the store that is offered lamp/2, with a firmware and a recovery stream open.
type enforced struct {
	w              *appraisetest.World
	d              *appraisetest.Device
	door           *segment.Door
	enforcer       *segment.Enforcer
	firmware, safe context.Context
}

func enforce(t *testing.T, s func(*store.Store) segment.Store) enforced {
	t.Helper()
	e := enforced{w: world(t), door: segment.NewDoor()}
	e.d = e.w.Enrolled(t, "a", "lamp/1", func(d *fleet.Device) {
		d.Standing, d.Proven, d.HighCounter, d.Offered, d.Segment = fleet.Affirmed, "lamp/1", 1, "lamp/2", fleet.Production
		d.LeaseUntil = e.w.Now().Add(time.Hour)
		d.Grounds = e.w.Catalog().Products[appraisetest.Product].Grounds(d.Profile)
	})
	from := segment.Store(e.w.Store)
	if s != nil {
		from = s(e.w.Store)
	}
	e.enforcer = segment.NewEnforcer(from, e.door, e.w.Catalog, time.Hour, e.w.Now, e.w.Log)
	open := func(g segment.Grant) context.Context {
		ctx, done := e.door.Open(t.Context(), g)
		t.Cleanup(done)
		return ctx
	}
	e.firmware = open(segment.Grant{Device: e.d.ID, Release: "lamp/2"})
	e.safe = open(segment.Grant{Device: e.d.ID, Release: "lamp/rescue", Recovery: true})
	return e
}

func (e enforced) commit(t *testing.T, d fleet.Device, q *fleet.Quarantine) store.Order {
	t.Helper()
	var change store.Change
	if q != nil {
		change.Writes = append(change.Writes, store.PutQuarantine{Quarantine: *q})
	}
	standing.Rules{Terms: appraisetest.Settings.Terms}.Close(&change, &d, q, "server", e.w.Now())
	change.Expect, change.Events = nil, nil
	var order store.Order
	if len(change.Orders) > 0 {
		order = change.Orders[0]
	}
	if err := e.w.Store.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	return order
}

func (e enforced) pending(t *testing.T) int {
	t.Helper()
	orders, err := e.w.Store.PendingOrders(t.Context(), standing.Door, 0)
	if err != nil {
		t.Fatal(err)
	}
	return len(orders)
}

func TestQuarantineCutsFirmwareAndLeavesRecovery(t *testing.T) {
	t.Parallel()
	e := enforce(t, nil)
	if err := e.enforcer.Round(t.Context()); err != nil || e.firmware.Err() != nil {
		t.Fatalf("an allowed stream was cut: %v, %v", err, e.firmware.Err())
	}
	step := fleet.Isolate(e.d.Row(), nil, "ann", "", e.w.Now())
	if order := e.commit(t, step.Device, step.Quarantine); order.Segment != fleet.Restricted {
		t.Fatalf("order %+v", order)
	}
	if err := e.enforcer.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.firmware.Err() == nil || e.safe.Err() != nil {
		t.Errorf("firmware %v, recovery %v", e.firmware.Err(), e.safe.Err())
	}
	if order := e.w.Order(e.d.ID); order.Verified.IsZero() || order.Acked.IsZero() || e.pending(t) != 0 {
		t.Errorf("order %+v is not settled", order)
	}
	if got := e.w.Events(e.d.ID); !slices.Contains(got, "segment.verified") {
		t.Errorf("events %v", got)
	}
}

func TestHoldLeaseEndAndRetirementCutStreams(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(e enforced){
		"hold":         func(e enforced) { e.w.Hold("lamp/2", true) },
		"end of lease": func(e enforced) { e.w.Advance(time.Hour) },
		"retirement":   func(e enforced) { e.commit(t, fleet.Retire(e.d.Row(), "ann").Device, nil) },
		"offer closed": func(e enforced) { e.commit(t, fleet.Withdraw(e.d.Row()).Device, nil) },
		"withdrawn component": func(e enforced) {
			e.w.Edit(func(_ *repository.Catalog, p *repository.Product) {
				p.Policy.Withdrawn = []digest.SHA256{appraisetest.Image("lamp/1")}
			})
		},
		"release gone": func(e enforced) {
			e.w.Edit(func(_ *repository.Catalog, p *repository.Product) { p.Releases = nil })
		},
	} {
		e := enforce(t, nil)
		change(e)
		if err := e.enforcer.Round(t.Context()); err != nil || e.firmware.Err() == nil {
			t.Errorf("%s: %v, stream %v", name, err, e.firmware.Err())
		}
	}
}

func TestOlderOrderNeverUndoesANewerOne(t *testing.T) {
	t.Parallel()
	e := enforce(t, nil)
	older := store.Order{Device: e.d.ID, Segment: fleet.Restricted, Epoch: 3, Point: standing.Door, At: now}
	newer := store.Order{Device: e.d.ID, Segment: fleet.Production, Epoch: 4, Point: standing.Door, At: now}
	for _, o := range []store.Order{newer, older} { // the older one arrives late
		if err := e.w.Store.Commit(t.Context(), store.Change{Orders: []store.Order{o}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.enforcer.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.firmware.Err() != nil || e.pending(t) != 0 {
		t.Errorf("stream %v, %d orders pending", e.firmware.Err(), e.pending(t))
	}
}

// blind cannot read one device.
type blind struct {
	segment.Store
	device string
}

func (b blind) Device(ctx context.Context, id string) (fleet.Device, error) {
	if id == b.device {
		return fleet.Device{}, store.ErrUnavailable
	}
	return b.Store.Device(ctx, id)
}

func TestOneUnreadableDeviceKeepsNoOtherStreamOpen(t *testing.T) {
	t.Parallel()
	e := enforce(t, func(s *store.Store) segment.Store { return blind{s, "b"} })
	other, done := e.door.Open(t.Context(), segment.Grant{Device: "b", Release: "lamp/2"})
	defer done()
	gone, done := e.door.Open(t.Context(), segment.Grant{Device: "nobody", Release: "lamp/2"})
	defer done()
	step := fleet.Isolate(e.d.Row(), nil, "ann", "", e.w.Now())
	e.commit(t, step.Device, step.Quarantine)
	if err := e.enforcer.Round(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if e.firmware.Err() == nil || gone.Err() == nil || other.Err() != nil || e.pending(t) != 0 {
		t.Errorf("isolated %v, unknown %v, unreadable %v, %d orders pending", e.firmware.Err(), gone.Err(), other.Err(), e.pending(t))
	}
}

func TestRunEndsWithItsContextAndWakes(t *testing.T) {
	t.Parallel()
	e := enforce(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.enforcer.Run(ctx) }()
	step := fleet.Isolate(e.d.Row(), nil, "ann", "", e.w.Now())
	e.commit(t, step.Device, step.Quarantine)
	e.enforcer.Wake()
	e.enforcer.Wake() // never blocks
	<-e.firmware.Done()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
}
