package crash_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// deviceCrashes kills the server at every step of a device's life: enrollment, polls, downloads, quarantine and the way
// back.
func deviceCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	for i, point := range []string{
		"server.enroll.decided", "server.enroll.committed",
		"server.poll.decided", "server.poll.decided:2", "server.poll.decided:3",
		"server.poll.committed", "server.poll.committed:2", "server.poll.committed:3",
		"server.door.decided", "server.door.recorded",
	} {
		d := w.s.NewDevice(fmt.Sprintf("d%d", i), true)
		l := &life{w: w, d: d, tolerant: true}
		if !w.serverDies(point, func() { l.try("gateway/1.0") }) {
			continue
		}
		l.tolerant = false
		l.until("gateway/1.0", nil)
		w.whole(d)
		w.check()
		w.happened(1, "device.enrolled", d.ID())
		w.happened(1, "update.proven", d.ID())
		w.happened(0, "quarantine.opened", d.ID())
		book.add(row{point: point, process: "server", cycle: "a device enrolls and updates to 1.0", after: "1.0 proven"})
	}
	w.quarantines()
	w.s.Report()
}

// quarantines kills the server around the decisions about a device whose boot was changed, and around its way back.
func (w *world) quarantines() {
	evil := w.evil()
	for i, point := range []string{"server.poll.decided", "server.poll.committed"} {
		d := w.s.Updated(fmt.Sprintf("q%d", i))
		d.Tamper(evil)
		d.Boot()
		if !w.serverDies(point, func() { d.TryAgent() }) {
			continue
		}
		d.TryAgent()
		w.inQuarantine(d, "quarantine.opened")
		w.book.add(row{point: point, process: "server", cycle: "a device proves a changed boot", after: "quarantined once"})
	}
	// Who isolates a device is not one of the two who let it back.
	w.s.Ctl("alice", "person", "add", "erin", "--role", api.RoleOperator, "--days", "7", "--token-out", w.s.Path("erin.token"))
	for i, point := range []string{"server.step.decided", "server.step.committed", "server.door.cut", "server.door.settled"} {
		d := w.s.Updated(fmt.Sprintf("i%d", i))
		isolate := func() { w.s.Run("cordonctl", w.s.By("erin", "device", "quarantine", d.ID(), "--detail", "test")...) }
		if !w.serverDies(point, isolate) {
			continue
		}
		if d.Seen().Quarantine == nil { // the decision was lost with the answer: a person asks again
			isolate()
		}
		w.inQuarantine(d, "quarantine.opened")
		w.book.add(row{point: point, process: "server", cycle: "a person isolates a device", after: "quarantined once"})
		w.wayBack(d, point)
	}
}

// wayBack plays the documented road out of quarantine, once with a crash in it.
func (w *world) wayBack(d *demo.Device, point string) {
	release := func() {
		for _, person := range []string{"bob", "carol"} {
			w.s.Run("cordonctl", w.s.By(person, "device", "release", d.ID())...)
		}
	}
	l := &life{w: w, d: d, tolerant: true}
	l.try("gateway/0.9")
	back := func() {
		release()
		l.try("gateway/1.0")
	}
	if !w.serverDies(point, back) {
		return
	}
	release()
	l.tolerant = false
	l.until("gateway/1.0", nil)
	w.check()
	w.happened(1, "quarantine.ended", d.ID())
	w.book.add(row{point: point, process: "server", cycle: "two people let a device back", after: "1.0 proven, ended once"})
}

// inQuarantine checks that the device gets nothing but recovery.
func (w *world) inQuarantine(d *demo.Device, kind string) {
	w.t.Helper()
	w.check()
	w.happened(1, kind, d.ID())
	if now := d.Seen(); now.Quarantine == nil || now.Segment != "restricted" {
		w.t.Errorf("%s: segment %s, quarantine %v", d.ID(), now.Segment, now.Quarantine)
	}
	if status, p := d.Fetch(w.s.Image("1.0")); status != 403 {
		w.t.Errorf("%s in quarantine asks for 1.0: %d %s", d.ID(), status, p.Reason)
	}
}

// evil is an image with another command line.
func (w *world) evil() []byte {
	w.t.Helper()
	kernels, err := parts.Kernels(w.t.Context(), w.t.Output())
	if err != nil {
		w.t.Fatal(err)
	}
	path, err := parts.BuildUKI(w.t.Context(), parts.UKISpec{Version: "1.0", Kernel: kernels[0], Cmdline: "console=ttyS0 init=/bin/sh", Out: w.s.Path("evil.efi")})
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// short makes leases that end within a test.
const short = `
[times]
timestamp = "1s"
poll = "1s"
beacon_window = "9s"
lease = "12s"
grace = "1h"
challenge = "30s"
update_deadline = "1h"
enforce = "200ms"
`

// sweepCrashes kills the server while it finds a device stale.
func sweepCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{Times: short})
	for i, point := range []string{"server.sweep.decided", "server.sweep.committed"} {
		d := w.s.Updated(fmt.Sprintf("s%d", i))
		if !w.serverDies(point, func() {}) {
			continue
		}
		w.s.WaitFor("the device to be stale", func() error {
			if got := d.Seen().Standing; got != "stale" {
				return fmt.Errorf("standing %s", got)
			}
			return nil
		})
		if got := d.Agent(); got.Verdict != "affirmed" || len(got.Refusals) > 0 {
			t.Errorf("%s: the device came back with %s", point, got)
		}
		w.check()
		w.happened(1, "device.stale", d.ID())
		w.happened(0, "quarantine.opened", d.ID())
		book.add(row{point: point, process: "server", cycle: "a silent device becomes stale", after: "stale once, affirmed by its next poll"})
	}
}
