//go:build device

package device_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
)

// shortTimes make silence a story of a minute.
const shortTimes = `
[times]
timestamp = "2s"
poll = "1s"
beacon_window = "20s"
lease = "30s"
grace = "20s"
challenge = "3m"
update_deadline = "1h"
enforce = "200ms"
`

// silence keeps the agent from proving anything, without harm to the machine, until the network is closed to it; then the
// agent comes back.
func silence(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), Times: shortTimes})
	f.Build("1", nil)
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(*device.Config) {})
	ctx := bounded(t)
	f.WaitSeen(ctx, m, id, "a device in good standing", inProduction)
	must(t, m.Command(ctx, "pause"))
	n.saw("the agent is silent")
	var told []string
	d := f.WaitSeen(ctx, m, id, "a stale device", func(d api.Device) bool { return d.Standing == "stale" })
	n.saw("standing %s, segment %s, reasons %v", d.Standing, d.Segment, d.Reasons)
	told = append(told, choose(d.Standing == "stale" && d.Segment == "production", "stale after the lease", "stale in segment "+d.Segment))
	d = f.WaitSeen(ctx, m, id, "a restricted device", func(d api.Device) bool { return d.Segment == "restricted" })
	n.saw("standing %s, segment %s, reasons %v", d.Standing, d.Segment, d.Reasons)
	told = append(told, "restricted after the grace", quarantined(f, id))
	must(t, m.Command(ctx, "resume"))
	d = f.WaitSeen(ctx, m, id, "a device in good standing again", inProduction)
	n.saw("the agent is back: standing %s, segment %s", d.Standing, d.Segment)
	told = append(told, "production again after the agent is back")
	quotesAccepted(t, n, f, id)
	must(t, m.PowerOff(ctx))
	return strings.Join(told, ", ")
}

func inProduction(d api.Device) bool { return d.Standing == "affirmed" && d.Segment == "production" }
