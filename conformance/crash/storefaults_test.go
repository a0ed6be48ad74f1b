package crash_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// storeWorld is a world with an object store that can be taken away.
type storeWorld struct {
	*faultWorld
	strangers, suspects []*demo.Device
}

const storeFaultCount = 5

// storeFaults takes the object store away in every way that a network has.
func storeFaults(t *testing.T, book *faultBook) {
	w := &storeWorld{faultWorld: newFaultWorld(t, book, demo.StageConfig{S3: true})}
	w.signValve()
	proven := w.s.Updated("proven")
	line := w.s.LineToS3(time.Second)
	getting := w.s.NewDevice("getting", true)
	for i := range storeFaultCount {
		w.strangers = append(w.strangers, w.s.NewDevice(fmt.Sprintf("stranger%d", i), false))
		w.suspects = append(w.suspects, w.s.Updated(fmt.Sprintf("suspect%d", i)))
	}
	for i, c := range []struct {
		fault    demo.LineFault
		store    func(string, seen) seen // what publishers feel
		download func() seen
	}{
		{demo.LineDown, w.must, func() seen { return w.must("update", w.agent(getting)) }},
		{demo.LineSilent, w.must, func() seen { return w.door(getting) }},
		{demo.LineBusy, w.must, func() seen { return w.door(getting) }},
		{demo.LineCut, w.either, func() seen { return w.unharmed("update", w.agent(getting)) }},
		{demo.LineSlow, w.unharmed, func() seen { return w.unharmed("update", w.agent(w.s.NewDevice("slow", true))) }},
	} {
		w.fault = "object store: " + string(c.fault)
		w.withoutStore(line, c.fault, i, c.store, c.download, proven)
	}
	for _, d := range w.suspects {
		w.inQuarantine(d, "quarantine.opened")
	}
	for _, d := range w.strangers {
		w.happened(1, "device.enrolled", d.ID())
	}
	(&life{w: w.world, d: getting}).until("gateway/1.0", nil)
	w.whole(getting)
	w.proper(getting)
	w.startWithoutStore(line)
	w.s.Report()
}

// either is for a fault that some get through.
func (w *storeWorld) either(_ string, saw seen) seen { return saw }

// door asks for the image that the device was offered.
func (w *storeWorld) door(d *demo.Device) seen {
	w.t.Helper()
	status, p := d.Fetch(w.s.Image("1.0"))
	if status != http.StatusServiceUnavailable || p.Reason != reason.ServerBusy {
		w.t.Errorf("%s: the door answers %d %s", w.fault, status, p.Reason)
	}
	return seen{text: fmt.Sprintf("%d %s", status, p.Reason), hit: true}
}

// withoutStore plays a publication, a download, a hold and a quarantine during one fault.
func (w *storeWorld) withoutStore(line *demo.Line, fault demo.LineFault, number int, felt func(string, seen) seen, get func() seen, proven *demo.Device) {
	first, second := w.newRelease(10*number+1), w.newRelease(10*number+2)
	w.tool("cordon-sign", first.args()...)
	w.approve("bob", first.name())
	line.Break(fault)
	upload := felt("upload", w.upload(second.file))
	approve := felt("last approval", w.approve("carol", first.name()))
	download := get()
	// What keeps devices safe needs no bytes of the store.
	hold := w.unharmed("hold", w.hold(first.name()))
	enroll, isolate := w.meanwhile(number)
	poll := w.unharmed("poll", w.agent(proven))
	line.Break(demo.LineWhole)

	w.tool("cordonctl", w.s.By("bob", "release", "resume", first.name())...)
	w.tool("cordonctl", w.s.By("carol", "release", "resume", first.name())...)
	first.complete()
	second.complete()
	w.happened(1, "release.held", first.name())
	w.happened(0, "quarantine.opened", proven.ID())
	w.over("upload", upload, "published once")
	w.over("last approval", approve, "published once")
	w.over("update of a device", download, "goes on, updated to 1.0")
	w.over("hold", hold, "held once")
	w.over("enroll", enroll, "enrolled once")
	w.over("quarantine", isolate, "quarantined once, enforced meanwhile")
	w.over("poll", poll, "affirmed")
}

// meanwhile enrolls a stranger and quarantines a device, each of its own for every fault.
func (w *storeWorld) meanwhile(number int) (enroll, isolate seen) {
	stranger, suspect := w.strangers[number], w.suspects[number]
	code, _, stderr := stranger.AgentEnv()
	if code != 1 { // pending, as it would be without the fault
		w.t.Errorf("%s: enroll: exit %d, %s", w.fault, code, stderr)
	}
	isolate = w.unharmed("quarantine", w.tool("cordonctl", w.s.By("bob", "device", "quarantine", suspect.ID(), "--detail", "fault")...))
	w.s.WaitFor("the quarantine to be enforced", func() error {
		if now := suspect.Seen(); now.Quarantine == nil || now.Segment != "restricted" {
			return fmt.Errorf("segment %s, quarantine %v", now.Segment, now.Quarantine)
		}
		return nil
	})
	return seen{text: fmt.Sprintf("exit %d, pending", code)}, isolate
}

// startWithoutStore starts the server while its store is away.
func (w *storeWorld) startWithoutStore(line *demo.Line) {
	w.fault = "object store: down"
	w.s.StopServer()
	line.Break(demo.LineDown)
	err := w.s.StartServerEnv()
	if err == nil {
		w.t.Errorf("%s: cordond started", w.fault)
	} else {
		w.endedAtStart(err, "artifact store")
	}
	w.s.KillServer()
	line.Break(demo.LineWhole)
	w.s.StartServer()
	w.check()
	w.over("start", seen{text: "exit 3, hint: check that the artifact store", hit: true}, "starts, nothing lost")
}
