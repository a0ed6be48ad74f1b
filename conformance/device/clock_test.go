//go:build device

package device_test

import (
	"context"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
)

// clockless starts the agent an hour after the moment at which the kernel begins when it finds no clock at all. It lets nobody
// set the clock to less than the time that the machine is on.
const clockless = `#!/bin/sh
date -u -s @3600 > /dev/null
exec /bin/cordon-agent.real "$@"
`

// wrongClock lets a machine live with a clock that is behind by decades, with none, and with one that is ahead. The device
// knows of moments before which it cannot be, so the past is harmless; nothing tells it that a certificate has not ended.
func wrongClock(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("1", nil)
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(c *device.Config) { c.Clock = "1999-01-01T00:00:00" })
	ctx := bounded(t)
	told := "1999: 1 proven" + inYear(t, ctx, n, m, "1999")
	f.Build("2", func(s *device.ImageSpec) {
		s.Files = map[string][]byte{"bin/cordon-agent": []byte(clockless), "bin/cordon-agent.real": agentOf(t, f)}
	})
	updated(t, ctx, n, f, m, id, "2")
	told += "; none: 2 proven" + inYear(t, ctx, n, m, "1970")
	f.Build("3", nil)
	updated(t, ctx, n, f, m, id, "3")
	told += ", 3 installed"
	must(t, m.PowerOff(ctx))
	before := f.Seen(id)

	m.SetClock("2060-06-01T00:00:00")
	from := mark(t, m)
	ctx = switchOn(t, m)
	said, err := m.WaitText(ctx, from, "is the device's clock right?")
	must(t, err)
	n.saw("the machine says: %s", said)
	if d := f.Seen(id); !d.SeenAt.Equal(*before.SeenAt) {
		t.Errorf("the server has heard of it at %s", d.SeenAt)
	}
	told += "; 2060: silent, and says why" + inYear(t, ctx, n, m, "2060")
	must(t, m.PowerOff(ctx))

	m.SetClock("utc")
	again := time.Now()
	ctx = switchOn(t, m)
	d := f.WaitSeen(ctx, m, id, "the proof with the right clock", provenAfter("3", again))
	n.saw("the clock is right again: proven %s, %s", d.Proven, d.Standing)
	must(t, m.PowerOff(ctx))
	f.Stage.Report()
	return told + "; right again: 3 proven; " + quarantined(f, id)
}

// inYear demands that the machine takes it for a year. It returns nothing, or what is wrong.
func inYear(t *testing.T, ctx context.Context, n *narrator, m *device.Machine, want string) string {
	t.Helper()
	n.saw("the machine takes it for %s", shell(t, ctx, m, "date -u"))
	if got := shell(t, ctx, m, "date -u +%Y"); got != want {
		return " in " + got
	}
	return ""
}

// updated publishes a version and waits until the machine has proven it and has nothing left to do.
func updated(t *testing.T, ctx context.Context, n *narrator, f *device.Fleet, m *device.Machine, id, version string) api.Device {
	t.Helper()
	f.Publish(version)
	d := f.WaitSeen(ctx, m, id, "the proof of version "+version, proven(version))
	n.saw("proven %s, %s", d.Proven, d.Standing)
	committed(t, m)
	return d
}
