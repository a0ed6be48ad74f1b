//go:build device

package device_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// swapped puts another TPM of the same make into the machine: that is another device.
func (y *yard) swapped(t *testing.T, n *narrator) string {
	v, ctx := y.victim(t, n), patient(t)
	before := v.Seen(v.id)
	v.tamper("tpm")
	other := v.ID(v.m)
	must(t, v.m.Start(ctx))
	got := v.stranger(ctx, v.m, other)
	v.undisturbed(before)
	v.m.PowerCut()
	must(t, v.m.Load(v.origin.Dir(), device.Disk, device.TPM))
	must(t, v.m.Start(ctx))
	v.provenAgain(ctx)
	v.returned(ctx)
	return got + "; the first one comes back with its TPM"
}

// cloned copies the disk, with all that the agent keeps on it, to a second machine with a TPM of its own.
func (y *yard) cloned(t *testing.T, n *narrator) string {
	v, ctx := y.victim(t, n), patient(t)
	before := v.Seen(v.id)
	clone, err := v.m.Clone(ctx, filepath.Join(t.TempDir(), "clone"), &parts.TPMConfig{Name: "clone"})
	must(t, err)
	v.Keep("clone", n.cast(clone))
	other := v.ID(clone)
	must(t, clone.Start(ctx))
	got := v.stranger(ctx, clone, other)
	must(t, clone.PowerOff(ctx))
	got = strings.Replace(got, "nothing for it", v.got(other), 1)
	v.undisturbed(before)
	must(t, v.m.Start(ctx))
	v.provenAgain(ctx)
	v.returned(ctx)
	return got + "; the original undisturbed"
}

// stranger waits until a machine with another TPM has polled as what it is.
func (v *victim) stranger(ctx context.Context, m *device.Machine, id string) string {
	v.t.Helper()
	if id == v.id {
		v.t.Fatal("it has the TPM of the original")
	}
	first := v.WaitSeen(ctx, m, id, "the enrollment of a stranger", func(d api.Device) bool { return d.SeenAt != nil })
	d := v.WaitSeen(ctx, m, id, "another poll of it", func(d api.Device) bool { return d.SeenAt.After(*first.SeenAt) })
	v.n.saw("the server knows it as %s: %s, %s, segment %s, %v", id, d.Lifecycle, d.Standing, d.Segment, v.Why(id).Decision.Reasons)
	if d.Offered != "" || d.Proven != "" || d.Segment != "restricted" {
		v.t.Errorf("it got something: %+v", d)
	}
	return "another device, " + d.Lifecycle + ", nothing for it"
}

// got is what the audit log says that a device was given.
func (v *victim) got(id string) string {
	v.t.Helper()
	certificate, release := "no certificate", "no release"
	for _, e := range v.Report().Events {
		if e.Subject != id {
			continue
		}
		v.n.saw("audit log: %d %s %s", e.Number, e.Type, e.Data)
		switch e.Type {
		case "certificate.issued":
			certificate = "a certificate"
		case "update.offered":
			release = "a release"
		}
	}
	return certificate + ", " + release
}

// undisturbed demands that the original is as it was.
func (v *victim) undisturbed(before api.Device) {
	v.t.Helper()
	d := v.Seen(v.id)
	if d.Quarantine != nil || d.Proven != before.Proven || !d.ProvenAt.Equal(*before.ProvenAt) || !d.SeenAt.Equal(*before.SeenAt) {
		v.t.Errorf("the original is disturbed: %+v, before %+v", d, before)
	}
}

// rolledBack puts the disk of an earlier day back, when the release before was on it. It is the last one of its yard,
// because it publishes.
func (y *yard) rolledBack(t *testing.T, n *narrator) string {
	v, ctx := y.victim(t, n), patient(t)
	const newer = device.Product + "/2"
	v.Build("2", func(s *device.ImageSpec) { s.Files = map[string][]byte{"etc/motd": []byte("the second release\n")} })
	v.Publish("2")
	must(t, v.m.Start(ctx))
	v.WaitSeen(ctx, v.m, v.id, "the proof of the update", proven("2"))
	blessed(t, ctx, v.m)
	must(t, v.m.PowerOff(ctx))
	saved := filepath.Join(t.TempDir(), "second")
	must(t, v.m.Save(saved, device.Disk))
	n.saw("the machine has updated to %s and proven it", newer)
	must(t, v.m.Load(v.origin.Dir(), device.Disk))
	n.saw("while the machine is off: its disk of the day before, with %s on it", genuineRelease)
	r := v.boot(ctx)
	r.names(t, "booted release "+genuineRelease+", which it had left")
	v.keep("rolled-back", attestation.Refused)
	v.m.PowerCut()
	must(t, v.m.Load(saved, device.Disk))
	must(t, v.m.Start(ctx))
	got := fmt.Sprintf("%v, %s", r, v.letBack(ctx, newer, newer))
	must(t, v.m.PowerOff(ctx))
	return got
}

// harvested lets somebody who is root on the genuine machine make polls, keep them, and send them from the tampered
// machine, while the challenge in them is still good.
func (y *yard) harvested(t *testing.T, n *narrator) string {
	v, ctx := y.victim(t, n), patient(t)
	tool := buildHarvest(t, ctx)
	esp, err := v.m.ESP()
	must(t, err)
	must(t, esp.Copy(ctx, "harvest", tool))
	must(t, v.m.Start(ctx))
	v.provenAgain(ctx)
	must(t, v.m.Command(ctx, "pause"))
	mark, err := v.m.Mark()
	must(t, err)
	must(t, v.m.Command(ctx, "sh cp /esp/harvest /tmp/harvest && chmod 700 /tmp/harvest && /tmp/harvest"))
	if said, err := v.m.WaitText(ctx, mark, "harvest: "); err != nil || !strings.Contains(said, "harvest: taken") {
		t.Fatalf("%s: %v", said, err)
	}
	must(t, v.m.PowerOff(ctx))
	before := v.Seen(v.id)
	n.saw("root on the genuine machine has made two polls with its TPM: one that the server accepted, one that was never sent")
	v.withTool(tool)
	if mark, err = v.m.Mark(); err != nil {
		t.Fatal(err)
	}
	must(t, v.m.Start(ctx))
	var got []string
	for _, name := range []string{"unsent", "accepted", "transplanted"} {
		got = append(got, v.replayed(ctx, mark, name))
	}
	v.m.PowerCut()
	after := v.Seen(v.id)
	if after.Quarantine != nil || !after.ProvenAt.Equal(*before.ProvenAt) || !after.LeaseUntil.Equal(*before.LeaseUntil) || after.Offered != "" {
		t.Errorf("the server took it for something: %+v, before %+v", after, before)
	}
	n.saw("the lease is that of before, until %s; the tampered machine cannot prolong it", after.LeaseUntil.Format("15:04:05"))
	must(t, v.m.Load(v.origin.Dir(), device.Disk))
	must(t, v.m.Start(ctx))
	v.provenAgain(ctx)
	v.returned(ctx)
	return strings.Join(got, ", ") + ", nothing gained"
}

// withTool makes the machine boot an image with another command line, in which the tool runs instead of the agent.
func (v *victim) withTool(tool string) {
	v.t.Helper()
	b, err := os.ReadFile(tool)
	must(v.t, err)
	v.tamper("shell")
	v.intoInitrd(v.m, map[string][]byte{"bin/cordon-agent": b, "etc/cordon/agent": []byte("-submit\n")})
	v.n.saw("and instead of the agent it runs a program that sends what was kept, with the TLS key of the machine's TPM")
}

// replayed reads what the server answered to a kept poll.
func (v *victim) replayed(ctx context.Context, after device.Mark, name string) string {
	v.t.Helper()
	said, err := v.m.WaitText(ctx, after, "harvest: "+name+" ")
	must(v.t, err)
	v.n.saw("%s", said)
	answer := strings.TrimSpace(said[strings.Index(said, name)+len(name):])
	switch {
	case strings.HasPrefix(answer, `verdict="affirmed"`):
		return name + ": the answer of that day"
	case strings.Contains(answer, `verdict="refused"`):
		_, rest, _ := strings.Cut(answer, `reasons="`)
		why, _, _ := strings.Cut(rest, `"`)
		return name + ": " + why
	}
	return name + ": " + answer
}
