package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// serverDiskFaults fills the disk of a server with SQLite and a directory, and takes the right to write away.
func serverDiskFaults(t *testing.T, book *faultBook) {
	w := newFaultWorld(t, book, demo.StageConfig{})
	w.signValve()
	proven := w.s.Updated("proven")
	waiting := w.s.NewDevice("waiting", true)
	w.s.StopServer()
	data := newDisk(t, w.s.Path("cordon-data"))
	t.Cleanup(w.s.StopServer)
	w.s.StartServer()

	w.fault = "server: data directory full"
	w.publishOnFullDisk(data)
	w.othersOnFullDisk(data, proven, waiting)
	w.startWithoutDisk(data)
	w.s.Report()
}

// publishOnFullDisk fills the disk before each step of a publication in turn.
func (w *faultWorld) publishOnFullDisk(data *disk) {
	for i, c := range []struct {
		during string
		before func(r release)
		step   func(r release) seen
	}{
		{"upload", func(release) {}, func(r release) seen { return w.upload(r.file) }},
		{"cordon-sign publish", func(release) {}, w.publish},
		{"publish of what is uploaded", func(r release) { w.upload(r.file) }, w.publish},
		{"first approval", func(r release) { w.tool("cordon-sign", r.args()...) }, func(r release) seen { return w.approve("bob", r.name()) }},
		{"last approval", func(r release) { w.tool("cordon-sign", r.args()...); w.approve("bob", r.name()) }, func(r release) seen { return w.approve("carol", r.name()) }},
	} {
		r := w.newRelease(i + 1)
		c.before(r)
		w.s.StopServer()
		w.s.StartServer() // the write-ahead log is short again
		data.fill(0)
		saw := w.must(c.during, c.step(r))
		data.free()
		r.complete()
		w.over(c.during, saw, "published once")
	}
}

// othersOnFullDisk is everybody else's day with a full disk.
func (w *faultWorld) othersOnFullDisk(data *disk, proven, waiting *demo.Device) {
	w.s.StopServer()
	w.s.StartServer()
	data.fill(0)
	hold := w.must("hold", w.hold("gateway/0.9"))
	enroll := w.must("enroll", w.agent(waiting))
	poll := w.agent(proven)
	report := w.ask("dave", "GET", "/api/v1/report?from=2020-01-01T00:00:00Z", nil, nil)
	data.free()
	l := &life{w: w.world, d: waiting}
	l.until("gateway/1.0", nil)
	w.unharmed("poll afterwards", w.agent(proven))
	if now := proven.Seen(); now.Standing != "affirmed" {
		w.t.Errorf("%s: the proven device is %s", w.fault, now.Standing)
	}
	w.tool("cordonctl", w.s.By("bob", "release", "hold", "gateway/0.9", "--detail", "again")...)
	w.check()
	w.happened(1, "release.held", "gateway/0.9")
	w.happened(1, "device.enrolled", waiting.ID())
	w.happened(0, "quarantine.opened", waiting.ID())
	w.happened(0, "quarantine.opened", proven.ID())
	w.over("hold", hold, "held once")
	w.over("enroll", enroll, "enrolled once, updated to 1.0")
	w.over("poll", poll, "affirmed, no quarantine")
	w.over("report", report, "verifies")
}

// startWithoutDisk starts the server on a full and on a read-only disk.
func (w *faultWorld) startWithoutDisk(data *disk) {
	for _, c := range []struct {
		fault    string
		on, off  func()
		says     string
		mayStart bool
	}{
		{"server: data directory full", func() { data.fill(0) }, data.free, "has room", true},
		{"server: data directory read-only", data.readOnly, data.writable, "read-only", false},
	} {
		w.fault = c.fault
		w.s.StopServer()
		c.on()
		err := w.s.StartServerEnv()
		saw := seen{text: "it starts"}
		if err != nil {
			saw = seen{text: "exit 3, hint: " + c.says, hit: true}
		}
		if err != nil {
			w.endedAtStart(err, c.says)
		}
		if err == nil && !c.mayStart {
			w.t.Errorf("%s: cordond started", c.fault)
		}
		w.s.KillServer()
		c.off()
		w.s.StartServer()
		w.check()
		w.over("start", saw, "starts, nothing lost")
	}
}

// endedAtStart checks that a server that cannot start says why and what to do.
func (w *faultWorld) endedAtStart(err error, hint string) {
	w.t.Helper()
	text := err.Error()
	_, said, found := strings.Cut(text, "\nhint: ")
	if !found || !strings.Contains(said, hint) || !strings.Contains(text, "exit status 3") {
		w.t.Errorf("%s at the start: want exit 3 and a hint with %q: %v", w.fault, hint, err)
	}
}

// deviceFaults takes the disks of devices and of the signer.
func deviceFaults(t *testing.T, book *faultBook) {
	w := newFaultWorld(t, book, demo.StageConfig{})
	w.agentStateFaults()
	w.slotFaults()
	w.signValve()
	w.signerFaults()
	w.s.Report()
}

// agentStateFaults fills the state directory at the steps of a device's life: each run of the agent gets a little more
// room than the one before.
func (w *faultWorld) agentStateFaults() {
	d := w.s.NewDevice("state", true)
	w.mkdir(d.StateDir())
	state := newDisk(w.t, d.StateDir())
	for _, c := range []struct {
		fault   string
		on, off func()
		must    bool
	}{
		{"agent: state directory read-only", state.readOnly, state.writable, true},
		{"agent: state directory full", func() { state.fill(0) }, state.free, true},
		{"agent: state directory, 8 KiB free", func() { state.fill(8 << 10) }, state.free, false},
		{"agent: state directory, 32 KiB free", func() { state.fill(32 << 10) }, state.free, false},
		{"agent: state directory, 64 KiB free", func() { state.fill(64 << 10) }, state.free, false},
	} {
		w.fault = c.fault
		c.on()
		saw := w.agent(d)
		c.off()
		if c.must || saw.hit {
			w.onDisk("enroll, poll, update", saw)
		}
		w.over("enroll, poll, update", saw, "goes on")
	}
	(&life{w: w.world, d: d}).until("gateway/1.0", nil)
	w.whole(d)
	w.proper(d)
}

func (w *faultWorld) mkdir(dir string) {
	w.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
}

// proper checks that a device enrolled and updated once and was never suspected.
func (w *faultWorld) proper(d *demo.Device) {
	w.t.Helper()
	w.check()
	w.happened(1, "device.enrolled", d.ID())
	w.happened(1, "update.proven", d.ID())
	w.happened(0, "quarantine.opened", d.ID())
}

// onDisk is must for a tool whose own disk takes nothing: the hint says so.
func (w *faultWorld) onDisk(during string, saw seen) seen {
	w.t.Helper()
	if !strings.Contains(saw.text, "make room on") && !strings.Contains(saw.text, "that file system is read-only") {
		w.t.Errorf("%s, %s: the hint says nothing of the disk: %s", w.fault, during, saw.text)
	}
	return w.must(during, saw)
}

// slotFaults takes the disk of the slots away in the middle of an update.
func (w *faultWorld) slotFaults() {
	d := w.s.NewDevice("slots", true)
	slots := newDisk(w.t, d.Slots())
	for _, c := range []struct {
		fault   string
		on, off func()
	}{
		{"agent: slots read-only", slots.readOnly, slots.writable},
		{"agent: slots full", func() { slots.fill(0) }, slots.free},
		{"agent: slots full after 1 MiB", func() { slots.fill(1 << 20) }, slots.free},
	} {
		w.fault = c.fault
		c.on()
		saw := w.onDisk("update", w.agent(d))
		c.off()
		d.Boot()
		active, err := os.ReadFile(filepath.Join(d.Slots(), "active"))
		if err != nil || strings.TrimSpace(string(active)) != "a" {
			w.t.Errorf("%s: the active slot is %q, %v", c.fault, active, err)
		}
		image, err := os.ReadFile(filepath.Join(d.Slots(), "a.img"))
		if err != nil || w.s.VersionOf(image) != demo.Recovery {
			w.t.Errorf("%s: the active slot does not hold what it held: %v", c.fault, err)
		}
		w.over("update", saw, "boots what it had; goes on")
	}
	(&life{w: w.world, d: d}).until("gateway/1.0", nil)
	w.whole(d)
	w.proper(d)
}

// signerFaults takes the disk of a ceremony, of a kept bundle and of a report.
func (w *faultWorld) signerFaults() {
	ceremony := newDisk(w.t, w.s.Path("ceremony"))
	w.mkdir(w.s.Path("out"))
	out := newDisk(w.t, w.s.Path("out"))
	w.changePolicy("read-only", ceremony.readOnly, ceremony.writable)
	w.changePolicy("full", func() { ceremony.fill(0) }, ceremony.free)
	w.changePolicy("full but for 8 KiB", func() { ceremony.fill(8 << 10) }, ceremony.free)

	for i, c := range []struct {
		what    string
		on, off func()
	}{
		{"full", func() { out.fill(0) }, out.free},
		{"read-only", out.readOnly, out.writable},
	} {
		w.fault = "signer: disk of --bundle-out " + c.what
		r := w.newRelease(100 + i)
		bundle := w.s.Path("out", fmt.Sprintf("bundle%d.json", i))
		c.on()
		saw := w.onDisk("publish", w.tool("cordon-sign", append(r.args(), "--bundle-out", bundle)...))
		w.absent(bundle)
		c.off()
		w.tool("cordon-sign", append(r.args(), "--bundle-out", bundle)...)
		if info, err := os.Stat(bundle); err != nil || info.Size() == 0 {
			w.t.Errorf("%s: the bundle is not there afterwards: %v", w.fault, err)
		}
		r.complete()
		w.over("publish", saw, "the same command again keeps it")

		w.fault = "auditor: disk of --out " + c.what
		report := w.s.Path("out", fmt.Sprintf("report%d.json", i))
		c.on()
		saw = w.onDisk("report", w.tool("cordonctl", w.s.By("dave", "report", "--from", "2020-01-01", "--out", report)...))
		w.absent(report)
		c.off()
		w.over("report", saw, "the same command again writes it")
	}
}

// absent checks that no half of a file was left, under its name or another.
func (w *faultWorld) absent(path string) {
	w.t.Helper()
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range left {
		if strings.Contains(e.Name(), filepath.Base(path)) {
			w.t.Errorf("%s: %s was left", w.fault, e.Name())
		}
	}
}

// changePolicy changes a policy, with the fault before every command; the same command again succeeds.
func (w *faultWorld) changePolicy(what string, on, off func()) {
	w.fault = "signer: ceremony directory " + what
	publisher := fmt.Sprintf("ci-%d", len(w.seen)) // another name than before
	text := strings.Replace(valve, `name = "ci"`, fmt.Sprintf("name = %q", publisher), 1)
	if err := os.WriteFile(w.s.Path("valve.toml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"product", "set", "--dir", "ceremony", "--policy", "valve.toml"},
		{"root", "sign", "--dir", "ceremony", "--key", "hanna.pem"},
		{"root", "sign", "--dir", "ceremony", "--key", "henry.pem"},
		{"root", "apply", "--dir", "ceremony", "--token-file", w.s.Path("alice.token")},
	} {
		on()
		saw := w.tool("cordon-sign", args...)
		off()
		if saw.hit {
			w.onDisk(args[1], saw)
			w.unharmed("again", w.tool("cordon-sign", args...))
		}
		w.over(strings.Join(args[:2], " "), saw, "the same command again succeeds")
	}
	if show := w.s.Sign("product", "show", "--dir", "ceremony", "--product", "valve"); !strings.Contains(show, publisher) {
		w.t.Errorf("%s: the policy in force is %s", w.fault, show)
	}
	w.check()
}
