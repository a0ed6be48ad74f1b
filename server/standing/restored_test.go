package standing_test

import (
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// After a restore the network may hold newer orders than the database knows. What restricts is ordered again at once, what
// loosens after the device's proof, each once and above all numbers of before.
func TestOrdersAgainAfterARestore(t *testing.T) {
	t.Parallel()
	const lost = 1 << 40
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	rules := standing.Rules{Terms: fleet.Terms{Lease: time.Hour, Grace: time.Hour, Epoch: lost}, Points: []string{"switch"}}
	stale := fleet.Device{ID: "a", Lifecycle: fleet.Active, Standing: fleet.Stale, StaleSince: at, Segment: fleet.Production, Epoch: 7}
	affirmed := stale
	affirmed.Standing, affirmed.LeaseUntil = fleet.Affirmed, at.Add(time.Hour)
	quarantined := stale
	quarantined.Standing, quarantined.Segment = fleet.Refused, fleet.Restricted
	q := &fleet.Quarantine{ID: "q", Device: "a", Since: at}
	for name, row := range map[string]struct {
		device fleet.Device
		q      *fleet.Quarantine
		orders int
	}{
		"in its grace":  {stale, nil, 0},
		"proven":        {affirmed, nil, 1},
		"in quarantine": {quarantined, q, 1},
	} {
		var change store.Change
		d := row.device
		rules.Close(&change, &d, row.q, "server", at)
		if len(change.Orders) != row.orders {
			t.Errorf("%s: got orders %+v, want %d", name, change.Orders, row.orders)
			continue
		}
		for _, o := range change.Orders {
			if o.Epoch <= lost || o.Segment != d.Segment || o.Point != "switch" {
				t.Errorf("%s: got order %+v, want one above %d", name, o, int64(lost))
			}
		}
		if row.orders > 0 && rules.Moves(d, row.q, at) {
			t.Errorf("%s: it would be ordered a second time", name)
		}
	}
	rules.Terms.Epoch = 0
	if rules.Moves(affirmed, nil, at) {
		t.Error("without a restore a device is ordered again")
	}
}
