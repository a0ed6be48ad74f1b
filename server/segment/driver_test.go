package segment_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

func TestOrderIsCarriedOutReadBackAndReceipted(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		s.want(d.ID, segment.Requested, "", fleet.Production)
		driver := s.driver()
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Production)
		d = s.isolate(d)
		s.round(driver, 1)
		o := s.want(d.ID, segment.Verified, "", fleet.Restricted)
		if o.Observed != fleet.Restricted || o.ObservedAt.IsZero() || o.Acked.Before(o.At) || o.Verified.Before(o.Acked) {
			t.Errorf("got order %+v", o)
		}
		wantIn(t, "receipt", s.receipt(d.ID), `"point":"net"`, `"segment":"restricted"`, `"epoch":2`, `"requested":"`, `"acked":"`, `"verified":"`)
		s.restore(d)
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Production)
		s.wantEvents(d.ID, audit.SegmentVerified, 3)
		s.wantEvents(d.ID, audit.SegmentUnverified, 0)
	})
}

func TestUnreachablePointEndsUnverifiedAndThenVerified(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.round(driver, 1)
		s.net.Down(true)
		d = s.isolate(d)
		s.round(driver, 5)
		o := s.want(d.ID, segment.Unverified, store.WaitingUnreachable, fleet.Production)
		wantIn(t, "detail", o.Detail, "connection refused")
		s.wantEvents(d.ID, audit.SegmentUnverified, 1)
		if status := driver.Status(); status.Failed.IsZero() || status.Error == "" || status.OK.IsZero() {
			t.Errorf("status: got %+v", status)
		}
		s.net.Down(false)
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
		s.wantEvents(d.ID, audit.SegmentVerified, 2)
	})
}

// Taken is not in force: what the network shows decides.
func TestTakenButNotInForceIsNotVerified(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.round(driver, 1)
		s.net.Blind(true)
		d = s.isolate(d)
		s.round(driver, 1)
		o := s.want(d.ID, segment.Acknowledged, "", fleet.Production) // a network takes a moment
		if o.Acked.IsZero() || !o.Verified.IsZero() || o.Observed != fleet.Production {
			t.Errorf("got %+v", o)
		}
		s.round(driver, 4)
		wantIn(t, "detail", s.want(d.ID, segment.Unverified, store.WaitingDiffers, fleet.Production).Detail, "production")
		s.net.Blind(false)
		s.round(driver, 2)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
		wantIn(t, "receipt", s.receipt(d.ID), o.Acked.UTC().Format(time.RFC3339)) // the first acknowledgement counts
	})
}

func TestSilentNetworkAndRefusalAreNotVerified(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.net.Silent(true)
		s.round(driver, 5)
		s.want(d.ID, segment.Unverified, store.WaitingDiffers, fleet.Production)
		s.net.Silent(false)
		s.net.Refuse("not\x1b[31m\xff today\x00")
		d = s.isolate(d)
		s.round(driver, 2)
		wantIn(t, "detail", s.want(d.ID, segment.Unverified, store.WaitingRefused, fleet.Production).Detail, "not [31m  today ")
		s.net.Refuse("")
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
	})
}

// stale shows what was true before the driver's first attempt.
type stale struct {
	segment.Point
	at time.Time
}

func (p stale) Observe(ctx context.Context, target segment.Target) (segment.Observation, error) {
	return segment.Observation{Segment: fleet.Restricted, At: p.at, Known: true}, nil
}

func TestOldObservationProvesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		s.round(s.driver(), 1)
		d = s.isolate(d)
		s.net.Blind(true)
		driver := s.driverOver(s.store, stale{s.net.Point(), s.now()})
		s.round(driver, 5)
		wantIn(t, "detail", s.want(d.ID, segment.Unverified, store.WaitingDiffers, fleet.Production).Detail, "older")
	})
}

// unsure names a segment that it does not stand for.
type unsure struct {
	segment.Point
	now func() time.Time
}

func (p unsure) Observe(context.Context, segment.Target) (segment.Observation, error) {
	return segment.Observation{Segment: fleet.Restricted, At: p.now()}, nil
}

func TestGuessIsNotVerified(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		s.round(s.driver(), 1)
		d = s.isolate(d)
		s.net.Blind(true)
		s.round(s.driverOver(s.store, unsure{s.net.Point(), s.now}), 5)
		s.want(d.ID, segment.Unverified, store.WaitingDiffers, fleet.Production)
	})
}

// failing loses the answer of a commit, before or after it took place.
type failing struct {
	*store.Store
	before, after atomic.Bool
}

var errKilled = errors.New("killed")

func (f *failing) Commit(ctx context.Context, c store.Change) error {
	if f.before.Load() {
		return errKilled
	}
	if err := f.Store.Commit(ctx, c); err != nil {
		return err
	}
	if f.after.Load() {
		return errKilled
	}
	return nil
}

// Between any two steps the server may die: another one goes on from the rows, and no receipt is lost or doubled.
func TestServerThatDiesInTheMiddle(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		for name, arm := range map[string]func(*failing){
			"before the receipt": func(f *failing) { f.before.Store(true) },
			"after the receipt":  func(f *failing) { f.after.Store(true) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, fresh(t, dsn))
				d := s.admit(1)
				s.round(s.driver(), 1)
				d = s.isolate(d)
				dying := &failing{Store: s.store}
				arm(dying)
				s.round(s.driverOver(dying, s.net.Point()), 1)
				s.want(d.ID, segment.StateOf(s.order(d.ID)), "", fleet.Restricted)
				s.round(s.driver(), 2)
				s.want(d.ID, segment.Verified, "", fleet.Restricted)
				s.wantEvents(d.ID, audit.SegmentVerified, 2)
			})
		}
		t.Run("between acknowledged and verified", func(t *testing.T) {
			t.Parallel()
			s := newSite(t, fresh(t, dsn))
			d := s.admit(1)
			s.round(s.driver(), 1)
			d = s.isolate(d)
			s.net.Silent(true)
			s.round(s.driver(), 1)
			acked := s.want(d.ID, segment.Acknowledged, "", fleet.Restricted).Acked
			s.net.Silent(false)
			s.round(s.driver(), 1)
			if o := s.want(d.ID, segment.Verified, "", fleet.Restricted); !o.Acked.Equal(acked) {
				t.Errorf("acknowledged at %s, then at %s", acked, o.Acked)
			}
			s.wantEvents(d.ID, audit.SegmentVerified, 2)
		})
	})
}

// The point dies when it has taken the order, before it answers, and comes back without its rules.
func TestPointThatDiesInTheMiddle(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.round(driver, 1)
		d = s.isolate(d)
		s.net.After(func(segment.Order) { go s.net.Down(true) })
		for s.net.Where(d.ID) != fleet.Restricted {
			s.round(driver, 1)
		}
		s.net.After(nil)
		s.net.Down(true)
		s.net.Flush()
		s.round(driver, 2)
		if o := s.order(d.ID); o.Verified.IsZero() {
			s.want(d.ID, segment.Unverified, store.WaitingUnreachable, fleet.Production)
		}
		s.net.Down(false)
		s.round(driver, 10) // also past a reading back
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
	})
}

func TestDriftIsPutRightAndTold(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		a, b := s.admit(1), s.admit(2)
		driver := s.driver()
		a = s.isolate(a)
		s.round(driver, 2)
		s.net.Flush()
		s.net.Move(b.ID, fleet.Restricted)
		s.advance(pace.Reconcile)
		s.round(driver, 2)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		s.want(b.ID, segment.Verified, "", fleet.Production)
		for _, d := range []string{a.ID, b.ID} {
			s.wantEvents(d, audit.SegmentDrifted, 1)
			s.wantEvents(d, audit.SegmentVerified, 2)
		}
		s.net.Down(true) // no answer is no drift
		s.advance(pace.Reconcile)
		s.round(driver, 2)
		s.want(a.ID, segment.Verified, "", fleet.Restricted)
		s.wantEvents(a.ID, audit.SegmentDrifted, 1)
	})
}

func TestOlderNetworkOrderNeverUndoesANewerOne(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := s.admit(1)
		driver := s.driver()
		s.round(driver, 1)
		s.net.Down(true)
		d = s.isolate(d)
		s.round(driver, 1)
		old := s.order(d.ID)
		d = s.restore(d)
		s.net.Down(false)
		s.round(driver, 2)
		s.want(d.ID, segment.Verified, "", fleet.Production)
		for _, o := range s.net.Orders() {
			if o.Epoch == old.Epoch {
				t.Error("a superseded order reached the point")
			}
		}
		// Settling it late is no receipt either.
		err := s.store.Commit(t.Context(), store.Change{Writes: []store.Write{store.SettleOrder{ID: old.ID, Verified: s.now()}}})
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("settling a superseded order: got %v, want %v", err, store.ErrConflict)
		}
		// A database from a backup knows less than the point: nothing is undone there, and somebody is told.
		s.net.Move(d.ID, fleet.Production)
		if _, err := s.net.Point().Apply(t.Context(), segment.Order{Target: segment.Target{Device: d.ID, Addresses: s.net.Orders()[0].Target.Addresses}, Segment: fleet.Restricted, Epoch: 99}); err != nil {
			t.Fatal(err)
		}
		s.advance(pace.Reconcile)
		s.round(driver, 2)
		wantIn(t, "detail", s.want(d.ID, segment.Unverified, store.WaitingNewer, fleet.Restricted).Detail, "99")
	})
}

// Orders that wait, of whatever number, keep no other one back.
func TestWaitingOrdersHoldUpNobody(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		var bare store.Change
		for n := range 1300 {
			d := fleet.Device{ID: id(n + 10), Product: "x", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Restricted, LeaseUntil: s.now().Add(time.Hour)}
			var c store.Change
			s.rules.Close(&c, &d, nil, "server", s.now())
			bare.Writes, bare.Orders = append(bare.Writes, c.Writes...), append(bare.Orders, c.Orders...)
		}
		s.commit(bare)
		driver := s.driver()
		s.round(driver, 1)
		wantIn(t, "detail", s.want(id(10), segment.Unverified, store.WaitingAddress, fleet.Production).Detail, "no address known")
		s.wantEvents(id(10), audit.SegmentUnverified, 1)
		d := s.isolate(s.admit(1))
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
	})
}

// A point that hangs, or one device at it, holds up nothing else.
func TestSlowPointHoldsUpNobody(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		s.rules.Points = []string{"net", "far"}
		far := segmenttest.NewNetwork("far", segment.ByAddress, s.now)
		slow, quick := s.admit(1), s.admit(2)
		until := make(chan bool)
		s.net.Hang(slow.ID, until)
		far.Hang(slow.ID, until)
		far.Hang(quick.ID, until)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var work sync.WaitGroup
		defer work.Wait()
		defer cancel()
		for _, p := range []segment.Point{s.net.Point(), far.Point()} {
			driver := s.driverOver(s.store, p)
			work.Go(func() { _ = driver.Run(ctx) })
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for s.order(quick.ID).Verified.IsZero() {
			<-tick.C
		}
		s.want(slow.ID, segment.Requested, "", fleet.Production)
		close(until)
		for s.order(slow.ID).Verified.IsZero() {
			<-tick.C
		}
	})
}

func TestReplicasAgree(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		one, two := s.driver(), s.driverOver(s.open(), s.net.Point())
		d := s.admit(1)
		for range 20 {
			d = s.isolate(d)
			s.both(one, two)
			d = s.restore(d)
			s.both(one, two)
		}
		s.want(d.ID, segment.Verified, "", fleet.Production)
		s.wantEvents(d.ID, audit.SegmentVerified, 40)
		s.wantEvents(d.ID, audit.SegmentDrifted, 0)
	})
}

func (s *site) both(one, two *segment.Driver) {
	s.t.Helper()
	s.advance(pace.RetryMax)
	done := make(chan error, 1)
	go func() { done <- two.Round(s.t.Context()) }()
	if err := errors.Join(one.Round(s.t.Context()), <-done); err != nil {
		s.t.Fatal(err)
	}
}

// A point that is new in the configuration, and epochs raised by a restore, are caught up with.
func TestNewPointIsToldAboutTheFleet(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		s.rules.Points = nil
		a, b := s.admit(1), s.isolate(s.admit(2))
		fresh := fleet.Device{ID: id(3), Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Unproven, Segment: fleet.Restricted}
		s.commit(store.Change{Writes: []store.Write{store.PutDevice{Device: fresh}}})
		s.locate(fresh.ID, "10.9.9.9")
		driver := s.driver()
		s.round(driver, 2)
		s.want(a.ID, segment.Verified, "", fleet.Production)
		s.want(b.ID, segment.Verified, "", fleet.Restricted)
		s.want(fresh.ID, segment.Verified, "", fleet.Restricted)
		before := len(s.net.Orders())
		a, err := s.store.Device(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		a.Epoch = 1 << 40
		s.commit(store.Change{Writes: []store.Write{store.PutDevice{Device: a}}})
		s.advance(11 * pace.Reconcile)
		s.round(driver, 2)
		if o := s.want(a.ID, segment.Verified, "", fleet.Production); o.Epoch != 1<<40 || len(s.net.Orders()) != before+1 {
			t.Errorf("got epoch %d after %d calls", o.Epoch, len(s.net.Orders())-before)
		}
	})
}

func TestClaimedDeviceIsRestrictedFromTheStart(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		d := fleet.Device{ID: id(1), Lifecycle: fleet.Pending, Standing: fleet.Unproven, Segment: fleet.Restricted}
		var c store.Change
		var q *fleet.Quarantine
		standing.Take(&c, &d, &q, fleet.Claim(d, fleet.Admission{Product: "lamp"}), "server", s.now())
		s.locate(d.ID, "10.0.0.1")
		d = s.close(d, nil, c)
		s.want(d.ID, segment.Requested, "", fleet.Production) // in the transaction of the claim
		s.round(s.driver(), 1)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
		door, err := s.store.PendingOrders(t.Context(), standing.Door, 0)
		if err != nil || len(door) != 0 {
			t.Errorf("orders for the door: got %v, %v, want none", door, err)
		}
	})
}

func TestRunCarriesOutAndEnds(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		driver := s.driver()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- driver.Run(ctx) }()
		d := s.isolate(s.admit(1))
		driver.Wake()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for s.order(d.ID).Verified.IsZero() {
			<-tick.C
		}
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
