package segment_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

func TestBreakerTrips(t *testing.T) {
	t.Parallel()
	b := segment.Breaker{Devices: 10, Percent: 5, Window: time.Minute}
	for _, test := range []struct {
		restricted, active int64
		want               bool
	}{
		{0, 0, false}, {9, 9, false}, {10, 10, true}, {9, 100, false}, {10, 100, true}, {10, 199, true},
		{10, 200, false}, // 5 %, not more
		{11, 200, true}, {50, 1000, false}, {51, 1000, true}, {1000, 1_000_000, false}, {50_001, 1_000_000, true},
	} {
		if got := b.Trips(test.restricted, test.active); got != test.want {
			t.Errorf("%d of %d: got %t, want %t", test.restricted, test.active, got, test.want)
		}
	}
	if (segment.Breaker{}).Trips(0, 10) || !(segment.Breaker{}).Trips(1, 10) {
		t.Error("the zero rules must let nothing pass, and nothing trip them")
	}
}

func TestBreakerSuspendsTighteningAlone(t *testing.T) {
	t.Parallel()
	tripped := segment.BreakerState{TrippedAt: now, Since: now.Add(-time.Minute)}
	resumed := tripped
	resumed.ResumedAt = now.Add(time.Hour)
	at := func(where fleet.Segment, tightens bool, at time.Time) store.Order {
		return store.Order{Segment: where, Tightens: tightens, At: at}
	}
	tests := map[string]struct {
		state segment.BreakerState
		order store.Order
		want  bool
	}{
		"tightens, in the window":     {tripped, at(fleet.Restricted, true, now.Add(-time.Minute)), true},
		"tightens, later":             {tripped, at(fleet.Restricted, true, now.Add(time.Hour)), true},
		"tightens, before the window": {tripped, at(fleet.Restricted, true, now.Add(-time.Hour)), false},
		"was restricted already":      {tripped, at(fleet.Restricted, false, now), false},
		"loosens":                     {tripped, at(fleet.Production, false, now), false},
		"loosens, wrongly marked":     {tripped, at(fleet.Production, true, now), false},
		"resumed":                     {resumed, at(fleet.Restricted, true, now), false},
		"never tripped":               {segment.BreakerState{}, at(fleet.Restricted, true, now), false},
	}
	for name, test := range tests {
		if got := test.state.Suspends(test.order); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
}

// A mistake that restricts a whole product at once stops at the network until a person has looked; what loosens goes
// through, other products are not touched, replicas and restarts agree.
func TestMassQuarantineWaitsForAPerson(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		var devices []fleet.Device
		for n := range 30 {
			devices = append(devices, s.admit(n))
		}
		driver := s.driver()
		early := s.isolate(devices[29])
		s.round(driver, 1)
		s.want(early.ID, segment.Verified, "", fleet.Restricted)
		s.advance(s.breaker.Window) // long ago: not part of what follows
		for n := range 10 {
			devices[n] = s.isolate(devices[n])
		}
		other := s.isolate(s.otherProduct(99))
		s.round(driver, 2)
		for n := range 10 {
			s.want(devices[n].ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
			s.wantEvents(devices[n].ID, audit.SegmentUnverified, 0)
			door, err := s.store.PendingOrders(t.Context(), "door", 0)
			if err != nil || len(door) < 10 {
				t.Fatalf("the door's orders: got %d, %v", len(door), err)
			}
		}
		s.want(other.ID, segment.Verified, "", fleet.Restricted)
		s.wantEvents(appraisetest.Product, audit.BreakerTripped, 1)

		// Loosening goes on; what was restricted before stays so, also when the point forgets it; later ones wait too.
		devices[0] = s.restore(devices[0])
		s.net.Flush()
		late := s.isolate(devices[11])
		replica := s.driverOver(s.open(), s.net.Point())
		s.advance(pace.Reconcile)
		s.round(replica, 3)
		s.want(devices[0].ID, segment.Verified, "", fleet.Production)
		s.want(early.ID, segment.Verified, "", fleet.Restricted)
		s.want(late.ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
		s.wantEvents(appraisetest.Product, audit.BreakerTripped, 1)

		// Repeating an order that waits, because the device moved, is no way around.
		var moved store.Change
		if err := segment.Relocate(t.Context(), s.store, s.rules, &moved, late.ID, []string{"10.7.7.7"}, s.now()); err != nil {
			t.Fatal(err)
		}
		s.commit(moved)
		s.round(driver, 2)
		s.want(late.ID, segment.Suspended, store.WaitingBreaker, fleet.Production)

		if _, err := segment.Resume(t.Context(), s.store, "lantern", "ann", "", s.now()); !errors.Is(err, segment.ErrNotTripped) {
			t.Errorf("resuming another product: got %v, want %v", err, segment.ErrNotTripped)
		}
		if _, err := segment.Resume(t.Context(), s.store, appraisetest.Product, "ann", "looked", s.now()); err != nil {
			t.Fatal(err)
		}
		s.round(driver, 2)
		for _, d := range devices[1:10] {
			s.want(d.ID, segment.Verified, "", fleet.Restricted)
		}
		s.want(late.ID, segment.Verified, "", fleet.Restricted)
		s.wantEvents(appraisetest.Product, audit.BreakerResumed, 1)
		if _, err := segment.Resume(t.Context(), s.store, appraisetest.Product, "ann", "", s.now()); !errors.Is(err, segment.ErrNotTripped) {
			t.Errorf("resuming twice: got %v, want %v", err, segment.ErrNotTripped)
		}

		// A few more are a few; another wave trips it again.
		one := s.isolate(devices[12])
		s.round(driver, 1)
		s.want(one.ID, segment.Verified, "", fleet.Restricted)
		for n := 13; n < 22; n++ {
			devices[n] = s.isolate(devices[n])
		}
		s.round(driver, 1)
		s.want(devices[21].ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
		s.wantEvents(appraisetest.Product, audit.BreakerTripped, 2)
	})
}

func (s *site) otherProduct(n int) fleet.Device {
	s.t.Helper()
	d := s.admit(n)
	d.Product = "lantern"
	return s.close(d, nil, store.Change{})
}

// Nobody knows how many: then nothing is tightened in the network.
func TestBreakerFailsClosedTowardsTheNetwork(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.round(driver, 1)
		s.commit(store.Change{Writes: []store.Write{store.PutSetting{Name: "segment.breaker:" + d.Product, Value: []byte("{")}}})
		d = s.isolate(d)
		s.round(driver, 3)
		s.want(d.ID, segment.Requested, "", fleet.Production)
		d = s.restore(d)
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Production)
	})
}

func TestReplicasTripTheBreakerOnce(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		one, two := s.driver(), s.driverOver(s.open(), s.net.Point())
		var devices []fleet.Device
		for n := range 12 {
			devices = append(devices, s.admit(n))
		}
		s.round(one, 1)
		for _, d := range devices {
			s.isolate(d)
		}
		s.both(one, two)
		for _, d := range devices {
			s.want(d.ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
		}
		s.wantEvents(appraisetest.Product, audit.BreakerTripped, 1)
	})
}

// A replica whose clock is behind that of the one where a person resumed trips the breaker all the same, once.
func TestBreakerTripsAgainUnderAClockThatIsBehind(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver := s.driver()
		var devices []fleet.Device
		for n := range 30 {
			devices = append(devices, s.admit(n))
		}
		s.round(driver, 1)
		for n := range 10 {
			s.isolate(devices[n])
		}
		s.round(driver, 1)
		ahead := s.now().Add(time.Hour)
		if _, err := segment.Resume(t.Context(), s.store, appraisetest.Product, "ann", "looked", ahead); err != nil {
			t.Fatal(err)
		}
		s.round(driver, 1)
		behind := s.now()
		s.advance(time.Hour + time.Minute) // the replica that decides is ahead as well
		for n := 10; n < 20; n++ {
			devices[n] = s.isolate(devices[n])
		}
		s.advance(behind.Sub(s.now()))
		s.round(driver, 3)
		s.wantEvents(appraisetest.Product, audit.BreakerTripped, 2)
		for n := 10; n < 20; n++ {
			s.want(devices[n].ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
		}
	})
}
