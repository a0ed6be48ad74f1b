//go:build device

package device_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// What the yard publishes.
const (
	genuineVersion  = "1"
	recoveryVersion = "0.9"
	genuineRelease  = device.Product + "/" + genuineVersion
	recoveryRelease = device.Product + "/" + recoveryVersion
)

// yard is a fleet whose machines are tampered with. All scenarios of a yard share its server, and a machine that came back
// from one is the victim of the next.
type yard struct {
	t       *testing.T // outlives the scenarios
	ownKeys bool
	before  *yard // Optional: whose scenarios come before

	fleet    *device.Fleet // nil until a scenario needs it
	machines int
	baseline bool            // the holders have signed what the platform measures
	genuine  *device.Machine // proven, on or off; nil: the next scenario makes one
	id       string          // of genuine
	last     *device.Machine // that a scenario was given
	factory  *device.Machine // never switched on: what the disk of a machine holds as it leaves the factory
}

// victim is a machine in one scenario, with the server around it.
type victim struct {
	*device.Fleet
	t *testing.T
	n *narrator
	y *yard
	m *device.Machine
	// origin has the same TPM as m had, and a genuine disk and firmware variables. It stays off.
	origin  *device.Machine
	changed bool // it has installed something, so its disk is not that of the factory any more
	id      string
}

// patient bounds a scenario that may have to wait for machines of other tests to end first.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*storyTime)
	t.Cleanup(cancel)
	return ctx
}

// open makes the fleet: a factory release, and a recovery release that the holders allow for machines in quarantine.
func (y *yard) open() {
	f := device.NewFleet(y.t, device.FleetConfig{Bin: programs.Dir(y.t), OwnKeys: y.ownKeys})
	recovery := f.Build(recoveryVersion, func(s *device.ImageSpec) { s.Files = map[string][]byte{"etc/motd": []byte("recovery\n")} })
	f.Build(genuineVersion, nil)
	must(y.t, f.Ceremony("product recovery --dir ceremony --product "+device.Product+" --image "+recovery))
	f.Publish(recoveryVersion, "--recovery")
	f.Publish(genuineVersion)
	y.fleet, y.factory = f, f.Machine("factory", genuineVersion)
}

// take gives a scenario the genuine machine of the yard, which is on or off. A scenario that leaves it genuine and proven
// gives it back.
func (y *yard) take(t *testing.T, n *narrator) *victim {
	t.Helper()
	if y.fleet == nil {
		y.open()
	}
	v := &victim{Fleet: y.fleet.For(t), t: t, n: n, y: y}
	if y.before != nil && y.before.genuine != nil { // one machine runs at a time
		must(t, y.before.genuine.PowerOff(patient(t)))
	}
	if y.genuine == nil {
		if y.last != nil { // a scenario that failed has left it as it was
			y.last.PowerCut()
		}
		y.enroll(v)
	}
	v.m, v.id = y.genuine, y.id
	y.genuine, y.last = nil, v.m // until it is back
	return v
}

// running is take for a machine that is on.
func (y *yard) running(t *testing.T, n *narrator) *victim {
	t.Helper()
	v := y.take(t, n)
	n.join(v.m)
	if !v.m.On() {
		ctx := patient(t)
		must(t, v.m.Start(ctx))
		v.provenAgain(ctx)
	}
	return v
}

// victim is take for a machine that is off, and that has an origin to be repaired from.
func (y *yard) victim(t *testing.T, n *narrator) *victim {
	t.Helper()
	v := y.take(t, n)
	must(t, v.m.PowerOff(patient(t)))
	v.origin = v.m
	m, err := v.origin.Clone(t.Context(), filepath.Join(t.TempDir(), "machine"), nil)
	must(t, err)
	v.Keep("victim", m)
	v.m = n.cast(m)
	return v
}

// enroll makes a machine and has it prove its factory image. It stays on.
func (y *yard) enroll(v *victim) {
	y.machines++
	name := fmt.Sprintf("yard-%v-%d", y.ownKeys, y.machines)
	m := y.fleet.Machine(name, genuineVersion)
	v.n.cast(m)
	id := v.ID(m)
	ctx := patient(v.t)
	must(v.t, m.Start(ctx))
	if first := event(v.t, ctx, m, 0, "pcrs"); !y.baseline {
		v.Platform(first)
		y.baseline = true
	}
	v.Claim(id)
	d := v.WaitSeen(ctx, m, id, "the proof of the factory image", proven(genuineVersion))
	v.n.saw("machine %s enrolled; its first boot is proven: %s, %s", id, d.Proven, d.Standing)
	y.genuine, y.id, v.id = m, id, id
	v.keep("genuine-boot", attestation.Affirmed)
}

// tamper does one of the changes that 'device break' knows.
func (v *victim) tamper(name string) {
	v.t.Helper()
	what, err := v.m.Break(v.t.Context(), name)
	must(v.t, err)
	v.n.saw("while the machine is off: %s", what)
}

// refusal is what the server came to about a tampered boot.
type refusal struct {
	reasons []reason.Reason
	pcrs    []int
	why     api.Why
}

func (r refusal) String() string {
	var names []string
	for _, x := range r.reasons {
		names = append(names, string(x))
	}
	text := strings.Join(names, ", ")
	if len(r.pcrs) > 0 {
		text += " in PCR " + strings.Trim(fmt.Sprint(r.pcrs), "[]")
	}
	return text + ", quarantined, recovery only"
}

// boot switches the tampered machine on and waits for what the server says.
func (v *victim) boot(ctx context.Context) refusal {
	v.t.Helper()
	must(v.t, v.m.Start(ctx))
	return v.refused(ctx)
}

// refused waits until the machine is in quarantine, where it may have the recovery release alone.
func (v *victim) refused(ctx context.Context) refusal {
	v.t.Helper()
	v.WaitSeen(ctx, v.m, v.id, "the quarantine", func(d api.Device) bool { return d.Quarantine != nil })
	why := v.Why(v.id)
	v.told("boot", "firmware")
	d := why.Device
	if why.Decision.Release != recoveryRelease || d.Offered != "" {
		v.t.Errorf("in quarantine the device may have %q, and is offered %q", why.Decision.Release, d.Offered)
	}
	if d.Segment != "restricted" || d.Standing != "refused" {
		v.t.Errorf("in quarantine the device is %s in segment %s", d.Standing, d.Segment)
	}
	if why.Verdict == nil || why.Verdict.Outcome != attestation.Refused {
		v.t.Fatalf("the server does not say why: %+v", why.Verdict)
	}
	r := refusal{reasons: why.Verdict.Reasons(), why: why}
	for _, f := range why.Verdict.Findings {
		at := "verdict"
		if f.PCR != nil {
			at = fmt.Sprintf("PCR %d", *f.PCR)
			if !slices.Contains(r.pcrs, *f.PCR) {
				r.pcrs = append(r.pcrs, *f.PCR)
			}
		}
		if f.Event != nil {
			at += fmt.Sprintf(", event %d", *f.Event)
		}
		v.n.saw("cordonctl why: %s: %s: %s", at, f.Reason, f.Detail)
	}
	if why.Changes != nil {
		for _, c := range why.Changes.Changes {
			v.n.saw("cordonctl why: PCR %d was: %s; is: %s", c.PCR, c.Before, c.After)
		}
	}
	slices.Sort(r.pcrs)
	v.n.saw("quarantined since %s; the only release that it may have is %s", d.Quarantine.Since.Format("15:04:05"), why.Decision.Release)
	return r
}

// told repeats what the machine itself said in its last boot.
func (v *victim) told(names ...string) {
	v.t.Helper()
	lines, err := v.m.Lines()
	must(v.t, err)
	last, err := v.m.Boots()
	must(v.t, err)
	for _, l := range lines {
		if l.Event != nil && l.Event.Boot == last && slices.Contains(names, l.Event.Name) {
			v.n.saw("the machine: %s", l.Event)
		}
	}
}

// names demands that a finding says in plain words what was changed.
func (r refusal) names(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if !slices.ContainsFunc(r.why.Verdict.Findings, func(f attestation.Finding) bool { return strings.Contains(f.Detail, w) }) {
			t.Errorf("no finding says %q", w)
		}
	}
}

// changed demands that the server tells how a register is measured otherwise than in the machine's last affirmed boot.
func (r refusal) changed(t *testing.T, pcr int, words string) {
	t.Helper()
	if r.why.Changes == nil || !slices.ContainsFunc(r.why.Changes.Changes, func(c api.BootChange) bool {
		return c.PCR == pcr && strings.Contains(c.After, words) && !strings.Contains(c.Before, words)
	}) {
		t.Errorf("nothing says that PCR %d now says %q: %+v", pcr, words, r.why.Changes)
	}
}

// repaired puts the genuine disk and firmware back, as a technician does, and has the machine come back.
func (v *victim) repaired(ctx context.Context) string {
	v.t.Helper()
	v.m.PowerCut()
	must(v.t, v.m.Load(v.origin.Dir(), device.Disk, device.Vars))
	v.n.saw("a technician cuts the power and puts the genuine disk and firmware settings back")
	must(v.t, v.m.Start(ctx))
	return v.letBack(ctx, genuineRelease, genuineRelease)
}

// letBack waits for the fresh proof of a release, and has two people end the quarantine. The device is then brought to
// last.
func (v *victim) letBack(ctx context.Context, release, last string) string {
	v.t.Helper()
	d := v.WaitSeen(ctx, v.m, v.id, "a fresh proof over a challenge", func(d api.Device) bool {
		return d.Quarantine != nil && d.Quarantine.RecoveredAt != nil && (d.Proven == release || d.Proven == recoveryRelease)
	})
	v.n.saw("it has proven %s over a challenge, and is still %s", d.Proven, d.Standing)
	if d.Standing != "refused" {
		v.t.Errorf("without approvals the device is %s", d.Standing)
	}
	stay := d.Proven == last // and nobody installs the recovery release
	if stay {
		must(v.t, v.m.Command(ctx, "pause"))
	}
	v.approve("bob", 0, "")
	v.approve("bob", 1, reason.SamePerson)
	if v.Seen(v.id).Quarantine == nil {
		v.t.Error("one person alone has ended the quarantine")
	}
	v.approve("carol", 0, "")
	if stay {
		must(v.t, v.m.Command(ctx, "resume"))
	}
	v.WaitSeen(ctx, v.m, v.id, "the end of the quarantine", func(d api.Device) bool {
		return d.Quarantine == nil && d.Standing == "affirmed" && d.Proven == last
	})
	v.n.saw("bob and carol have let it back; it is affirmed on %s", last)
	v.changed = !stay
	return "back after two people"
}

func (v *victim) approve(person string, code int, want reason.Reason) {
	v.t.Helper()
	got, stdout, stderr := v.Stage.Run("cordonctl", v.Stage.By(person, "device", "release", v.id)...)
	if got != code || !strings.Contains(stdout+stderr, string(want)) {
		v.t.Errorf("approval of %s: exit %d, want %d %s:\n%s%s", person, got, code, want, stdout, stderr)
	}
	if want != "" {
		v.n.saw("%s approves once more: %s", person, want)
	}
}

// returned gives the machine, which runs, to the next scenario.
func (v *victim) returned(ctx context.Context) {
	v.t.Helper()
	must(v.t, v.m.PowerOff(ctx))
	must(v.t, v.origin.Load(v.m.Dir(), device.TPM)) // its clock and counters have gone on
	if v.t.Failed() {
		return
	}
	v.y.genuine = v.origin // with its own disk
}

// genuineLog is the event log of the machine's genuine boot, as anybody has it who was root on it once.
func (v *victim) genuineLog() []byte {
	v.t.Helper()
	r := v.Report()
	for _, a := range slices.Backward(r.Appraisals) {
		if a.Device == v.id && strings.Contains(string(a.Verdict), `"affirmed"`) {
			return r.Logs[a.Input.Evidence.LogDigest.String()]
		}
	}
	v.t.Fatal("the server has no event log of the genuine boot")
	return nil
}

// intoInitrd puts files over those of the initial file system of every image on a machine that is off.
func (v *victim) intoInitrd(m *device.Machine, files map[string][]byte) {
	v.t.Helper()
	must(v.t, m.EditImages(v.t.Context(), func(s map[string][]byte) error {
		var err error
		s[".initrd"], err = parts.AppendInitrd(s[".initrd"], files)
		return err
	}))
}

// factoryCopy is a machine to tamper with that is never switched on: its files are what counts.
func (v *victim) factoryCopy() *device.Machine {
	v.t.Helper()
	m, err := v.y.factory.Clone(v.t.Context(), filepath.Join(v.t.TempDir(), "changed"), nil)
	must(v.t, err)
	return m
}

// write makes files of the EFI system partition of the running machine those of another machine, which is off. What that
// one does not have is removed.
func (v *victim) write(ctx context.Context, from *device.Machine, files ...string) {
	v.t.Helper()
	esp, err := from.ESP()
	must(v.t, err)
	for _, name := range files {
		line := "rm -f /esp/" + name
		if names, err := esp.List(ctx, path.Dir(name)); err == nil && slices.Contains(names, path.Base(name)) {
			content, err := esp.Read(ctx, name)
			must(v.t, err)
			line = fmt.Sprintf("mkdir -p /esp/%s && wget -q -O /tmp/new %s && cp /tmp/new /esp/%s && rm /tmp/new", path.Dir(name), v.offer(content), name)
		}
		mark, err := v.m.Mark()
		must(v.t, err)
		must(v.t, v.m.Command(ctx, "sh "+line+" && sync && echo written || echo not written"))
		said, err := v.m.WaitText(ctx, mark, "written")
		must(v.t, err)
		if strings.Contains(said, "not written") {
			v.t.Fatalf("%s: %s", line, said)
		}
	}
}

// offer serves bytes to the machine.
func (v *victim) offer(content []byte) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(content) // the machine says whether it got it
	}))
	v.t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "10.0.2.2", 1) + "/file"
}
