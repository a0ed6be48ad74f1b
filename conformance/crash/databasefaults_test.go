package crash_test

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// databaseFaults takes PostgreSQL away, at once as a power cut does, and brings it back; and makes the
// disk of the artifacts read-only while the server runs.
func databaseFaults(t *testing.T, book *faultBook) {
	w := newFaultWorld(t, book, demo.StageConfig{Postgres: postgresDir(t)})
	w.signValve()
	proven := w.s.Updated("proven")
	w.fault = "database: stopped"
	w.withoutDatabase(proven)
	w.fault = "database: stopped in the middle"
	w.databaseComesAndGoes()
	w.readOnlyArtifacts(proven)
	w.s.Report()
}

// withoutDatabase plays everything while the database is away.
func (w *faultWorld) withoutDatabase(proven *demo.Device) {
	r := w.newRelease(1)
	waiting := w.s.NewDevice("waiting", true)
	suspect := w.s.Updated("suspect")
	w.s.Postgres().Kill()
	upload := w.must("publish", w.publish(r))
	poll := w.must("poll", w.agent(proven))
	enroll := w.must("enroll", w.agent(waiting))
	hold := w.must("hold", w.hold("gateway/0.9"))
	isolate := w.must("quarantine", w.ask("bob", "POST", "/api/v1/devices/"+suspect.ID()+"/quarantine", map[string]string{"Content-Type": "application/json"}, []byte(`{"detail":"fault"}`)))
	report := w.must("report", w.ask("dave", "GET", "/api/v1/report?from=2020-01-01T00:00:00Z", nil, nil))
	status, p := suspect.Fetch(w.s.Image("1.0"))
	if status != 503 {
		w.t.Errorf("%s: the door answers %d %s, want 503: it cannot know", w.fault, status, p.Reason)
	}
	w.s.RestartPostgres()
	r.complete()
	(&life{w: w.world, d: waiting}).until("gateway/1.0", nil)
	w.whole(waiting)
	w.proper(waiting)
	w.unharmed("poll afterwards", w.agent(proven))
	w.tool("cordonctl", w.s.By("bob", "release", "hold", "gateway/0.9", "--detail", "again")...)
	w.tool("cordonctl", w.s.By("bob", "device", "quarantine", suspect.ID(), "--detail", "fault")...)
	w.check()
	w.inQuarantine(suspect, "quarantine.opened")
	w.happened(1, "release.held", "gateway/0.9")
	w.happened(0, "quarantine.opened", proven.ID())
	w.over("publish", upload, "published once")
	w.over("poll", poll, "affirmed, no quarantine")
	w.over("enroll", enroll, "enrolled once, updated to 1.0")
	w.over("hold", hold, "held once")
	w.over("quarantine", isolate, "quarantined once, enforced")
	w.over("report", report, "verifies")
	w.over("artifact door", seen{text: "503 " + string(p.Reason), hit: true}, "403 in quarantine")
}

// outages is how often the database goes away while everybody works.
const outages = 3

// databaseComesAndGoes kills the database while tools and agents work. They try again by themselves, or are run again;
// everything happens once.
func (w *faultWorld) databaseComesAndGoes() {
	r := w.newRelease(10)
	d := w.s.NewDevice("busy", true)
	suspect := w.s.Updated("suspicious")
	var tools sync.WaitGroup
	tools.Go(r.all)
	tools.Go(func() { (&life{w: w.world, d: d, tolerant: true}).try("gateway/1.0") })
	tools.Go(func() {
		w.s.Run("cordonctl", w.s.By("bob", "device", "quarantine", suspect.ID(), "--detail", "fault")...)
	})
	for range outages {
		w.s.Postgres().Kill()
		w.s.RestartPostgres()
	}
	tools.Wait()
	r.complete()
	(&life{w: w.world, d: d}).until("gateway/1.0", nil)
	w.whole(d)
	w.proper(d)
	if suspect.Seen().Quarantine == nil {
		w.tool("cordonctl", w.s.By("bob", "device", "quarantine", suspect.ID(), "--detail", "fault")...)
	}
	w.inQuarantine(suspect, "quarantine.opened")
	w.over("publish, enroll, update, quarantine", seen{text: fmt.Sprintf("%d outages: tried again, or exit 3", outages)}, "each happened once")
}

// readOnlyArtifacts takes the right to write on the server's disk away while it runs.
func (w *faultWorld) readOnlyArtifacts(proven *demo.Device) {
	w.fault = "server: artifacts read-only, running"
	w.s.StopServer()
	data := newDisk(w.t, w.s.Path("cordon-data", "artifacts"))
	w.t.Cleanup(w.s.StopServer)
	w.s.StartServer()
	r, next := w.newRelease(50), w.newRelease(51)
	w.tool("cordon-sign", r.args()...)
	w.approve("bob", r.name())
	data.readOnly()
	upload := w.must("upload", w.upload(next.file))
	approve := w.must("last approval", w.approve("carol", r.name()))
	poll := w.unharmed("poll", w.agent(proven))
	hold := w.unharmed("hold", w.hold("gateway/1.0"))
	data.writable()
	r.complete()
	next.complete()
	w.happened(0, "quarantine.opened", proven.ID())
	w.happened(1, "release.held", "gateway/1.0")
	w.over("upload", upload, "published once")
	w.over("last approval", approve, "published once")
	w.over("hold", hold, "held once")
	w.over("poll", poll, "affirmed")
}

// postgresDir is a folder for a cluster that the user postgres can reach; the test's own folder is not.
func postgresDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cordon-faults-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the server has ended
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir + "/cluster"
}
