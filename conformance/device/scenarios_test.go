//go:build device

package device_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// scenarios are all of them, one after the other: one machine runs at a time.
func scenarios(t *testing.T) []scenario {
	return slices.Concat(genuineScenarios(), faultScenarios(), tamperScenarios(t))
}

// genuineScenarios are the story of TestTwoBoots on the other machines.
func genuineScenarios() []scenario {
	ownKeys := func(t *testing.T, n *narrator) string {
		return twoBoots(t, n, device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), OwnKeys: true}), "on")
	}
	arm64 := func(ownKeys bool, secureBoot, kept string) func(*testing.T, *narrator) string {
		return func(t *testing.T, n *narrator) string {
			f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), Arch: parts.ARM64, OwnKeys: ownKeys})
			got := twoBoots(t, n, f, secureBoot)
			keepProof(t, f, "1", kept)
			return got
		}
	}
	return []scenario{
		{"two boots with own keys", twoBootsExpected, ownKeys},
		{"two boots on arm64", twoBootsExpected, arm64(false, "off", "arm64-systemd-boot-secure-boot-off")},
		{"arm64 with own keys", twoBootsExpected, arm64(true, "on", "arm64-systemd-boot-own-keys")},
	}
}

// TestScenarios plays every scenario and prints the table of them. -run TestScenarios/NAME plays one.
func TestScenarios(t *testing.T) {
	var table strings.Builder
	for _, s := range scenarios(t) {
		t.Run(s.name, func(t *testing.T) { s.tell(t, &table) })
	}
	t.Log("\n" + tableHead + table.String())
}

// join is cast for a machine that has played in another scenario.
func (n *narrator) join(m *device.Machine) {
	if !slices.Contains(n.machines, m) {
		n.cast(m)
		n.before = n.boots()
	}
}
