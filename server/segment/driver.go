package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/observe"
	"github.com/cordon-ota/cordon/server/store"
)

// Outbox is what a Driver reads and writes; contract as in package store. Every read is of committed state.
type Outbox interface {
	Places
	Breakers
	Queue
	Device(ctx context.Context, id string) (fleet.Device, error)
}

// Queue lists the orders of a point.
type Queue interface {
	PendingOrdersAfter(ctx context.Context, point string, after int64, limit int) ([]store.Order, error)
	VerifiedOrders(ctx context.Context, point string, after int64, limit int) ([]store.Order, error)
	UnorderedDevices(ctx context.Context, point, after string, limit int) ([]fleet.Device, error)
	Counter
}

// Pace is how hard a Driver works.
type Pace struct {
	Every     time.Duration // between two rounds when nothing wakes it
	Timeout   time.Duration // of one call to the point
	Parallel  int           // calls to the point at the same time
	Rate      float64       // calls per second
	Burst     int           // calls at once after a pause
	RetryMin  time.Duration // after a failure; doubles
	RetryMax  time.Duration
	Reapply   time.Duration // an order that the network does not show is sent again after this
	Reconcile time.Duration // every verified order is read back this often
}

// DefaultPace is what a configuration starts from.
var DefaultPace = Pace{
	Every: time.Second, Timeout: 10 * time.Second, Parallel: 8, Rate: 100, Burst: 100,
	RetryMin: 200 * time.Millisecond, RetryMax: 30 * time.Second, Reapply: 10 * time.Second, Reconcile: time.Minute,
}

const (
	pageSize  = 256
	roundRows = 1024 // pending orders that a round looks at beside the new ones

	countEvery  = 5  // rounds between two counts of open orders
	searchEvery = 10 // readings back between two searches for devices without orders
)

// Driver brings one network point to where the outbox says it should be: it carries the pending orders out, reads back until
// the network shows them, settles them, and goes on reading back.
//
// The rows are its only memory: it may be killed between any two steps, and another one, here or in another replica, takes
// over from them. Several may drive the same point; epochs at the point and versions in the database keep that harmless.
type Driver struct {
	point   Point
	store   Outbox
	breaker Breaker
	pace    Pace
	floor   int64
	now     func() time.Time
	log     *slog.Logger
	metrics *observe.Metrics
	wake    chan struct{}
	bucket  *rate.Limiter

	// Owned by the goroutine of Run (or the caller of Round).
	newest, cursor int64 // ids of pending orders: what has been seen, where the walk over the old ones is
	walk           int   // number of the walk
	verified       int64 // where the reading back of verified orders is
	reading        bool  // a reading back has begun
	nextRead       time.Time
	adopted        string // where the search for devices without orders is
	nextSearch     time.Time
	nextCount      time.Time

	mu     sync.Mutex
	tries  map[int64]*try // by order id
	status PointStatus
}

// try is what a driver remembers of an order between two attempts. One goroutine at a time owns it.
type try struct {
	product string
	since   time.Time // of the first attempt in this process: older observations prove nothing
	applied time.Time // the last Apply that the point took
	failed  int       // attempts without success in a row
	next    time.Time
	held    bool // by the breaker: it is asked again in every round, so that the order goes on as soon as a person lets it
	walk    int  // the walk that last saw the order
}

// PointStatus is how a point was last found, by this process.
type PointStatus struct {
	OK     time.Time // the last call that the point answered
	Failed time.Time // the last call that it did not, or refused
	Error  string    // of that call
}

// Drive says what a Driver works with.
type Drive struct {
	Point   Point
	Store   Outbox
	Breaker Breaker
	Pace    Pace
	Floor   int64 // epochs at or below it were given before a restore (fleet.Terms.Epoch)
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *observe.Metrics // Optional
}

// NewDriver makes the driver of a point; it does nothing before Run or Round.
func NewDriver(c Drive) *Driver {
	return &Driver{
		point: c.Point, store: c.Store, breaker: c.Breaker, pace: c.Pace, floor: c.Floor, now: c.Now, log: c.Log.With("point", c.Point.Name()),
		metrics: c.Metrics, wake: make(chan struct{}, 1), bucket: rate.NewLimiter(rate.Limit(c.Pace.Rate), c.Pace.Burst), tries: map[int64]*try{},
	}
}

// Point returns the point that it drives.
func (d *Driver) Point() Point { return d.point }

// Status returns how the point was last found.
func (d *Driver) Status() PointStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// Wake asks for a round now. It never blocks.
func (d *Driver) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run works until the context ends. Whatever a round cannot do, the next one tries again.
func (d *Driver) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.wake:
		}
		if err := d.Round(ctx); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "cannot drive the enforcement point", "error", err)
		}
		timer.Reset(d.pause())
	}
}

// pause is how long to wait for the next attempt that is due, at most Every.
func (d *Driver) pause() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait, now := d.pace.Every, d.now()
	for _, t := range d.tries {
		wait = min(wait, t.next.Sub(now))
	}
	return max(wait, d.pace.RetryMin/4)
}

// Round tries every pending order that is due, and reads some verified ones back.
func (d *Driver) Round(ctx context.Context) error {
	round := &round{driver: d, breakers: map[string]breakerAnswer{}, slots: make(chan struct{}, d.pace.Parallel)}
	err := errors.Join(d.adopt(ctx), round.pending(ctx), round.reconcile(ctx))
	round.work.Wait()
	return errors.Join(err, d.measure(ctx))
}

// measure counts what is open.
func (d *Driver) measure(ctx context.Context) error {
	if d.metrics == nil || d.now().Before(d.nextCount) {
		return nil
	}
	d.nextCount = d.now().Add(countEvery * d.pace.Every)
	sums, err := CountOpen(ctx, d.store, d.point.Name())
	if err != nil {
		return err
	}
	for _, s := range []State{Requested, Acknowledged, Suspended, Unverified} {
		d.metrics.SegmentOrders.WithLabelValues(d.point.Name(), string(s)).Set(float64(sums[s]))
	}
	return nil
}

// Counter counts the open orders of a point; contract as in package store.
type Counter interface {
	OrderCounts(ctx context.Context, point string) ([]store.OrderCount, error)
}

// CountOpen counts the open orders of a point by state.
func CountOpen(ctx context.Context, s Counter, point string) (map[State]int64, error) {
	counts, err := s.OrderCounts(ctx, point)
	if err != nil {
		return nil, fmt.Errorf("cannot count orders: %w", err)
	}
	sums := map[State]int64{}
	for _, c := range counts {
		o := store.Order{Waiting: c.Waiting}
		if c.Acked {
			o.Acked = time.Unix(1, 0)
		}
		sums[StateOf(o)] += c.Orders
	}
	return sums, nil
}

// State is how far an order has come.
type State string

// The states.
const (
	Requested    State = "requested"    // decided, not sent yet
	Acknowledged State = "acknowledged" // the point has taken it; the network has not shown it yet
	Verified     State = "verified"     // read back from the network
	Unverified   State = "unverified"   // tried without success, and tried again: Waiting says why
	Suspended    State = "suspended"    // held back by the breaker
)

// StateOf says how far an order has come.
func StateOf(o store.Order) State {
	switch {
	case !o.Verified.IsZero():
		return Verified
	case o.Waiting == store.WaitingBreaker:
		return Suspended
	case o.Waiting != store.WaitingNothing:
		return Unverified
	case !o.Acked.IsZero():
		return Acknowledged
	}
	return Requested
}

// due returns the try of an order if an attempt may begin now, and takes it until done.
func (d *Driver) due(o store.Order, now time.Time) (*try, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tries[o.ID]
	if t == nil {
		t = &try{next: now}
		d.tries[o.ID] = t
	}
	t.walk = d.walk
	return t, t.held || !now.Before(t.next)
}

// later plans the next attempt; forget ends the tries of an order that is settled or superseded.
func (d *Driver) later(t *try, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t.next, t.held = d.now().Add(after), false
}

// hold leaves an order to the next round, because the breaker suspends it.
func (d *Driver) hold(t *try) {
	d.later(t, d.pace.Every)
	d.mu.Lock()
	defer d.mu.Unlock()
	t.held = true
}

func (d *Driver) forget(id int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tries, id)
}

// walked begins a new walk over the pending orders and drops the tries of those that two walks have not seen.
func (d *Driver) walked() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, t := range d.tries {
		if t.walk < d.walk-1 {
			delete(d.tries, id)
		}
	}
	d.walk++
	d.cursor = 0
}

// backoff doubles from RetryMin to RetryMax, half of it random, so that devices and replicas spread.
func (d *Driver) backoff(failed int) time.Duration {
	wait := d.pace.RetryMin << min(failed, 20)
	if wait > d.pace.RetryMax || wait <= 0 {
		wait = d.pace.RetryMax
	}
	return wait/2 + rand.N(wait/2+1)
}

// note keeps how a call to the point ended.
func (d *Driver) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.status.OK = d.now()
		return
	}
	d.status.Failed, d.status.Error = d.now(), plain(err.Error())
}
