package crash_test

import (
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// keyCrashes kills agent and server on the road from an attestation key that two people have forgotten back to an affirmed
// device: however often it dies, the key is forgotten once and registered once for each time that they said so.
func keyCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	d := w.s.Updated("k")
	wish := func(person string) {
		w.s.Run("cordonctl", w.s.By(person, "device", "forget-key", d.ID(), "--reason", "test")...)
	}
	times := 0
	back := func(l *life, point, process, cycle string) {
		t.Helper()
		if now := d.Seen(); now.Standing == "affirmed" && now.ForgetKey != nil { // the decision was lost with the answer: a person asks again
			wish("carol")
		}
		times++
		l.until("gateway/1.0", nil)
		w.whole(d)
		w.check()
		w.happened(1, "device.enrolled", d.ID())
		w.happened(times, "device.ak_forgotten", d.ID())
		w.happened(times, "device.ak_registered", d.ID())
		w.happened(0, "quarantine.opened", d.ID())
		if l.arm != "" && !l.died {
			t.Errorf("%s: the agent never came there", point)
			return
		}
		book.add(row{point: point, process: process, cycle: cycle, after: "affirmed again"})
	}
	for _, point := range []string{
		"agent.enroll.answered", "agent.enroll.base_anchored", "agent.poll.stored", "agent.poll.stored:2", "agent.poll.answered", "agent.poll.answered:2",
		"agent.file.written", "agent.file.written:2", "agent.file.renamed:3",
	} {
		wish("bob")
		wish("carol")
		back(&life{w: w, d: d, arm: point}, point, "agent", "its attestation key was forgotten")
	}
	for _, point := range []string{"server.step.decided", "server.step.committed"} {
		wish("bob")
		if w.serverDies(point, func() { wish("carol") }) {
			back(&life{w: w, d: d}, point, "server", "two people have an attestation key forgotten")
		}
	}
	for _, point := range []string{"server.enroll.decided", "server.enroll.committed", "server.poll.decided", "server.poll.committed"} {
		wish("bob")
		wish("carol")
		if l := (&life{w: w, d: d, tolerant: true}); w.serverDies(point, func() { l.try("gateway/1.0") }) {
			back(&life{w: w, d: d}, point, "server", "a device enrolls after its key was forgotten")
		}
	}
	w.s.Report()
}
