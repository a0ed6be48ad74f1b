package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// agentPoints are the points of the agent's life from its first start to a proven update. A number is the passage to die
// at: files and offsets are written many times.
var agentPoints = []string{
	"agent.enroll.counter_made", "agent.enroll.answered", "agent.enroll.base_anchored",
	"agent.poll.stored", "agent.poll.answered", "agent.poll.forgotten", "agent.poll.answered:2",
	"agent.metadata.image_kept", "agent.metadata.director_kept",
	"agent.update.bundle_kept", "agent.update.journal_begun", "agent.update.slot_synced", "agent.update.slot_synced:3",
	"agent.update.offset_kept", "agent.update.offset_kept:2", "agent.update.verified", "agent.update.activated",
	"agent.update.staged", "agent.update.rebooting",
	"agent.commit.slot", "agent.commit.counter", "agent.commit.recorded",
	"agent.file.written", "agent.file.renamed", "agent.file.written:5", "agent.file.renamed:5", "agent.file.renamed:9",
	"agent.slot.name_written", "agent.slot.name_renamed", "agent.slot.active_moved",
}

// agentCrashes gives every point a new device, which dies there once on its way to a proven update.
func agentCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	for i, point := range agentPoints {
		d := w.s.NewDevice(fmt.Sprintf("a%d", i), true)
		l := &life{w: w, d: d, arm: point}
		l.until("gateway/1.0", nil)
		w.whole(d)
		w.check()
		w.happened(1, "device.enrolled", d.ID())
		w.happened(1, "update.proven", d.ID())
		w.happened(0, "quarantine.opened", d.ID())
		if !l.died {
			t.Errorf("%s: the agent never came there", point)
			continue
		}
		book.add(row{point: point, process: "agent", cycle: "enroll, prove, update to 1.0", after: l.outcome()})
	}
	w.fallback()
	w.s.Report()
}

// fallback is the death between noting a failed trial and forgetting its journal.
func (w *world) fallback() {
	const point = "agent.fallback.recorded"
	d := w.s.NewDevice("fallback", true)
	l := &life{w: w, d: d, arm: point}
	failed := false
	l.until("gateway/1.0", func() {
		if failed {
			return
		}
		failed = true // the boot took the trial, and the image did not start
		if err := os.Remove(filepath.Join(d.Slots(), "next")); err != nil {
			w.t.Error(err)
		}
	})
	w.whole(d)
	w.check()
	w.happened(1, "update.proven", d.ID())
	if !l.died || !failed {
		w.t.Errorf("%s: the agent never came there (trial failed: %v)", point, failed)
		return
	}
	w.book.add(row{point: point, process: "agent", cycle: "fall back from a trial that does not start", after: l.outcome()})
}

// life drives one device until the server has the proof of a release.
type life struct {
	w    *world
	d    *demo.Device
	arm  string // the point to die at; empty: none
	died bool
	runs int // of the agent after its death

	tolerant bool // the server may be away: an agent that cannot decide is no failure
}

// lifeRuns bounds the runs of the agent; an ordinary life takes five.
const lifeRuns = 14

// until runs the agent, and restarts the machine whenever the agent asked for it, until release is proven. beforeBoot is
// called before each restart.
func (l *life) until(release string, beforeBoot func()) {
	l.w.t.Helper()
	for range lifeRuns {
		if l.step(beforeBoot) && l.proven(release) {
			return
		}
	}
	l.w.t.Errorf("%s: after %d runs the server says %+v", l.arm, lifeRuns, l.d.Seen())
}

// try runs the agent while a server dies under it: no more often than an ordinary life needs.
func (l *life) try(release string) {
	for range lifeRuns / 2 {
		if l.step(nil) && l.proven(release) {
			return
		}
	}
}

// step runs the agent once. clean says that it ended by itself and was refused nothing.
func (l *life) step(beforeBoot func()) (clean bool) {
	var env []string
	if l.arm != "" && !l.died {
		env = []string{arm(l.arm)}
	}
	code, stdout, stderr := l.d.AgentEnv(env...)
	if l.died {
		l.runs++
	}
	if code == -1 {
		if !died(stderr, l.arm) || l.died {
			l.w.t.Errorf("%s: the agent was killed elsewhere: %s", l.arm, stderr)
		}
		l.died = true
	} else if code != 0 && code != 1 && !l.tolerant {
		l.w.t.Errorf("%s: the agent ended with %d: %s", l.arm, code, stderr)
	}
	if l.d.Reboots() {
		if beforeBoot != nil {
			beforeBoot()
		}
		l.d.Boot()
	}
	return code == 0 && !strings.Contains(stdout, `"refusals":[{`)
}

func (l *life) proven(release string) bool {
	now, err := l.d.Look()
	return err == nil && now.Proven == release && now.Standing == "affirmed" && now.Offered == "" && now.Quarantine == nil
}

func (l *life) outcome() string { return fmt.Sprintf("1.0 proven after %d more runs", l.runs) }

// whole checks what a device keeps: every file of its state parses, no temporary file grows old there, and the active slot
// holds a whole published image.
func (w *world) whole(d *demo.Device) {
	w.t.Helper()
	err := filepath.WalkDir(d.StateDir(), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var any map[string]any
		if err := json.Unmarshal(b, &any); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("state of %s: %v", d.ID(), err)
	}
	active, err := os.ReadFile(filepath.Join(d.Slots(), "active"))
	if err != nil {
		w.t.Error(err)
		return
	}
	image, err := os.ReadFile(filepath.Join(d.Slots(), strings.TrimSpace(string(active))+".img"))
	if err != nil {
		w.t.Error(err)
		return
	}
	if got := w.s.VersionOf(image); got != "1.0" {
		w.t.Errorf("the active slot of %s holds %q, want the image of 1.0", d.ID(), got)
	}
}
