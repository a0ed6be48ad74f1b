//go:build device

package device_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

// killPoints are where the agent is killed on the way from its first start to a proven update, in this order, once each.
// An empty one is a start without harm: the one that restarts the machine.
func killPoints() []string {
	return []string{
		"agent.enroll.counter_made", "agent.enroll.answered", "agent.enroll.base_anchored",
		"agent.poll.stored", "agent.poll.answered", "agent.poll.forgotten",
		"agent.update.bundle_kept", "agent.update.journal_begun", "agent.update.slot_synced", "agent.update.slot_synced:3",
		"agent.update.offset_kept", "agent.update.verified", "agent.update.activated", "agent.update.staged", "agent.update.rebooting", "",
		"agent.poll.stored", "agent.poll.answered", "agent.commit.slot", "agent.commit.counter", "agent.commit.recorded",
	}
}

// agentKilled kills the agent without warning in every phase; the first process starts it again each time. At last it is
// killed while it idles.
func agentKilled(t *testing.T, n *narrator) string {
	f := labFleet(t)
	points := killPoints()
	labImage(t, f, "1", points...)
	labImage(t, f, "2")
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(*device.Config) {})
	ctx := bounded(t)
	from := mark(t, m)
	f.Publish("2")
	boot := event(t, ctx, m, from, "boot")
	n.saw("restarted into version %s", boot.Fields["version"])
	f.WaitSeen(ctx, m, id, "the proof of the update", proven("2"))
	committed(t, m)
	survived := deaths(t, n, m, points)
	before := mark(t, m)
	must(t, m.Command(ctx, "kill"))
	seen := f.Seen(id)
	f.WaitSeen(ctx, m, id, "a poll after the last kill", provenSince(seen))
	if ended, err := m.WaitText(ctx, before, `ended="killed"`); err != nil {
		t.Error(err)
	} else {
		n.saw("killed while it idled, and back: %s", strings.TrimSpace(ended))
		survived++
	}
	enrolled := 0
	for _, e := range f.Report().Events {
		if e.Type == "device.enrolled" && e.Subject == id {
			enrolled++
		}
	}
	must(t, m.PowerOff(ctx))
	f.Stage.Report()
	return fmt.Sprintf("%d of %d kills survived, 2 proven, %s, %s", survived, len(points)-1+1,
		choose(enrolled == 1, "enrolled once", fmt.Sprint("enrolled ", enrolled, " times")), quarantined(f, id))
}

// deaths counts the points that the agent died at.
func deaths(t *testing.T, n *narrator, m *device.Machine, points []string) int {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	at, count := 0, 0
	for _, point := range points {
		if point == "" {
			continue
		}
		next := at
		for next < len(lines) && !strings.Contains(lines[next].Text, died(point)) {
			next++
		}
		if next == len(lines) {
			t.Errorf("the agent never died at %s", point)
			continue
		}
		at, count = next+1, count+1
		n.saw("killed at %s", point)
	}
	return count
}
