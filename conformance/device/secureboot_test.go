//go:build device

package device_test

import (
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

// TestTwoBootsWithOwnKeys plays the same story with Secure Boot and keys of the owner, which the machine enrolls in its
// first start.
func TestTwoBootsWithOwnKeys(t *testing.T) {
	t.Parallel()
	twoBoots(t, device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), OwnKeys: true}), "on")
}
