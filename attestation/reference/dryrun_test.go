package reference_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// proven is the stored boot of a device that runs release.
func proven(t *testing.T, s *evidencetest.Scenario, release string) reference.LastBoot {
	t.Helper()
	in := s.Input()
	log, err := eventlog.Parse(in.Log)
	if err != nil {
		t.Fatal(err)
	}
	quoted := map[int]digest.SHA256{}
	for _, p := range in.Evidence.PCRs {
		quoted[p.Index] = p.Value
	}
	return reference.LastBoot{Log: log, Quoted: quoted, Release: release, Values: evidencetest.Release(release), Baseline: s.Baseline}
}

// The promise of a dry run: what it says is what the device then quotes.
func TestPredictsWhatTheDeviceThenQuotes(t *testing.T) {
	t.Parallel()
	s := evidencetest.NewScenario("dry run", "lamp/1.0")
	got := reference.DryRun(proven(t, s, "lamp/1.0"), evidencetest.Release("lamp/2.0"))
	if len(got.Problems) != 0 {
		t.Fatalf("problems: %+v", got.Problems)
	}
	s.Boot("lamp/2.0")
	quoted := map[int]digest.SHA256{}
	for _, p := range s.Input().Evidence.PCRs {
		quoted[p.Index] = p.Value
	}
	if len(got.PCRs) != len(quoted) {
		t.Errorf("%d registers predicted, %d quoted", len(got.PCRs), len(quoted))
	}
	changed := []int{}
	for _, p := range got.PCRs {
		if p.Then != quoted[p.Index] {
			t.Errorf("PCR %d: predicted %s, quoted %s", p.Index, p.Then, quoted[p.Index])
		}
		if p.Changes {
			changed = append(changed, p.Index)
		}
	}
	if len(changed) != 3 || changed[0] != 4 || changed[1] != 9 || changed[2] != 11 {
		t.Errorf("changed: %v, want 4, 9 and 11", changed)
	}
}

func TestSaysWhyADeviceCannotBePredicted(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*reference.LastBoot, *reference.Values)
		want   reference.Obstacle
		text   string
	}{
		"no baseline": {func(b *reference.LastBoot, _ *reference.Values) { b.Baseline = nil }, reference.NoBaseline, "nobody has signed"},
		"other firmware": {func(b *reference.LastBoot, _ *reference.Values) {
			other := reference.LearnBaseline("board", platform("x"))
			b.Baseline = &other
		}, reference.OtherPlatform, "PCR 0"},
		"other way": {func(_ *reference.LastBoot, to *reference.Values) { to.Boot = "elsewhere" }, reference.OtherBootPath, "elsewhere"},
		"another image ran": {func(b *reference.LastBoot, _ *reference.Values) { b.Values = evidencetest.Release("lamp/0.9") },
			reference.OtherBootPath, "its log does not show"},
		"log of another boot": {func(b *reference.LastBoot, _ *reference.Values) { b.Quoted[11] = digest.Of([]byte("x")) },
			reference.LogDiffers, "PCR 11"},
		"unmanaged": {func(b *reference.LastBoot, _ *reference.Values) {
			e := eventlog.Event{Index: len(b.Log.Events), PCR: 12, Type: eventlog.TypeIPL, Digest: digest.Of([]byte("a driver")), Data: []byte("a driver")}
			b.Log.Events = append(b.Log.Events, e)
			b.Quoted[12] = eventlog.Extend(b.Quoted[12], e.Digest)
		}, reference.UnmanagedEvents, "PCR 12"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boot, to := proven(t, evidencetest.NewScenario("dry run "+name, "lamp/1.0"), "lamp/1.0"), evidencetest.Release("lamp/2.0")
			row.change(&boot, &to)
			got := reference.DryRun(boot, to)
			for _, p := range got.Problems {
				if p.Kind == row.want && strings.Contains(p.Detail, row.text) {
					return
				}
			}
			t.Errorf("got %+v, want %s with %q", got.Problems, row.want, row.text)
		})
	}
}

// What else measures into the image's registers will do so again: the prediction has it behind the new events.
func TestPutsUnmanagedEventsBehindTheNewOnes(t *testing.T) {
	t.Parallel()
	boot := proven(t, evidencetest.NewScenario("dry run behind", "lamp/1.0"), "lamp/1.0")
	d := digest.Of([]byte("a driver"))
	boot.Log.Events = append(boot.Log.Events, eventlog.Event{Index: len(boot.Log.Events), PCR: 11, Type: eventlog.TypeIPL, Digest: d})
	boot.Quoted[11] = eventlog.Extend(boot.Quoted[11], d)
	to := evidencetest.Release("lamp/2.0")
	for _, p := range reference.DryRun(boot, to).PCRs {
		for _, v := range to.PCRs {
			if p.Index == 11 && v.Index == 11 && p.Then != eventlog.Extend(v.Value, d) {
				t.Errorf("PCR 11: got %s, want the release's value with the event behind it", p.Then)
			}
		}
	}
}

// shaped makes the Reference Values of a release that devices boot with Secure Boot off, or on without the kernel's extra
// measurement.
func shaped(release string) reference.Values {
	v := evidencetest.Release(release)
	off := v.PCRs[0].Events
	on := reference.PCR{Index: 4, Events: off[:len(off)-1]}
	for _, e := range on.Events {
		on.Value = eventlog.Extend(on.Value, e.Digest)
	}
	v.Version = reference.VersionShapes
	v.Shapes = []reference.Shape{{What: "off", PCRs: []reference.PCR{}}, {What: "on", SecureBoot: true, PCRs: []reference.PCR{on}}}
	return v
}

// Of several ways to boot a release, a device goes on in the one in which it boots now.
func TestPredictsTheWayInWhichTheDeviceBoots(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		tweaks []evidencetest.Tweak
		shape  int
	}{"Secure Boot off": {nil, 0}, "Secure Boot on": {[]evidencetest.Tweak{evidencetest.SecureBootOn()}, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := shaped("lamp/1.0"), shaped("lamp/2.0")
			now := from
			if row.shape == 1 {
				now.PCRs = append([]reference.PCR{from.Shapes[1].PCRs[0]}, from.PCRs[1:]...)
			}
			built := evidencetest.DirectUKI(now, row.tweaks...)
			log, err := eventlog.Parse(built.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			base := reference.LearnBaseline("board", built.PCRs())
			got := reference.DryRun(reference.LastBoot{Log: log, Quoted: built.PCRs(), Release: "lamp/1.0", Values: from, Baseline: &base}, to)
			if len(got.Problems) > 0 {
				t.Fatalf("problems: %+v", got.Problems)
			}
			want := to.PCRs[0].Value
			if row.shape == 1 {
				want = to.Shapes[1].PCRs[0].Value
			}
			for _, p := range got.PCRs {
				if p.Index == 4 && p.Then != want {
					t.Errorf("PCR 4: got %s, want that of the shape %s", p.Then, name)
				}
			}
		})
	}
}

// A boot loader that the new release does not name decides what is measured, so nothing is promised.
func TestPromisesNothingForAnUnknownBootLoader(t *testing.T) {
	t.Parallel()
	boot, to := proven(t, evidencetest.NewScenario("dry run loader", "lamp/1.0"), "lamp/1.0"), evidencetest.Release("lamp/2.0")
	boot.Values.Boot, to.Boot = reference.BootSystemdBoot, reference.BootSystemdBoot
	got := reference.DryRun(boot, to)
	if len(got.Problems) != 1 || got.Problems[0].Kind != reference.OtherBootPath || !strings.Contains(got.Problems[0].Detail, "no boot loader") {
		t.Errorf("got %+v, want the unknown boot loader", got.Problems)
	}
}
