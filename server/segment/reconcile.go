package segment

import (
	"context"
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// reconcile reads verified orders back, as many as the pace allows: what somebody changed at the point by hand, what a
// reboot of the point lost, what a moved device left behind, is put right again and told to the audit log.
func (r *round) reconcile(ctx context.Context) error {
	d := r.driver
	if !d.reading {
		if d.now().Before(d.nextRead) {
			return nil
		}
		d.reading, d.verified, d.nextRead = true, 0, d.now().Add(d.pace.Reconcile)
	}
	page, err := d.store.VerifiedOrders(ctx, d.point.Name(), d.verified, pageSize)
	if err != nil {
		return fmt.Errorf("cannot read the verified orders: %w", err)
	}
	end := d.now().Add(d.pace.Every)
	for _, o := range page {
		if d.now().After(end) || !d.bucket.AllowN(d.now(), 1) {
			return nil // goes on from here in the next round
		}
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		d.verified = o.ID
		r.work.Go(func() {
			defer func() { <-r.slots }()
			if err := d.readBack(ctx, o); err != nil && ctx.Err() == nil {
				d.log.WarnContext(ctx, "cannot read an enforcement order back", "device", o.Device, "error", err)
			}
		})
	}
	d.reading = len(page) == pageSize
	return nil
}

// readBack opens a verified order again when the network shows something else. No answer of the point is no drift.
func (d *Driver) readBack(ctx context.Context, o store.Order) error {
	target, shared, err := locate(ctx, d.store, o.Device)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, d.pace.Timeout)
	defer cancel()
	w := store.ReopenOrder{ID: o.ID, Verified: o.Verified, Observed: o.Observed, ObservedAt: o.ObservedAt}
	seen, err := d.point.Observe(call, target)
	d.note(unlessAddress(err))
	switch {
	case errors.Is(err, ErrNoAddress):
		failed := d.failed(err, shared)
		w.Waiting, w.Detail = failed.waiting, failed.detail
	case err != nil:
		return err
	case len(shared) > 0:
		w.Waiting, w.Detail = store.WaitingShared, sharedDetail(shared)
	case !seen.Known || seen.At.Before(o.Verified):
		return nil // nothing newer than what was verified
	default:
		if w.Detail = differs(o, seen, o.Verified); w.Detail == "" {
			return nil
		}
		w.Observed, w.ObservedAt = seen.Segment, seen.At
	}
	return d.reopen(ctx, o, w)
}

func (d *Driver) reopen(ctx context.Context, o store.Order, w store.ReopenOrder) error {
	now := d.now()
	err := d.store.Commit(ctx, store.Change{
		Writes: []store.Write{w},
		Events: []store.Event{{At: now, Type: audit.SegmentDrifted, Actor: "server", Subject: o.Device, Data: map[string]any{
			"point": o.Point, "segment": o.Segment, "epoch": o.Epoch, "verified": o.Verified.UTC(), "observed": w.Observed, "detail": w.Detail,
		}}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // a newer order, or another replica saw it too
	}
	if err != nil {
		return fmt.Errorf("cannot open an order again: %w", err)
	}
	d.log.WarnContext(ctx, "an enforcement point has drifted: the order is carried out again", "device", o.Device, "segment", o.Segment, "detail", w.Detail)
	if d.metrics != nil {
		d.metrics.SegmentDrift.WithLabelValues(o.Point).Inc()
	}
	d.Wake()
	return nil
}

// adopt orders what is in force at this point for active devices that it has no order for: the point is new, the epochs
// were raised after a restore, or another replica does not know the point.
func (d *Driver) adopt(ctx context.Context) error {
	if d.adopted == "" && d.now().Before(d.nextSearch) {
		return nil
	}
	d.nextSearch = d.now().Add(searchEvery * d.pace.Reconcile)
	devices, err := d.store.UnorderedDevices(ctx, d.point.Name(), d.adopted, pageSize)
	if err != nil {
		return fmt.Errorf("cannot look for devices without orders: %w", err)
	}
	for _, device := range devices {
		if err := d.adoptDevice(ctx, device); err != nil {
			return err
		}
		d.adopted = device.ID
	}
	if len(devices) < pageSize {
		d.adopted = ""
	}
	return nil
}

func (d *Driver) adoptDevice(ctx context.Context, device fleet.Device) error {
	if device.Epoch > 0 && device.Epoch <= d.floor {
		return nil // its first order after the restore comes with its proof, or at once if it must be restricted
	}
	change := store.Change{Expect: []store.Expect{{Table: store.Devices, Key: device.ID, Version: device.Version}}}
	if device.Epoch == 0 {
		device.Epoch = d.floor + 1
		change.Writes = append(change.Writes, store.PutDevice{Device: device})
	}
	change.Orders = []store.Order{{
		Device: device.ID, Segment: device.Segment, Epoch: device.Epoch, Point: d.point.Name(), At: d.now(),
		Tightens: device.Segment == fleet.Restricted && !device.ProvenAt.IsZero(),
	}}
	change.Events = []store.Event{{At: d.now(), Type: audit.SegmentOrdered, Actor: "server", Subject: device.ID, Data: map[string]any{
		"segment": device.Segment, "epoch": device.Epoch, "points": []string{d.point.Name()},
	}}}
	err := d.store.Commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		return nil // it has just changed: the next search sees it
	}
	if err != nil {
		return fmt.Errorf("cannot order a device: %w", err)
	}
	return nil
}
