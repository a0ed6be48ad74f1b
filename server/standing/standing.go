// Package standing writes a decision about a device down as one store.Change: events, quarantine, update record, device
// row and the enforcement orders that follow from it.
//
// It is the only way from a fleet.Step to the database: polls, enrollment, people and the sweeper all take it, so that no
// segment change goes without its order at every enforcement point, in the same transaction.
//
// Trusted like fleet: an attacker who controls this code can keep a compromised device in production.
package standing

import (
	"time"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Door is the artifact door as an enforcement point: it refuses and it cuts open streams. It is always there.
const Door = "door"

// Rules are what every decision is written down with.
type Rules struct {
	Terms  fleet.Terms
	Points []string // the network enforcement points, by their configured names
}

// Take adds a step of fleet to the change: its events, quarantine and update record. d and q become what they are after
// it; q is nil when the device is in none. Close has to follow.
func Take(change *store.Change, d *fleet.Device, q **fleet.Quarantine, step fleet.Step, actor string, now time.Time) {
	before := *d
	*d = step.Device
	for _, f := range step.Facts {
		change.Events = append(change.Events, store.Event{At: now, Type: f.Type, Actor: actor, Subject: d.ID, Data: f.Data})
	}
	if step.Quarantine != nil {
		var version int64
		if *q != nil && (*q).ID == step.Quarantine.ID {
			version = (*q).Version
		}
		change.Expect = append(change.Expect, store.Expect{Table: store.Quarantines, Key: step.Quarantine.ID, Version: version})
		change.Writes = append(change.Writes, store.PutQuarantine{Quarantine: *step.Quarantine})
		if *q = step.Quarantine; !step.Quarantine.EndedAt.IsZero() {
			*q = nil
		}
	}
	if step.Update != "" {
		change.Writes = append(change.Writes, store.CloseUpdate{Device: d.ID, Result: step.Update, At: now, Evidence: d.LastEvidence})
	}
	if d.Offered != "" && d.Offered != before.Offered {
		change.Writes = append(change.Writes, store.AddUpdate{Update: store.Update{
			Device: d.ID, Product: d.Product, From: d.Proven, To: d.Offered, OfferedAt: now, Result: "open",
		}})
	}
}

// Moves reports whether Close would write orders.
func (r Rules) Moves(d fleet.Device, q *fleet.Quarantine, now time.Time) bool {
	return fleet.SegmentOf(d, q, now, r.Terms) != d.Segment || r.isFirst(d) || r.isAgain(d, q, now)
}

// isAgain says that the network has to be told once more after a restore: it may have seen orders that the server has
// forgotten. What restricts is said at once. What loosens waits for a proof: a quarantine may be among what was forgotten.
func (r Rules) isAgain(d fleet.Device, q *fleet.Quarantine, now time.Time) bool {
	if d.Epoch == 0 || d.Epoch > r.Terms.Epoch {
		return false
	}
	return fleet.SegmentOf(d, q, now, r.Terms) == fleet.Restricted || d.Standing == fleet.Affirmed
}

// isFirst says that the network points have never been told about a claimed device. The door needs no such order: it
// decides from the device's row.
func (r Rules) isFirst(d fleet.Device) bool {
	return len(r.Points) > 0 && d.Epoch == 0 && d.Lifecycle == fleet.Active
}

// Close completes the change: the device row, guarded by the version that was read, and, when the device belongs into
// another segment than the one last ordered, the next epoch with one order for the door and each network point.
func (r Rules) Close(change *store.Change, d *fleet.Device, q *fleet.Quarantine, actor string, now time.Time) {
	if r.Moves(*d, q, now) {
		r.order(change, d, fleet.SegmentOf(*d, q, now, r.Terms), actor, now)
	}
	change.Expect = append(change.Expect, store.Expect{Table: store.Devices, Key: d.ID, Version: d.Version})
	change.Writes = append(change.Writes, store.PutDevice{Device: *d})
}

func (r Rules) order(change *store.Change, d *fleet.Device, segment fleet.Segment, actor string, now time.Time) {
	moved := segment != d.Segment
	d.Segment = segment
	d.Epoch = max(d.Epoch, r.Terms.Epoch) + 1
	order := store.Order{Device: d.ID, Segment: segment, Epoch: d.Epoch, At: now, Tightens: moved && segment == fleet.Restricted}
	data := map[string]any{"segment": segment, "epoch": d.Epoch}
	if moved {
		order.Point = Door
		change.Orders = append(change.Orders, order)
	}
	for _, point := range r.Points {
		order.Point = point
		change.Orders = append(change.Orders, order)
	}
	if len(r.Points) > 0 {
		data["points"] = r.Points
	}
	change.Events = append(change.Events, store.Event{At: now, Type: audit.SegmentOrdered, Actor: actor, Subject: d.ID, Data: data})
}

// Reorder asks every network point again for what is in force for the device, because it is somewhere else in the network
// by now. The epoch stays: it is the same decision. A device that was never ordered anywhere gets nothing.
func (r Rules) Reorder(change *store.Change, d fleet.Device, now time.Time) {
	if d.Epoch == 0 {
		return
	}
	for _, point := range r.Points {
		change.Orders = append(change.Orders, store.Order{Device: d.ID, Segment: d.Segment, Epoch: d.Epoch, Point: point, At: now})
	}
}
