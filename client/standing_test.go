package client_test

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
)

// A refusal that stands is told once, not in every poll: the server keeps what it is told for good. Another one is told, and
// the first again when it comes back.
func TestRefusalThatStandsIsToldOnce(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	offer := func(version, hardware string) {
		t.Helper()
		image := randomImage(t, 1000)
		rel := release(version, 3, image)
		rel.Components[0].HardwareIDs = []string{hardware}
		d.server.publish(rel, image, d.server.ci, nil)
		d.server.offer(d.client.DeviceID().String(), &rel)
	}
	polls := func() {
		t.Helper()
		for range 4 {
			d.restart() // the device, not a process, remembers
			if r := d.check(); len(r.Refusals) != 1 || r.Refusals[0].Reason != reason.HardwareIncompatible {
				t.Fatalf("Check = %+v, want %s", r.Refusals, reason.HardwareIncompatible)
			}
		}
	}
	want := func(version string, times int) {
		t.Helper()
		if n := d.told(product + "/" + version + "/system is for"); n != times {
			t.Errorf("%d polls told that %s is for other hardware, want %d", n, version, times)
		}
	}
	d.cfg = func(c *client.Config) { c.HardwareID = "this-board" }
	offer("1.1.0", "that-board")
	polls()
	want("1.1.0", 1)
	offer("1.2.0", "that-board")
	polls()
	want("1.1.0", 1)
	want("1.2.0", 1)
	offer("1.1.0", "that-board")
	polls()
	want("1.1.0", 2)
}
