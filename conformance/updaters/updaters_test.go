package updaters_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

const product = "gateway"

// story is a server and two machines of one product.
type story struct {
	t       *testing.T
	stage   *demo.Stage
	golden  *parts.Machine // the publisher's, which boots each release first
	systems []*system
}

// chapter is a release, and what comes of it on each machine.
type chapter struct {
	version  string
	boots    []byte // what a slot holds on the publisher's machine
	slot     []byte // what the release brings; nil: the same
	stranger bool   // the updater's signature is a stranger's
	play     func(*story, *testing.T, *system)
}

func TestRAUCAndSWUpdateOnTheWholeRoad(t *testing.T) {
	t.Parallel()
	s := &story{t: t, stage: demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)}), golden: parts.TestMachine(t, parts.MachineConfig{})}
	one, two := s.slot("0.9"), s.slot("1.0")
	factory := s.stage.Path("factory.slot")
	must(t, os.WriteFile(factory, one, 0o600))
	s.systems = []*system{newRAUC(t, s.stage, factory), newSWUpdate(t, s.stage, factory)}
	for _, c := range []chapter{
		{version: "2.0", boots: one, play: (*story).ownRelease},
		{version: "2.1", boots: two, play: (*story).update},
		{version: "2.2", boots: one, stranger: true, play: (*story).refused},
		{version: "2.3", boots: one, slot: broken(t, one), play: (*story).fallsBack},
		{version: "2.4", boots: one, play: (*story).goesOn},
		{version: "2.5", boots: two, play: (*story).tampered},
	} {
		s.publish(c)
		for _, m := range s.systems {
			t.Run(c.version+" "+m.kind, func(t *testing.T) { c.play(s, t, m) })
		}
	}
	s.stage.Report()
}

// ownRelease: the factory image is proven as the release that it is. Nobody can tell which bundle filled the factory's
// slot, so the release is installed once, into the other one.
func (s *story) ownRelease(t *testing.T, m *system) {
	s.stages(t, m, "2.0")
	s.sees(t, m, "2.0")
	s.boots(t, m, "2.0", m.after("b"))
}

// update: the release before counts until the proof; afterwards the new one stays, however often the machine restarts.
func (s *story) update(t *testing.T, m *system) {
	s.stages(t, m, "2.1")
	if now := m.device.Seen(); now.Proven != product+"/2.0" || now.Offered != product+"/2.1" {
		t.Errorf("installed, not booted: the server says %+v", now)
	}
	s.boots(t, m, "2.1", m.after("a"))
	for range 4 { // a boot loader for RAUC gives three starts to every slot, proven or not
		m.device.Boot()
		if step := m.device.Agent(); step.Verdict != "affirmed" || len(step.Refusals) > 0 {
			t.Fatalf("a restart later: %s", step)
		}
	}
	s.stands(t, m, m.after("a"))
}

// refused: the publisher of cordon signed the release, and the updater does not know who signed the image in it.
func (s *story) refused(t *testing.T, m *system) {
	for range 5 {
		if step := m.device.Agent(); step.Verdict != "affirmed" || step.Staged != "" || !demo.Refused(step, reason.UpdateOverdue, true) {
			t.Errorf("an image that a stranger signed: %s, want %s", step, reason.UpdateOverdue)
		}
	}
	s.stands(t, m, m.after("a"))
	s.sees(t, m, "2.1")
	if n := len(s.events(t, m, "artifact.served", product+"/2.2")); n != 1 {
		t.Errorf("the image was fetched %d times, want once: the updater's answer is always the same", n)
	}
	// Each poll tells what came up since the one before: that the installation failed, and that it stays so.
	if n := len(s.events(t, m, "client.event", product+"/2.2", "the image was refused", m.says)); n < 1 || n > 2 {
		t.Errorf("%d times somebody is told why, want once or twice:\n%s", n, s.stage.Ctl("bob", "why", m.device.ID()))
	}
}

// fallsBack: the image is signed by everybody who should, and does not start.
func (s *story) fallsBack(t *testing.T, m *system) {
	s.stages(t, m, "2.3")
	m.device.FallsBack()
	s.stands(t, m, m.failed("b"))
	if step := m.device.Agent(); step.Verdict != "affirmed" || step.Committed {
		t.Errorf("after the fallback: %s", step)
	}
	s.sees(t, m, "2.1")
	if len(s.events(t, m, "client.event", "the trial of "+product+"/2.3 fell back: another slot was booted")) != 1 {
		t.Errorf("nobody is told why, or more than once:\n%s", s.stage.Ctl("bob", "why", m.device.ID()))
	}
}

// goesOn: none of it is in the way of the next release.
func (s *story) goesOn(t *testing.T, m *system) {
	s.stages(t, m, "2.4")
	s.boots(t, m, "2.4", m.after("b"))
}

// tampered: somebody writes the slot after the updater has filled it. What it boots is not accepted, and so not committed.
func (s *story) tampered(t *testing.T, m *system) {
	s.stages(t, m, "2.5")
	must(t, os.WriteFile(m.slot("a"), s.slot("1.2"), 0o600))
	m.device.Boot()
	if step := m.device.Agent(); step.Verdict != "refused" || step.Committed {
		t.Errorf("a trial of what nobody published: %s", step)
	}
	if now := m.device.Seen(); now.Proven != product+"/2.4" || now.Standing != "refused" || now.Quarantine == nil {
		t.Errorf("a trial of what nobody published: the server says %+v", now)
	}
	for range 3 { // as many starts as a trial has
		m.device.Boot()
	}
	s.stands(t, m, m.failed("a"))
}

// stages runs the agent, which installs a release and asks for the restart.
func (s *story) stages(t *testing.T, m *system, version string) {
	t.Helper()
	if step := m.device.Agent(); step.Staged != product+"/"+version || step.Verdict != "affirmed" {
		t.Fatalf("the device should have proven its boot and installed %s: %s; it stands: %s", version, step, m.stands())
	}
}

// boots restarts into what was staged; only the agent's proof makes it count, and stay.
func (s *story) boots(t *testing.T, m *system, version, stands string) {
	t.Helper()
	before := m.device.Seen().Proven
	m.device.Boot()
	if now := m.device.Seen(); now.Proven != before {
		t.Errorf("booted, not proven: the server says %+v", now)
	}
	if step := m.device.Agent(); step.Verdict != "affirmed" || !step.Committed {
		t.Fatalf("the device should have committed %s: %s", version, step)
	}
	s.sees(t, m, version)
	s.stands(t, m, stands)
}

// sees checks what the server says is proven, in all its answers.
func (s *story) sees(t *testing.T, m *system, version string) {
	t.Helper()
	release := product + "/" + version
	if now := m.device.Seen(); now.Proven != release || now.Standing != "affirmed" || now.Quarantine != nil {
		t.Errorf("the server says %+v, want %s proven", now, release)
	}
	for _, ask := range [][]string{{"device", "show"}, {"why"}} {
		text := strings.Join(strings.Fields(s.stage.Ctl("bob", append(ask, m.device.ID())...)), " ")
		if !strings.Contains(text, " proven "+release+" ") {
			t.Errorf("cordonctl %s does not say that %s is proven: %s", strings.Join(ask, " "), release, text)
		}
	}
}

// stands checks what updater and boot loader say.
func (s *story) stands(t *testing.T, m *system, want string) {
	t.Helper()
	if got := m.stands(); got != want {
		t.Errorf("it stands: %s, want: %s", got, want)
	}
}

// events are those that an operator who asks why is shown of one type, with all the words in them.
func (s *story) events(t *testing.T, m *system, kind string, words ...string) []api.Event {
	t.Helper()
	var why api.Why
	must(t, json.Unmarshal([]byte(s.stage.Ctl("bob", "why", m.device.ID(), "--json")), &why))
	return slices.DeleteFunc(why.Events, func(e api.Event) bool {
		missing := func(word string) bool { return !strings.Contains(string(e.Data), word) }
		return e.Type != kind || slices.ContainsFunc(words, missing)
	})
}

// slot is what a slot holds with a version of the stage in it.
func (s *story) slot(version string) []byte {
	s.t.Helper()
	image, err := os.ReadFile(s.stage.ImageFile(version))
	must(s.t, err)
	slot, err := parts.GRUBSlot(image)
	must(s.t, err)
	return slot
}

// broken is a slot whose first program does not start.
func broken(t *testing.T, slot []byte) []byte {
	t.Helper()
	at := bytes.Index(slot, []byte("MZ"))
	if at < 0 {
		t.Fatal("the slot holds no program")
	}
	out := bytes.Clone(slot)
	copy(out[at:], "no")
	return out
}

// publish publishes a release for both systems. What it boots is described on the golden machine.
func (s *story) publish(c chapter) {
	s.t.Helper()
	must(s.t, s.golden.WriteSlot(parts.SlotA, c.boots))
	_, err := s.golden.Boot(s.t.Context())
	must(s.t, err)
	chain := s.stage.Path(c.version + "-boot.json")
	must(s.t, os.WriteFile(chain, []byte(s.stage.Sign("boot-chain", "--log", s.golden.EventLog())), 0o600))
	args := []string{"publish", "--product", product, "--version", c.version, "--key", "publisher.pem"}
	slot := c.boots
	if c.slot != nil {
		slot = c.slot
	}
	for _, m := range s.systems {
		pack := m.updater
		if c.stranger {
			pack = m.stranger
		}
		b, err := pack(s.t.Context(), c.version, slot)
		must(s.t, err)
		file := s.stage.Path(c.version + "-" + m.kind)
		must(s.t, os.WriteFile(file, b, 0o600))
		args = append(args, "--component", m.kind+"="+file+",hw="+m.hardware()+",installer="+m.kind+",boot_chain="+chain)
	}
	s.stage.Sign(s.stage.By("ci-builder", args...)...)
}
