//go:build device

package device_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/device"
)

// wrongClock lets a machine live with clocks that are wrong by decades. 1970 is also what Linux begins with on a machine
// that has no clock at all.
func wrongClock(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("1", nil)
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(c *device.Config) { c.Clock = "1970-01-01T00:00:00" })
	var told []string
	for _, life := range []struct{ year, clock, version string }{
		{"1970", "", "2"}, {"2060", "2060-06-01T00:00:00", "3"},
	} {
		ctx := bounded(t)
		if life.clock != "" {
			must(t, m.PowerOff(ctx))
			m.SetClock(life.clock)
			from := mark(t, m)
			ctx = switchOn(t, m)
			event(t, ctx, m, from, "agent")
		}
		n.saw("the machine takes it for %s", shell(t, ctx, m, "date -u"))
		if got := shell(t, ctx, m, "date -u +%Y"); got != life.year {
			t.Errorf("the machine's clock says %s, want %s", got, life.year)
		}
		f.Build(life.version, nil)
		f.Publish(life.version)
		d := f.WaitSeen(ctx, m, id, "the proof of version "+life.version, proven(life.version))
		n.saw("proven %s, %s", d.Proven, d.Standing)
		committed(t, m)
		told = append(told, fmt.Sprintf("%s: %s proven", life.year, strings.TrimPrefix(d.Proven, device.Product+"/")))
	}
	must(t, m.PowerOff(bounded(t)))
	m.SetClock("utc")
	again := time.Now()
	ctx := switchOn(t, m)
	d := f.WaitSeen(ctx, m, id, "the proof with the right clock", provenAfter("3", again))
	n.saw("the clock is right again: proven %s, %s", d.Proven, d.Standing)
	told = append(told, "right again: 3 proven", quarantined(f, id))
	must(t, m.PowerOff(ctx))
	f.Stage.Report()
	return strings.Join(told, "; ")
}
