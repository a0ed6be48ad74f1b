package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what enforcement reads and writes; contract as in package store.
type Store interface {
	Device(ctx context.Context, id string) (fleet.Device, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	PendingOrders(ctx context.Context, point string, limit int) ([]store.Order, error)
	Commit(ctx context.Context, change store.Change) error
}

// Enforcer carries out the orders of the outbox at the door, reads back that they hold, and settles them. It also holds
// every open stream against the current state again and again, so that a change made by another replica, a hold or the
// end of a lease cuts a download as well.
type Enforcer struct {
	store   Store
	door    *Door
	catalog func() *repository.Catalog
	every   time.Duration
	now     func() time.Time
	log     *slog.Logger
	wake    chan struct{}
	network []*Driver // set before Run
}

// NewEnforcer joins the parts; every is how long it waits between two rounds when nothing wakes it.
func NewEnforcer(s Store, door *Door, catalog func() *repository.Catalog, every time.Duration, now func() time.Time, log *slog.Logger) *Enforcer {
	return &Enforcer{store: s, door: door, catalog: catalog, every: every, now: now, log: log, wake: make(chan struct{}, 1)}
}

// Join makes Wake wake the drivers of the network points as well. It is called before Run.
func (e *Enforcer) Join(drivers ...*Driver) { e.network = append(e.network, drivers...) }

// Wake asks for a round now, at the door and at every network point. It never blocks.
func (e *Enforcer) Wake() {
	for _, d := range e.network {
		d.Wake()
	}
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run works until the context ends.
func (e *Enforcer) Run(ctx context.Context) error {
	tick := time.NewTicker(e.every)
	defer tick.Stop()
	for {
		if err := e.Round(ctx); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "cannot enforce segments", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.wake:
		}
	}
}

const ordersPerRound = 256

// Round cuts what is not allowed any more and settles the open orders.
func (e *Enforcer) Round(ctx context.Context) error {
	swept := e.sweepStreams(ctx)
	orders, err := e.store.PendingOrders(ctx, standing.Door, ordersPerRound)
	if err != nil {
		return errors.Join(swept, fmt.Errorf("cannot read the enforcement orders: %w", err))
	}
	for _, o := range orders {
		if err := e.settle(ctx, o); err != nil {
			return errors.Join(swept, err)
		}
	}
	return swept
}

// sweepStreams re-authorises every open stream. A stream whose state cannot be read is left to its next range: the door
// fails closed there, and an error of ours must not look like a refusal. It keeps no other stream from being cut.
func (e *Enforcer) sweepStreams(ctx context.Context) error {
	catalog := e.catalog()
	verdicts := map[Grant]bool{}
	var failed error
	for _, g := range e.door.Streams() {
		if _, seen := verdicts[g]; seen {
			continue
		}
		ok, err := e.stillAllowed(ctx, catalog, g)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		verdicts[g] = ok
	}
	if n := e.door.Cut(func(g Grant) bool { ok, seen := verdicts[g]; return ok || !seen }); n > 0 {
		e.log.InfoContext(ctx, "cut open streams", "streams", n)
	}
	return failed
}

func (e *Enforcer) stillAllowed(ctx context.Context, catalog *repository.Catalog, g Grant) (bool, error) {
	d, err := e.store.Device(ctx, g.Device)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot load the device: %w", err)
	}
	q, err := store.QuarantineOf(ctx, e.store, g.Device)
	if err != nil {
		return false, err
	}
	p := catalog.Products[d.Product]
	if p == nil {
		return false, nil
	}
	r, ok := p.Release(g.Release)
	if !ok {
		return false, nil
	}
	if d.Lifecycle != fleet.Active {
		return false, nil
	}
	return refused(d, q, p, r, e.now()) == "", nil
}

// settle reads back that no stream against the order is open. The door asks the database for every range, so an order
// holds from the moment it was committed; what is left are streams.
func (e *Enforcer) settle(ctx context.Context, o store.Order) error {
	acked := e.now()
	if o.Segment == fleet.Restricted {
		e.door.Cut(func(g Grant) bool { return g.Device != o.Device || g.Recovery })
	}
	for _, g := range e.door.Streams() {
		if o.Segment == fleet.Restricted && g.Device == o.Device && !g.Recovery {
			return nil // opened in between: the next round looks again
		}
	}
	verified := e.now()
	crash.Here(crash.DoorCut)
	err := e.store.Commit(ctx, store.Change{
		Writes: []store.Write{store.SettleOrder{ID: o.ID, Acked: acked, Verified: verified}},
		Events: []store.Event{{At: verified, Type: audit.SegmentVerified, Actor: "server", Subject: o.Device, Data: map[string]any{
			"point": o.Point, "segment": o.Segment, "epoch": o.Epoch, "requested": o.At.UTC(), "acked": acked.UTC(), "verified": verified.UTC(),
		}}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // another replica settled it
	}
	if err != nil {
		return fmt.Errorf("cannot settle an order: %w", err)
	}
	crash.Here(crash.DoorSettled)
	return nil
}
