package standing_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

var (
	now   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	rules = standing.Rules{Terms: fleet.Terms{Lease: time.Hour, Grace: 24 * time.Hour}, Points: []string{"gate", "switch"}}
)

func affirmed() fleet.Device {
	return fleet.Device{
		ID: "d", Version: 7, Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production, Epoch: 4,
		Proven: "lamp/1", Offered: "lamp/2", OfferedCounter: 2, LeaseUntil: now.Add(time.Hour),
	}
}

// isolated is the change that takes a device out of production.
func isolated(r standing.Rules) (store.Change, fleet.Device, *fleet.Quarantine) {
	var c store.Change
	var q *fleet.Quarantine
	d := affirmed()
	standing.Take(&c, &d, &q, fleet.Isolate(d, nil, "ann", "odd", now), "ann", now)
	r.Close(&c, &d, q, "ann", now)
	return c, d, q
}

// Whatever moves a device goes with an order for the door and every network point, in one change.
func TestEveryPointGetsItsOrder(t *testing.T) {
	t.Parallel()
	c, d, q := isolated(rules)
	want := []store.Order{}
	for _, p := range []string{"door", "gate", "switch"} {
		want = append(want, store.Order{Device: "d", Segment: fleet.Restricted, Epoch: 5, Point: p, At: now, Tightens: true})
	}
	if diff := cmp.Diff(want, c.Orders); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if d.Segment != fleet.Restricted || d.Epoch != 5 || q == nil {
		t.Errorf("got %+v, %+v", d, q)
	}
	expect := []store.Expect{{Table: store.Quarantines, Key: q.ID}, {Table: store.Devices, Key: "d", Version: 7}}
	if diff := cmp.Diff(expect, c.Expect); diff != "" {
		t.Errorf("expects (-want +got):\n%s", diff)
	}
	var kinds []string
	for _, e := range c.Events {
		kinds = append(kinds, e.Type)
		if e.Actor != "ann" || e.Subject != "d" {
			t.Errorf("got event %+v", e)
		}
	}
	if want := []string{audit.QuarantineOpened, audit.SegmentOrdered}; !slices.Equal(kinds, want) {
		t.Errorf("got events %q, want %q", kinds, want)
	}
	wrote := slices.ContainsFunc(c.Writes, func(w store.Write) bool { p, ok := w.(store.PutDevice); return ok && cmp.Equal(p.Device, d) })
	closed := slices.ContainsFunc(c.Writes, func(w store.Write) bool { u, ok := w.(store.CloseUpdate); return ok && u.Result == "superseded" })
	if !wrote || !closed {
		t.Errorf("got writes %+v", c.Writes)
	}
}

func TestWithoutPointsTheDoorAlone(t *testing.T) {
	t.Parallel()
	c, _, _ := isolated(standing.Rules{Terms: rules.Terms})
	if len(c.Orders) != 1 || c.Orders[0].Point != standing.Door {
		t.Errorf("got %+v", c.Orders)
	}
}

func TestWhatDoesNotMoveIsNotOrdered(t *testing.T) {
	t.Parallel()
	var c store.Change
	var q *fleet.Quarantine
	d := affirmed()
	standing.Take(&c, &d, &q, fleet.Offer(d, "lamp/3", 3, now, now.Add(time.Hour)), "d", now)
	if rules.Moves(d, q, now) {
		t.Error("an offer moves the device")
	}
	rules.Close(&c, &d, q, "server", now)
	if len(c.Orders) != 0 || d.Epoch != 4 {
		t.Errorf("got orders %+v, epoch %d", c.Orders, d.Epoch)
	}
	added := slices.ContainsFunc(c.Writes, func(w store.Write) bool { u, ok := w.(store.AddUpdate); return ok && u.Update.To == "lamp/3" })
	if !added {
		t.Errorf("no update record: %+v", c.Writes)
	}
}

func TestLooseningDoesNotTighten(t *testing.T) {
	t.Parallel()
	_, d, q := isolated(rules)
	q.Version = 3
	var c store.Change
	standing.Take(&c, &d, &q, fleet.End(d, *q, now), "bob", now)
	if q != nil {
		t.Error("the quarantine is still open")
	}
	if c.Expect[0].Version != 3 {
		t.Errorf("the quarantine is not guarded: %+v", c.Expect)
	}
	d.Standing, d.LeaseUntil = fleet.Affirmed, now.Add(time.Hour)
	rules.Close(&c, &d, q, "server", now)
	if len(c.Orders) != 3 || slices.ContainsFunc(c.Orders, func(o store.Order) bool { return o.Tightens || o.Segment != fleet.Production || o.Epoch != 6 }) {
		t.Errorf("got %+v", c.Orders)
	}
}

// Until its first proof a claimed device is nobody: the network is told so when it is claimed, and it takes nothing away.
func TestFirstOrderOfAClaimedDevice(t *testing.T) {
	t.Parallel()
	var c store.Change
	var q *fleet.Quarantine
	d := fleet.Device{ID: "d", Lifecycle: fleet.Pending, Standing: fleet.Unproven, Segment: fleet.Restricted}
	rules.Close(&c, &d, q, "server", now)
	if len(c.Orders) != 0 {
		t.Errorf("a pending device is ordered: %+v", c.Orders)
	}
	standing.Take(&c, &d, &q, fleet.Claim(d, fleet.Admission{Product: "lamp"}), "server", now)
	rules.Close(&c, &d, q, "server", now)
	if len(c.Orders) != 2 || c.Orders[0].Point != "gate" || c.Orders[1].Point != "switch" || c.Orders[0].Epoch != 1 || c.Orders[0].Tightens {
		t.Errorf("got %+v, want one for each network point", c.Orders)
	}
}

func TestReorderRepeatsTheSameDecision(t *testing.T) {
	t.Parallel()
	var c store.Change
	rules.Reorder(&c, fleet.Device{ID: "new"}, now)
	if len(c.Orders) != 0 {
		t.Errorf("a device without orders: %+v", c.Orders)
	}
	rules.Reorder(&c, affirmed(), now)
	if len(c.Orders) != 2 || c.Orders[0].Epoch != 4 || c.Orders[0].Segment != fleet.Production || c.Orders[0].Point != "gate" || c.Orders[0].Tightens {
		t.Errorf("got %+v", c.Orders)
	}
}
