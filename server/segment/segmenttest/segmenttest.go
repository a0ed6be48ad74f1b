// Package segmenttest is the contract of a network enforcement point as tests, and a network in memory with injected
// faults that keeps the contract. Only tests trust it.
package segmenttest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
)

// Setup is a point with its network, both new and empty. They end with the test.
type Setup struct {
	Point segment.Point
	// Restart makes the point anew over the same network, as after a restart of the server.
	Restart func() segment.Point
	// Report makes the network say where the device is, at points that are told instead of asking (accounting); nil
	// otherwise. It is called before every look.
	Report func(device string)
	// First, Second and Moved are targets that the network can hold; Moved is First's device somewhere else. Zero values are
	// filled in.
	First, Second, Moved segment.Target
	// EpochLost says that the network cannot carry epochs across a restart of the point: then an older order is refused
	// only by the process that has seen the newer one.
	EpochLost bool
}

func (s *Setup) fill() {
	target := func(device, ip, mac string) segment.Target {
		return segment.Target{Device: device, Addresses: []netip.Addr{netip.MustParseAddr(ip)}, MACs: []string{mac}}
	}
	if s.First.Device == "" {
		s.First = target("aaaaaaaaaaaaaaaaaaaaaaaaaa", "192.0.2.10", "02:00:00:00:00:10")
	}
	if s.Second.Device == "" {
		s.Second = target("bbbbbbbbbbbbbbbbbbbbbbbbbb", "192.0.2.11", "02:00:00:00:00:11")
	}
	if s.Moved.Device == "" {
		s.Moved = target(s.First.Device, "192.0.2.12", "02:00:00:00:00:12")
	}
}

// Run runs the whole contract of segment.Point.
func Run(t *testing.T, open func(t *testing.T) Setup) {
	for name, run := range map[string]func(*testing.T, Setup){
		"applies in both directions":                  appliesBothWays,
		"is idempotent":                               isIdempotent,
		"keeps devices apart":                         keepsApart,
		"an older order changes nothing":              olderChangesNothing,
		"the same epoch cannot say something else":    sameEpochSameSegment,
		"the state outlives a restart of the driver":  outlivesRestart,
		"an older order after a restart":              olderAfterRestart,
		"rules follow the device to another address":  followsAddress,
		"a target without address is refused":         refusesNoAddress,
		"ends with its context":                       endsWithContext,
		"a device that it never heard of is no error": unknownDevice,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.fill()
			run(t, s)
		})
	}
}

func (s Setup) apply(t *testing.T, p segment.Point, target segment.Target, where fleet.Segment, epoch int64) segment.Receipt {
	t.Helper()
	r, err := p.Apply(t.Context(), segment.Order{Target: target, Segment: where, Epoch: epoch, At: time.Now()})
	if err != nil {
		t.Fatalf("Apply %s, epoch %d: %v", where, epoch, err)
	}
	if r.Acknowledged.IsZero() {
		t.Errorf("Apply %s, epoch %d: a receipt without a time", where, epoch)
	}
	return r
}

// lookFor bounds how long a network may take to show an order.
const lookFor = 10 * time.Second

// want waits until the network shows the device in the segment.
func (s Setup) want(t *testing.T, p segment.Point, target segment.Target, where fleet.Segment) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lookFor)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.Report != nil {
			s.Report(target.Device)
		}
		seen, err := p.Observe(ctx, target)
		if err == nil && seen.Known && seen.Segment == where {
			if seen.At.IsZero() {
				t.Error("an observation without a time")
			}
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("Observe: got %+v, %v, want %s", seen, err, where)
		}
	}
}

func appliesBothWays(t *testing.T, s Setup) {
	for epoch, where := range []fleet.Segment{fleet.Restricted, fleet.Production, fleet.Restricted} {
		s.apply(t, s.Point, s.First, where, int64(epoch)+1)
		s.want(t, s.Point, s.First, where)
	}
}

func isIdempotent(t *testing.T, s Setup) {
	for range 3 {
		s.apply(t, s.Point, s.First, fleet.Restricted, 4)
		s.want(t, s.Point, s.First, fleet.Restricted)
	}
}

func keepsApart(t *testing.T, s Setup) {
	s.apply(t, s.Point, s.Second, fleet.Production, 1)
	s.apply(t, s.Point, s.First, fleet.Restricted, 1)
	s.want(t, s.Point, s.First, fleet.Restricted)
	s.want(t, s.Point, s.Second, fleet.Production)
	s.apply(t, s.Point, s.Second, fleet.Restricted, 2)
	s.apply(t, s.Point, s.First, fleet.Production, 2)
	s.want(t, s.Point, s.First, fleet.Production)
	s.want(t, s.Point, s.Second, fleet.Restricted)
}

// wantInForce checks what a receipt says about an order that came too late.
func wantInForce(t *testing.T, r segment.Receipt, where fleet.Segment, epoch int64) {
	t.Helper()
	if r.Epoch != epoch || r.Segment != where {
		t.Errorf("receipt: got %s, epoch %d in force, want %s, %d", r.Segment, r.Epoch, where, epoch)
	}
}

func olderChangesNothing(t *testing.T, s Setup) {
	s.apply(t, s.Point, s.First, fleet.Production, 7)
	wantInForce(t, s.apply(t, s.Point, s.First, fleet.Restricted, 6), fleet.Production, 7)
	s.want(t, s.Point, s.First, fleet.Production)
	s.apply(t, s.Point, s.First, fleet.Restricted, 8)
	wantInForce(t, s.apply(t, s.Point, s.First, fleet.Production, 7), fleet.Restricted, 8)
	s.want(t, s.Point, s.First, fleet.Restricted)
}

func sameEpochSameSegment(t *testing.T, s Setup) {
	s.apply(t, s.Point, s.First, fleet.Restricted, 5)
	wantInForce(t, s.apply(t, s.Point, s.First, fleet.Production, 5), fleet.Restricted, 5)
	s.want(t, s.Point, s.First, fleet.Restricted)
}

func outlivesRestart(t *testing.T, s Setup) {
	s.apply(t, s.Point, s.First, fleet.Restricted, 3)
	s.want(t, s.Point, s.First, fleet.Restricted)
	again := s.Restart()
	s.want(t, again, s.First, fleet.Restricted)
	s.apply(t, again, s.First, fleet.Production, 4)
	s.want(t, again, s.First, fleet.Production)
}

func olderAfterRestart(t *testing.T, s Setup) {
	if s.EpochLost {
		return // the database alone keeps the order there; the driver's own documentation has to say so
	}
	s.apply(t, s.Point, s.First, fleet.Restricted, 9)
	s.apply(t, s.Point, s.Second, fleet.Production, 9)
	again := s.Restart()
	s.apply(t, again, s.First, fleet.Production, 8)
	s.want(t, again, s.First, fleet.Restricted)
	s.apply(t, again, s.Second, fleet.Restricted, 8)
	s.want(t, again, s.Second, fleet.Production)
}

func followsAddress(t *testing.T, s Setup) {
	s.apply(t, s.Point, s.First, fleet.Restricted, 2)
	s.want(t, s.Point, s.First, fleet.Restricted)
	s.apply(t, s.Point, s.Moved, fleet.Restricted, 2)
	s.want(t, s.Point, s.Moved, fleet.Restricted)
	if s.Point.Selector() != segment.ByAddress {
		return
	}
	// The address that it left is free for somebody else.
	next := s.Second
	next.Addresses = s.First.Addresses
	s.apply(t, s.Point, next, fleet.Production, 1)
	s.want(t, s.Point, next, fleet.Production)
	s.want(t, s.Point, s.Moved, fleet.Restricted)
}

func refusesNoAddress(t *testing.T, s Setup) {
	bare := segment.Target{Device: s.First.Device}
	if bare.Has(s.Point.Selector()) {
		return // the device's name is enough here
	}
	_, err := s.Point.Apply(t.Context(), segment.Order{Target: bare, Segment: fleet.Restricted, Epoch: 1, At: time.Now()})
	if !errors.Is(err, segment.ErrNoAddress) {
		t.Errorf("Apply without address: got %v, want %v", err, segment.ErrNoAddress)
	}
	if _, err := s.Point.Observe(t.Context(), bare); !errors.Is(err, segment.ErrNoAddress) {
		t.Errorf("Observe without address: got %v, want %v", err, segment.ErrNoAddress)
	}
}

func endsWithContext(t *testing.T, s Setup) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Point.Apply(ctx, segment.Order{Target: s.First, Segment: fleet.Restricted, Epoch: 1, At: time.Now()}); err == nil {
		t.Error("Apply: carried out under a context that has ended")
	}
	if seen, err := s.Point.Observe(ctx, s.First); err == nil && seen.Known && seen.Segment == fleet.Restricted {
		t.Error("the order of a call that had ended is in force")
	}
}

func unknownDevice(t *testing.T, s Setup) {
	seen, err := s.Point.Observe(t.Context(), s.Second)
	if err != nil {
		t.Errorf("Observe: %v", err)
	}
	if seen.Known && seen.Segment != fleet.Production {
		t.Errorf("Observe: got %+v, want production or nothing", seen)
	}
}
