//go:build device

package device_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

// cutAt is a moment of an update at which the plug is pulled.
type cutAt struct {
	what  string
	point string // step that the agent dies at just before; empty: see waits
	trial bool   // the step belongs to the first boot of the new release
	waits func(version string) func(device.Line) bool
}

func saying(text string) func(string) func(device.Line) bool {
	return func(string) func(device.Line) bool {
		return func(l device.Line) bool { return strings.Contains(l.Text, text) }
	}
}

func cuts() []cutAt {
	return []cutAt{
		{what: "while it downloads", point: "agent.update.offset_kept"},
		{what: "bytes are on the disk that no journal knows of", point: "agent.update.slot_synced:2"},
		{what: "the whole image is written", point: "agent.update.verified"},
		{what: "the image has its name in EFI/Linux", point: "agent.update.activated"},
		{what: "before the restart", point: "agent.update.rebooting"},
		{what: "in the firmware, after the restart", waits: saying("BdsDxe: starting")},
		{what: "the boot loader has counted, the kernel is up", waits: func(version string) func(device.Line) bool {
			return func(l device.Line) bool {
				return l.Event != nil && l.Event.Name == "boot" && l.Event.Fields["version"] == version
			}
		}},
		{what: "in the trial, before it proves anything", point: "agent.poll.stored", trial: true},
		{what: "in the trial, an answer is there, nothing is blessed", point: "agent.poll.answered:2", trial: true},
		{what: "blessed, the release counter is not raised", point: "agent.commit.slot", trial: true},
		{what: "the release counter is raised, the state does not know", point: "agent.commit.counter", trial: true},
	}
}

// powerCuts takes one machine through one update after the other and pulls the plug once in each.
func powerCuts(t *testing.T, n *narrator) string {
	f := labFleet(t)
	labImage(t, f, "1")
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(*device.Config) {})
	survived := 0
	for i, c := range cuts() {
		version := strconv.Itoa(i + 2)
		labImage(t, f, version)
		said := cutDuring(t, f, m, c, version)
		d := f.Seen(id)
		n.saw("power cut: %s (%s); the server knows %s, offers %s", c.what, said, d.Proven, d.Offered)
		from := mark(t, m)
		ctx := switchOn(t, m)
		event(t, ctx, m, from, "agent") // the server may know the proof already
		d = f.WaitSeen(ctx, m, id, "the proof of version "+version, proven(version))
		committed(t, m)
		n.saw("   came back and ended on %s, %s; boots since: %s", d.Proven, d.Standing, bootsAfter(t, m, from))
		if d.Standing == "affirmed" && d.Quarantine == nil {
			survived++
		}
	}
	must(t, m.PowerOff(bounded(t)))
	n.saw("the TPM's lockout counter after %d cuts: %d", len(cuts()), lockoutCounter(t, m))
	f.Stage.Report()
	return fmt.Sprintf("%d of %d updates proven, %s", survived, len(cuts()), quarantined(f, id))
}

// cutDuring publishes a version and pulls the plug at its moment. It returns the line that told it.
func cutDuring(t *testing.T, f *device.Fleet, m *device.Machine, c cutAt, version string) string {
	t.Helper()
	ctx := bounded(t)
	from := mark(t, m)
	if c.point != "" {
		arm(t, ctx, m, c.point, !c.trial)
		c.waits = saying(died(c.point))
	} else {
		c.waits = afterLeaving(c.waits)
	}
	f.Publish(version)
	l, err := m.Wait(ctx, from, "the moment: "+c.what, c.waits(version))
	must(t, err)
	m.PowerCut()
	return strings.TrimSpace(l.Text)
}

// afterLeaving waits for the machine to restart first.
func afterLeaving(waits func(string) func(device.Line) bool) func(string) func(device.Line) bool {
	return func(version string) func(device.Line) bool {
		left, wanted := false, waits(version)
		return func(l device.Line) bool {
			left = left || l.Event != nil && l.Event.Name == "leave"
			return left && wanted(l)
		}
	}
}

// committed waits until the agent has nothing left to do for the running version: its image has a name without a count, and the
// journal is gone.
func committed(t *testing.T, m *device.Machine) {
	t.Helper()
	ctx := bounded(t)
	for {
		left := shell(t, ctx, m, "ls /data/cordon/journal.json /esp/EFI/Linux/*+*.efi 2>/dev/null | wc -l")
		if left == "0" {
			return
		}
	}
}

// bootsAfter are the releases whose first process came up after a mark, in order.
func bootsAfter(t *testing.T, m *device.Machine, from device.Mark) string {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	var out []string
	for _, l := range lines[int(from):] {
		if l.Event != nil && l.Event.Name == "boot" {
			out = append(out, l.Event.Fields["version"])
		}
	}
	return strings.Join(out, " ")
}
