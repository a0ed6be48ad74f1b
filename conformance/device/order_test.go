//go:build device

package device_test

import (
	"context"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
)

// TestOlderVersionAndABrokenOne installs a release whose version systemd-boot would not prefer, as a recovery release often
// is, and then one that does not come up.
func TestOlderVersionAndABrokenOne(t *testing.T) {
	t.Parallel()
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("5", nil)
	f.Publish("5")
	m := f.Machine("order", "5")
	id := f.ID(m)
	ctx, cancel := context.WithTimeout(t.Context(), storyTime)
	defer cancel()
	must(t, m.Start(ctx))
	f.Platform(event(t, ctx, m, 0, "pcrs"))
	f.Claim(id)
	f.WaitSeen(ctx, m, id, "the proof of the factory image", proven("5"))

	f.Build("3", nil)
	before, err := m.Mark()
	must(t, err)
	f.Publish("3")
	if boot := event(t, ctx, m, before, "boot"); boot.Fields["version"] != "3" {
		t.Fatalf("after the restart version %q runs, want the older one that was offered", boot.Fields["version"])
	}
	f.WaitSeen(ctx, m, id, "the proof of the older version", proven("3"))
	blessed(t, ctx, m)

	f.Build("6", func(s *device.ImageSpec) { s.Broken = "it was built to fail" })
	if before, err = m.Mark(); err != nil {
		t.Fatal(err)
	}
	f.Publish("6")
	_, err = m.WaitText(ctx, before, "used 3 of 3 tries")
	must(t, err)
	if got := bootsAfter(t, m, 0); !strings.HasSuffix(got, "5 3 6 6 6 3") {
		t.Errorf("versions booted: %s, want 5, 3, three tries of 6, and 3 again", got)
	}
	f.WaitSeen(ctx, m, id, "the report of the fallback", func(api.Device) bool {
		for _, e := range f.Why(id).Events {
			if strings.Contains(string(e.Data), "used 3 of 3 tries") {
				t.Logf("the server knows: %s", e.Data)
				return true
			}
		}
		return false
	})
	must(t, m.PowerOff(ctx))
}
