//go:build device

package device_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
)

// badReleases publishes a release whose first process gives up, and one whose first process ends, so that the kernel
// panics. systemd-boot's counting takes the machine back each time.
func badReleases(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("1", nil)
	f.Publish("1")
	m, id, first := proveFirst(t, n, f, func(*device.Config) {})
	f.Build("2", func(s *device.ImageSpec) { s.Broken = "it was built to fail" })
	f.Build("3", func(s *device.ImageSpec) {
		s.Files = map[string][]byte{"init": []byte("#!/bin/sh\necho leaving\nexit 1\n")}
	})
	f.Build("4", func(s *device.ImageSpec) { s.Files = map[string][]byte{"etc/motd": []byte("a good one\n")} })
	tried, same, known, again := 0, true, true, false
	for _, version := range []string{"2", "3"} {
		before := mark(t, m)
		f.Publish(version)
		ctx := bounded(t)
		_, err := m.Wait(ctx, before, "the boot of the release before", func(l device.Line) bool {
			return l.Event != nil && l.Event.Name == "boot" && l.Event.Fields["version"] == "1"
		})
		must(t, err)
		fellBack := time.Now()
		said, err := m.WaitText(ctx, before, "used 3 of 3 tries")
		must(t, err)
		n.saw("the machine says: %s", said)
		tried += tries(t, m, version)
		back := lastPCRs(t, m)
		if differ := sameRegisters(t, first, back); len(differ) > 0 {
			same = false
			n.saw("after the fallback PCRs %v differ from the first boot", differ)
		}
		d := f.WaitSeen(ctx, m, id, "the proof of the release before", func(d api.Device) bool {
			return provenAfter("1", fellBack)(d) && causeOf(f, id, version) != ""
		})
		n.saw("after the fallback from %s the server says: proven %s, standing %s; cause: %s", version, d.Proven, d.Standing, causeOf(f, id, version))
		known = known && d.Standing == "affirmed"
		again = again || bootsAgain(t, f, m, id, version)
	}
	f.Publish("4")
	f.WaitSeen(bounded(t), m, id, "the proof of the good release", proven("4"))
	n.saw("versions booted, as far as their first process came: %s", bootsAfter(t, m, 0))
	must(t, m.PowerOff(bounded(t)))
	f.Stage.Report()
	return strings.Join([]string{
		fmt.Sprintf("2 and 3 tried %d times each", tried/2),
		choose(same, "back on 1 with the same PCRs", "back on 1 with other PCRs"),
		choose(known, "the cause known", "the cause not known"),
		choose(again, "offered again", "neither offered again"), "4 proven",
	}, ", ")
}

func choose(yes bool, then, otherwise string) string {
	if yes {
		return then
	}
	return otherwise
}

// tries counts the boots of a version that never got further than its first process: an event of init, or the line that
// a first process prints before it ends.
func tries(t *testing.T, m *device.Machine, version string) int {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	count := 0
	for _, l := range lines {
		broken := l.Event != nil && l.Event.Name == "boot" && l.Event.Fields["version"] == version
		if broken || (version == "3" && strings.HasSuffix(l.Text, "leaving")) {
			count++
		}
	}
	return count
}

// lastPCRs is the newest event of the registers.
func lastPCRs(t *testing.T, m *device.Machine) device.Event {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	var last device.Event
	for _, l := range lines {
		if l.Event != nil && l.Event.Name == "pcrs" {
			last = *l.Event
		}
	}
	return last
}

// causeOf is what the server knows about the fallback from a version; empty for nothing.
func causeOf(f *device.Fleet, id, version string) string {
	for _, e := range f.Why(id).Events {
		text := string(e.Data)
		if strings.Contains(text, "used 3 of 3 tries") && strings.Contains(text, device.Product+"/"+version) {
			return strings.Join(strings.Fields(text), " ")
		}
	}
	return ""
}

// bootsAgain lets the device poll five times more and reports whether it was led to the bad release again.
func bootsAgain(t *testing.T, f *device.Fleet, m *device.Machine, id, version string) bool {
	t.Helper()
	before := mark(t, m)
	seen, polls := f.Seen(id), 0
	f.WaitSeen(bounded(t), m, id, "five more polls", func(d api.Device) bool {
		if d.SeenAt != nil && seen.SeenAt != nil && d.SeenAt.After(*seen.SeenAt) {
			seen, polls = d, polls+1
		}
		return polls >= 5
	})
	lines, err := m.Lines()
	must(t, err)
	for _, l := range lines[int(before):] {
		if strings.Contains(l.Text, "staged") || (l.Event != nil && l.Event.Name == "leave") {
			t.Logf("the machine is led to %s again: %s", version, l.Text)
			return true
		}
	}
	return false
}
