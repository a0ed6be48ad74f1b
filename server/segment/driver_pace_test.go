package segment_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// walked is an outbox that counts attempts, and tells when a round has looked at all orders.
type walked struct {
	*store.Store
	attempts atomic.Int64
	done     chan struct{}
	once     sync.Once
}

func (w *walked) Addresses(ctx context.Context, device string) ([]store.Address, error) {
	w.attempts.Add(1)
	return w.Store.Addresses(ctx, device)
}

func (w *walked) VerifiedOrders(ctx context.Context, point string, after int64, limit int) ([]store.Order, error) {
	defer w.once.Do(func() { close(w.done) })
	return w.Store.VerifiedOrders(ctx, point, after, limit)
}

// patient is a point that takes orders only when the round has looked at all of them.
type patient struct {
	segment.Point
	until chan struct{}
}

func (p patient) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	<-p.until
	return p.Point.Apply(ctx, o)
}

// An order that has waited for a person is still one order when it goes on: nobody tries it twice at the same time.
func TestResumedOrderIsTriedOnceAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		s.breaker.Devices = 2
		one, two := s.admit(1), s.admit(2)
		s.round(s.driver(), 1)
		s.isolate(one)
		s.isolate(two)
		s.round(s.driver(), 1)
		s.want(one.ID, segment.Suspended, store.WaitingBreaker, fleet.Production)
		if _, err := segment.Resume(t.Context(), s.store, one.Product, "ann", "looked", s.now()); err != nil {
			t.Fatal(err)
		}
		outbox := &walked{Store: s.store, done: make(chan struct{})}
		s.round(s.driverOver(outbox, patient{s.net.Point(), outbox.done}), 1)
		if got := outbox.attempts.Load(); got != 2 {
			t.Errorf("a round made %d attempts for two orders", got)
		}
		s.want(one.ID, segment.Verified, "", fleet.Restricted)
		s.want(two.ID, segment.Verified, "", fleet.Restricted)
	})
}

// far is a point in front of many switches, most of which are off: it answers for those after its time.
type far struct {
	segment.Point
	site *site
	live string
}

func (p far) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	if o.Target.Device == p.live {
		return p.Point.Apply(ctx, o)
	}
	p.site.advance(pace.Timeout)
	return segment.Receipt{}, segment.ErrUnreachable
}

// Orders that are tried again and again, each for as long as it may take, hold up no new one: a round ends.
func TestRetriesHoldUpNobody(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := newSite(t, dsn)
		for n := range 100 {
			s.admit(n + 10)
		}
		d := s.admit(1)
		driver := s.driverOver(s.store, far{s.net.Point(), s, d.ID})
		s.round(driver, 1)
		s.want(id(10), segment.Unverified, store.WaitingUnreachable, fleet.Production)
		for range 30 {
			before := s.now()
			if err := driver.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took, most := s.now().Sub(before), time.Duration(2*pace.Parallel+1)*pace.Timeout; took > most {
				t.Fatalf("a round of retries took %s, at most %s: so long a new order waits", took, most)
			}
		}
		s.isolate(d)
		s.round(driver, 1)
		s.want(d.ID, segment.Verified, "", fleet.Restricted)
	})
}
