package segment

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// round is one pass of a Driver. What it reads once, it does not read again.
type round struct {
	driver *Driver
	slots  chan struct{} // bounds the calls to the point
	work   sync.WaitGroup

	mu       sync.Mutex
	breakers map[string]breakerAnswer // by product
}

type breakerAnswer struct {
	state BreakerState
	err   error
}

// pending tries the new orders first, then a stretch of the old ones, so that any number of orders that wait (no address,
// the breaker, a switch that is off) never keeps another one back. The stretch ends after a while, even where every try
// takes its whole time: a new order waits for the tries that are under way, not for all of them.
func (r *round) pending(ctx context.Context) error {
	d := r.driver
	for rows := 0; rows < roundRows; rows += pageSize {
		page, err := d.store.PendingOrdersAfter(ctx, d.point.Name(), d.newest, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read the enforcement orders: %w", err)
		}
		for _, o := range page {
			d.newest = o.ID
			r.try(ctx, o)
		}
		if len(page) < pageSize {
			break
		}
	}
	end := d.now().Add(d.pace.Every)
	for rows := 0; rows < roundRows; rows += pageSize {
		page, err := d.store.PendingOrdersAfter(ctx, d.point.Name(), d.cursor, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read the enforcement orders: %w", err)
		}
		for _, o := range page {
			d.cursor = o.ID
			r.try(ctx, o)
			if d.now().After(end) {
				return nil // the next round goes on from here
			}
		}
		if len(page) < pageSize {
			d.walked()
			break
		}
	}
	return nil
}

// try begins an attempt if the order is due and nobody holds it back.
func (r *round) try(ctx context.Context, o store.Order) {
	d := r.driver
	now := d.now()
	t, due := d.due(o, now)
	if !due || ctx.Err() != nil {
		return
	}
	suspended, err := r.suspended(ctx, o, t)
	if err != nil {
		d.log.WarnContext(ctx, "cannot ask the breaker: nothing is tightened", "device", o.Device, "error", err)
		d.later(t, d.backoff(t.failed))
		return
	}
	if suspended {
		d.hold(t)
		d.settle(ctx, o, t, outcome{waiting: store.WaitingBreaker, detail: "the mass-quarantine breaker of the product has tripped: look, then 'cordonctl segment resume'"})
		return
	}
	if !d.bucket.AllowN(now, 1) {
		return // the next round
	}
	d.later(t, d.pace.Timeout*4) // nobody begins it twice
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	r.work.Go(func() {
		defer func() { <-r.slots }()
		d.attempt(ctx, o, t)
	})
}

// suspended asks the breaker about an order that tightens. An error means that nobody knows.
func (r *round) suspended(ctx context.Context, o store.Order, t *try) (bool, error) {
	if !o.Tightens || o.Segment != fleet.Restricted {
		return false, nil
	}
	if t.product == "" {
		device, err := r.driver.store.Device(ctx, o.Device)
		if err != nil {
			return false, fmt.Errorf("cannot load the device: %w", err)
		}
		t.product = device.Product
	}
	if t.product == "" {
		return false, nil
	}
	answer := r.ask(ctx, t.product)
	return answer.state.Suspends(o), answer.err
}

func (r *round) ask(ctx context.Context, product string) breakerAnswer {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, ok := r.breakers[product]
	if ok {
		return answer
	}
	d := r.driver
	var tripped bool
	answer.state, tripped, answer.err = d.breaker.check(ctx, d.store, product, d.now())
	if tripped {
		d.log.ErrorContext(ctx, "the mass-quarantine breaker has tripped: tightening network orders wait for 'cordonctl segment resume'; the door, certificates and offers still refuse",
			"product", product, "devices", answer.state.Devices, "active", answer.state.Active)
	}
	if d.metrics != nil && answer.err == nil {
		value := 0.0
		if answer.state.Tripped() {
			value = 1
		}
		d.metrics.SegmentBreaker.WithLabelValues(product).Set(value)
	}
	r.breakers[product] = answer
	return answer
}

// outcome is what an attempt has found out.
type outcome struct {
	acked    time.Time
	verified time.Time
	observed Observation
	waiting  store.Waiting
	detail   string
}

// attempt carries one order out, reads it back and writes down how far it came.
func (d *Driver) attempt(ctx context.Context, o store.Order, t *try) {
	if t.since.IsZero() {
		t.since = d.now()
	}
	out, err := d.carryOut(ctx, o, t)
	if ctx.Err() != nil {
		return // the server stops: the rows say where to go on
	}
	if err != nil {
		d.log.WarnContext(ctx, "cannot try an enforcement order", "device", o.Device, "error", err)
		out = outcome{}
	}
	if out.verified.IsZero() {
		t.failed++
		wait := d.backoff(t.failed - 1)
		if out.waiting == store.WaitingDiffers {
			wait = min(wait, d.pace.Reapply/2)
		}
		d.later(t, wait)
	}
	if err == nil {
		d.settle(ctx, o, t, out)
	}
}

// carryOut applies and observes. The error is ours; what the point says is in the outcome.
func (d *Driver) carryOut(ctx context.Context, o store.Order, t *try) (outcome, error) {
	target, shared, err := locate(ctx, d.store, o.Device)
	if err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.pace.Timeout)
	defer cancel()
	var out outcome
	if t.applied.IsZero() || d.now().Sub(t.applied) >= d.pace.Reapply {
		receipt, err := d.point.Apply(ctx, Order{Target: target, Segment: o.Segment, Epoch: o.Epoch, At: o.At})
		d.note(unlessAddress(err))
		if err != nil {
			return d.failed(err, shared), nil
		}
		t.applied, out.acked, out.detail = d.now(), d.now(), receipt.Detail
		if receipt.Epoch > o.Epoch {
			out.waiting = store.WaitingNewer
			out.detail = fmt.Sprintf("the point holds order %d, newer than this one", receipt.Epoch)
			return out, nil
		}
	}
	seen, err := d.point.Observe(ctx, target)
	d.note(unlessAddress(err))
	if err != nil {
		t.applied = time.Time{} // it may have lost the order as well
		failed := d.failed(err, shared)
		failed.acked = out.acked
		return failed, nil
	}
	out.observed = seen
	switch differs := differs(o, seen, t.since); {
	case differs != "":
		out.waiting, out.detail = store.WaitingDiffers, differs
	case len(shared) > 0:
		out.waiting, out.detail = store.WaitingShared, sharedDetail(shared)
	default:
		out.verified = d.now()
		if seen.Detail != "" {
			out.detail = seen.Detail
		}
	}
	return out, nil
}

// differs says what the network shows instead of the order, "" when it shows the order. What was seen before the first
// attempt proves nothing about it.
func differs(o store.Order, seen Observation, since time.Time) string {
	switch {
	case !seen.Known:
		return "the point has taken the order, and has not shown the device since"
	case seen.At.Before(since):
		return "the point has taken the order; what it shows is older"
	case seen.Segment != o.Segment:
		return fmt.Sprintf("the network shows the device in %s", seen.Segment)
	case seen.Epoch != 0 && seen.Epoch != o.Epoch:
		return fmt.Sprintf("the network shows order %d", seen.Epoch)
	}
	return ""
}

func sharedDetail(shared []string) string {
	return strings.Join(shared, ", ") + " belongs to other devices as well: an order for it would hit them, so it is left out"
}

func unlessAddress(err error) error {
	if errors.Is(err, ErrNoAddress) {
		return nil
	}
	return err
}

// failed puts the error of a point into a word.
func (d *Driver) failed(err error, shared []string) outcome {
	switch {
	case errors.Is(err, ErrNoAddress) && len(shared) > 0:
		return outcome{waiting: store.WaitingShared, detail: sharedDetail(shared)}
	case errors.Is(err, ErrNoAddress):
		return outcome{waiting: store.WaitingAddress, detail: "no " + string(d.point.Selector()) + " known: 'cordonctl inventory set' takes one"}
	case errors.Is(err, ErrRefused):
		return outcome{waiting: store.WaitingRefused, detail: err.Error()}
	}
	return outcome{waiting: store.WaitingUnreachable, detail: err.Error()}
}

// quietReads is how often an order may be read back before a difference is said: networks take a moment.
const quietReads = 3

// settle writes down what is new about an order, if anything is.
func (d *Driver) settle(ctx context.Context, o store.Order, t *try, out outcome) {
	now := d.now()
	detail := plain(out.detail)
	w := store.SettleOrder{ID: o.ID, Verified: out.verified, Detail: detail, Waiting: out.waiting}
	if o.Acked.IsZero() {
		w.Acked = out.acked
	}
	if out.observed.Known && out.observed.Segment != o.Observed || !out.verified.IsZero() {
		w.Observed, w.ObservedAt = out.observed.Segment, out.observed.At
	}
	if out.waiting == store.WaitingDiffers && t.failed < quietReads && !told(o.Waiting) {
		w.Waiting, w.Detail, detail = store.WaitingNothing, "", ""
	}
	if w.Acked.IsZero() && w.Verified.IsZero() && w.Observed == "" && w.Waiting == o.Waiting && detail == o.Detail {
		return
	}
	change := store.Change{Writes: []store.Write{w}}
	if e, ok := d.event(o, w, now); ok {
		change.Events = append(change.Events, e)
	}
	crash.Here(crash.PointSeen)
	err := d.store.Commit(ctx, change)
	crash.Here(crash.PointSettled)
	switch {
	case errors.Is(err, store.ErrConflict): // settled or superseded by somebody else
		d.forget(o.ID)
	case err != nil:
		d.log.WarnContext(ctx, "cannot settle an enforcement order", "device", o.Device, "error", err)
	case !out.verified.IsZero():
		d.forget(o.ID)
		if d.metrics != nil {
			d.metrics.SegmentSeconds.WithLabelValues(o.Point).Observe(out.verified.Sub(o.At).Seconds())
		}
	case w.Waiting != o.Waiting && told(w.Waiting):
		d.log.WarnContext(ctx, "an enforcement order is not verified", "device", o.Device, "segment", o.Segment, "epoch", o.Epoch, "waiting", w.Waiting, "detail", detail)
	}
}

// event is the receipt of a verified order, or the first word that one could not be verified.
func (d *Driver) event(o store.Order, w store.SettleOrder, now time.Time) (store.Event, bool) {
	acked := o.Acked
	if acked.IsZero() {
		acked = w.Acked
	}
	data := map[string]any{"point": o.Point, "segment": o.Segment, "epoch": o.Epoch, "requested": o.At.UTC()}
	if !acked.IsZero() {
		data["acked"] = acked.UTC()
	}
	if w.Detail != "" {
		data["detail"] = w.Detail
	}
	e := store.Event{At: now, Actor: "server", Subject: o.Device, Data: data}
	switch {
	case !w.Verified.IsZero():
		e.Type, data["verified"] = audit.SegmentVerified, w.Verified.UTC()
	case told(w.Waiting) && !told(o.Waiting):
		e.Type, data["waiting"] = audit.SegmentUnverified, string(w.Waiting)
	default:
		return store.Event{}, false
	}
	return e, true
}

// told says that the order has failed so that somebody should know.
func told(w store.Waiting) bool { return w != store.WaitingNothing && w != store.WaitingBreaker }

const maxDetail = 512 // bytes of what a point says that are kept

// plain makes the text of a point fit for the database and a terminal.
func plain(text string) string {
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	if len(text) <= maxDetail {
		return text
	}
	cut := maxDetail
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
