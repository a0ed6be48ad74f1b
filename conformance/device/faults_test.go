//go:build device

package device_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
)

// faultScenarios are what befalls an honest machine: bad releases, power, time, network, a full image. It is never
// quarantined for any of it.
func faultScenarios() []scenario {
	return []scenario{
		{"bad releases", "2 and 3 tried 3 times each, back on 1 with the same PCRs, the cause known, neither offered again, 4 proven", badReleases},
		{"power cuts", "11 of 11 updates proven, no quarantine", powerCuts},
		{"agent killed", "21 of 21 kills survived, 2 proven, enrolled once, no quarantine", agentKilled},
		{"wrong clock", "1999: 1 proven; none: 2 proven, 3 installed; 2060: silent, and says why; right again: 3 proven; no quarantine", wrongClock},
		{"silence", "stale after the lease, restricted after the grace, no quarantine, production again after the agent is back", silence},
		{"TPM lockout", "locked out, affirmed all the same, reported as tpm_locked_out, no quarantine", tpmLockout},
		{"large image cable pulled", "went on where it stopped, 2 proven, within 40 MiB", largeImage},
	}
}

// proveFirst starts a new machine with the image of version 1, has its platform signed and its device claimed, and waits
// for the proof of its first boot.
func proveFirst(t *testing.T, n *narrator, f *device.Fleet, change func(*device.Config)) (m *device.Machine, id string, first device.Event) {
	t.Helper()
	m = n.cast(f.MachineWith("machine", "1", change))
	id = f.ID(m)
	ctx := switchOn(t, m)
	first = event(t, ctx, m, 0, "pcrs")
	f.Platform(first)
	f.Claim(id)
	d := f.WaitSeen(ctx, m, id, "the proof of the factory image", proven("1"))
	n.saw("enrolled, first boot proven: %s, %s", d.Proven, d.Standing)
	return m, id, first
}

// sameRegisters reports which registers of two boots differ, by number; empty for none.
func sameRegisters(t *testing.T, one, other device.Event) []int {
	t.Helper()
	a, err := one.PCRs()
	must(t, err)
	b, err := other.PCRs()
	must(t, err)
	var differ []int
	for pcr := range 24 {
		if a[pcr] != b[pcr] {
			differ = append(differ, pcr)
		}
	}
	return differ
}

// shell runs a line on the machine and returns what it prints, which must be one line.
func shell(t *testing.T, ctx context.Context, m *device.Machine, line string) string {
	t.Helper()
	before := mark(t, m)
	must(t, m.Command(ctx, `sh echo "=$(`+line+`)"`))
	text, err := m.WaitText(ctx, before, "sh: =")
	must(t, err)
	_, said, _ := strings.Cut(text, "sh: =")
	return strings.TrimSpace(said)
}

// mark is the end of what the machine has said.
func mark(t *testing.T, m *device.Machine) device.Mark {
	t.Helper()
	at, err := m.Mark()
	must(t, err)
	return at
}

// provenSince is the proof of a poll after what was seen.
func provenSince(seen api.Device) func(api.Device) bool {
	return func(d api.Device) bool {
		return d.SeenAt != nil && seen.SeenAt != nil && d.SeenAt.After(*seen.SeenAt) && d.Standing == "affirmed"
	}
}

// provenAfter waits for the proof of a version in a boot that began after a moment.
func provenAfter(version string, after time.Time) func(api.Device) bool {
	return func(d api.Device) bool {
		return proven(version)(d) && d.ProvenAt != nil && d.ProvenAt.After(after) && d.Standing == "affirmed"
	}
}

// quarantined says in a scenario's words whether a device ever was.
func quarantined(f *device.Fleet, id string) string {
	for _, q := range f.Report().Quarantines {
		if q.Device == id {
			return "quarantined: " + q.Detail
		}
	}
	return "no quarantine"
}
