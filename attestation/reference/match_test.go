package reference_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

const vectors = "../../conformance/vectors/measured-boot"

// genuine reads a recorded boot: its log, and the PCRs of the machine.
func genuine(t testing.TB, name string) (eventlog.Log, map[int]digest.SHA256) {
	t.Helper()
	return boot(t, filepath.Join(vectors, name))
}

// boot reads the files of a recorded boot.
func boot(t testing.TB, dir string) (eventlog.Log, map[int]digest.SHA256) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "eventlog.bin"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pcrs.txt"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := map[int]digest.SHA256{}
	for line := range strings.Lines(string(text)) {
		var pcr int
		var hex string
		if _, err := fmt.Sscanf(line, "SHA256 PCR%d %s", &pcr, &hex); err != nil {
			t.Fatal(err)
		}
		if quoted[pcr], err = digest.Parse(hex); err != nil {
			t.Fatal(err)
		}
	}
	return l, quoted
}

// valuesOf makes the Reference Values that a log would have matched.
func valuesOf(l eventlog.Log) reference.Values {
	v := reference.Values{Version: reference.Version, Image: digest.Of([]byte("image")), Boot: reference.BootDirectUKI}
	for _, pcr := range []int{4, 9, 11, 12} {
		p := reference.PCR{Index: pcr, Events: []reference.Event{}}
		for _, e := range l.Events {
			if e.PCR == pcr {
				p.Events = append(p.Events, reference.Event{Digest: e.Digest, What: e.Explain()})
				p.Value = eventlog.Extend(p.Value, e.Digest)
			}
		}
		v.PCRs = append(v.PCRs, p)
	}
	return v
}

// The formula of the prediction against the genuine boot: its shape is the log's, and the parts that can be computed
// without the image are equal.
func TestPredictionHasTheShapeOfTheGenuineBoot(t *testing.T) {
	t.Parallel()
	l, quoted := genuine(t, "direct-uki-v1-no-secureboot")
	want := valuesOf(l)
	if got := want.Match(l, quoted); len(got) != 0 {
		t.Fatalf("the log's own values do not match: %v", got)
	}
	// The command line of the recorded image; its .cmdline is not predicted from a stand-in kernel.
	const recorded = "console=ttyS0,115200 quiet loglevel=4 panic=3 fw.version=1"
	got := predict(t, buildPE(true, with(".cmdline", []byte(recorded)), nil))
	for i := range want.PCRs {
		if got.PCRs[i].Index != want.PCRs[i].Index || len(got.PCRs[i].Events) != len(want.PCRs[i].Events) {
			t.Fatalf("PCR %d: got %d events, want %d", want.PCRs[i].Index, len(got.PCRs[i].Events), len(want.PCRs[i].Events))
		}
	}
	same := map[int][]int{0: {0, 1}, 1: {0}, 2: {0, 2, 4, 5, 6}}
	for pcr, rows := range same {
		for _, i := range rows {
			if got.PCRs[pcr].Events[i].Digest != want.PCRs[pcr].Events[i].Digest {
				t.Errorf("PCR %d, event %d (%s): got %s, want %s", want.PCRs[pcr].Index, i,
					want.PCRs[pcr].Events[i].What, got.PCRs[pcr].Events[i].Digest, want.PCRs[pcr].Events[i].Digest)
			}
		}
	}
	if got.PCRs[3].Value != quoted[12] {
		t.Errorf("PCR 12: got %s, want %s", got.PCRs[3].Value, quoted[12])
	}
}

// What was computed from the image files before a recorded boot is what the firmware then measured.
func TestRecordedPredictionsAreInTheLogs(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sdboot-ab-1-v1", "sdboot-ab-2-v2-after-update"} {
		l, quoted := genuine(t, name)
		text, err := os.ReadFile(filepath.Join(vectors, name, "predicted.txt"))
		if err != nil {
			t.Fatal(err)
		}
		measured := map[string]bool{quoted[4].String(): true, quoted[11].String(): true}
		for _, e := range l.Events {
			measured[e.Digest.String()] = true
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if !measured[words[len(words)-1]] {
				t.Errorf("%s: %q was predicted and not measured", name, strings.TrimSpace(line))
			}
		}
	}
}

func TestBuiltLogsAreLikeGenuineOnes(t *testing.T) {
	t.Parallel()
	v := predict(t, uki())
	b := evidencetest.DirectUKI(v)
	l, err := eventlog.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for pcr, value := range l.Replay() {
		if b.PCRs()[pcr] != value {
			t.Errorf("PCR %d: replay %s, builder %s", pcr, value, b.PCRs()[pcr])
		}
	}
	if got := l.Disagreements(); len(got) != 0 {
		t.Errorf("disagreements %v", got)
	}
	if on, known := l.SecureBoot(); on || !known {
		t.Errorf("Secure Boot: on=%t known=%t, want off", on, known)
	}
	for _, e := range l.Events {
		if strings.HasPrefix(e.Explain(), eventlog.Unexplained) {
			t.Errorf("event %d: %s", e.Index, e.Explain())
		}
	}
	if got := v.Match(l, b.PCRs()); len(got) != 0 {
		t.Errorf("the log of the image does not match its values: %v", got)
	}
	genuineLog, _ := genuine(t, "direct-uki-v1-no-secureboot")
	var got, want []string
	for i, list := range [][]eventlog.Event{l.Events, genuineLog.Events} {
		for _, e := range list {
			if strings.Contains(e.Explain(), "boot option Boot") {
				continue // machines differ in how many they have
			}
			row := fmt.Sprintf("%d %s", e.PCR, e.TypeName())
			if i == 0 {
				got = append(got, row)
			} else {
				want = append(want, row)
			}
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	on, err := eventlog.Parse(evidencetest.DirectUKI(v, evidencetest.SecureBootOn()).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if state, known := on.SecureBoot(); !state || !known {
		t.Errorf("Secure Boot: on=%t known=%t, want on", state, known)
	}
}

func TestMatchNamesTheEvent(t *testing.T) {
	t.Parallel()
	good := predict(t, uki())
	bad := predict(t, buildPE(true, with(".cmdline", []byte(commandLine+" init=/bin/sh")), nil))
	b := evidencetest.DirectUKI(bad)
	l, err := eventlog.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	diffs := map[int]reference.Difference{}
	for _, d := range good.Match(l, b.PCRs()) {
		diffs[d.PCR] = d
	}
	if len(diffs) != 3 {
		t.Fatalf("got differences %v, want PCRs 4, 9 and 11", diffs)
	}
	d := diffs[11]
	if d.Event == nil || l.Events[*d.Event].PCR != 11 || d.Seen != events(bad, 11)[5].String() || d.Expected != events(good, 11)[5].String() {
		t.Errorf("PCR 11: got %+v", d)
	}
	want := fmt.Sprintf("event %d in PCR 11: content of section .cmdline", *d.Event)
	if !strings.HasPrefix(d.Detail, want) || !strings.Contains(d.Detail, "the kernel command line") {
		t.Errorf("PCR 11: got %q, want %q...", d.Detail, want)
	}
	if !strings.Contains(diffs[9].Detail, "the kernel's load options") {
		t.Errorf("PCR 9: got %q", diffs[9].Detail)
	}
}

func TestMatchSeesMissingExtraAndForeignMeasurements(t *testing.T) {
	t.Parallel()
	v := predict(t, uki())
	l, err := eventlog.Parse(evidencetest.DirectUKI(v).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	quoted := evidencetest.DirectUKI(v).PCRs()
	rows := []struct {
		name, want string
		pcr        int
		run        func() []reference.Difference
	}{
		{"extra in PCR 12", "nothing is expected here", 12, func() []reference.Difference {
			b := evidencetest.DirectUKI(v)
			b.AddHashed(12, eventlog.TypeIPL, evidencetest.UTF16("init=/bin/sh"))
			l, err := eventlog.Parse(b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			return v.Match(l, b.PCRs())
		}},
		{"last one missing", "lacks a measurement after event", 11, func() []reference.Difference {
			less := v
			less.PCRs = append([]reference.PCR(nil), v.PCRs...)
			less.PCRs[2].Events = v.PCRs[2].Events[:7]
			b := evidencetest.DirectUKI(less)
			l, err := eventlog.Parse(b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			return v.Match(l, b.PCRs())
		}},
		{"not quoted", "is not in the quote", 9, func() []reference.Difference {
			q := maps.Clone(quoted)
			delete(q, 9)
			return v.Match(l, q)
		}},
		{"log is right, register is not", "holds something else than the log says", 11, func() []reference.Difference {
			q := maps.Clone(quoted)
			q[11] = digest.Of([]byte("x"))
			return v.Match(l, q)
		}},
		{"no log", "the log has no event for it", 4, func() []reference.Difference {
			q := maps.Clone(quoted)
			q[4] = digest.Of([]byte("x"))
			return v.Match(eventlog.Log{}, q)
		}},
	}
	for _, row := range rows {
		got := row.run()
		if len(got) != 1 || got[0].PCR != row.pcr || !strings.Contains(got[0].Detail, row.want) {
			t.Errorf("%s: got %+v, want PCR %d: ...%s...", row.name, got, row.pcr, row.want)
		}
	}
	if got := (reference.Values{}).Match(l, quoted); len(got) == 0 {
		t.Error("values that name no PCR match")
	}
}

func TestBaselineMatch(t *testing.T) {
	t.Parallel()
	v := predict(t, uki())
	b := evidencetest.DirectUKI(v)
	l, err := eventlog.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	base := reference.LearnBaseline("vm/ovmf", b.PCRs())
	if got := base.Match(l, b.PCRs()); len(got) != 0 {
		t.Errorf("the learned baseline does not match: %v", got)
	}
	other := evidencetest.DirectUKI(v, evidencetest.Firmware("1.1"))
	ol, err := eventlog.Parse(other.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got := base.Match(ol, other.PCRs())
	if len(got) != 1 || got[0].PCR != 0 || !strings.Contains(got[0].Detail, "firmware volume at 0x820000") {
		t.Errorf("other firmware: got %+v", got)
	}
	on := evidencetest.DirectUKI(v, evidencetest.SecureBootOn())
	if got := base.Match(l, on.PCRs()); len(got) != 1 || got[0].PCR != 7 {
		t.Errorf("Secure Boot on: got %+v, want PCR 7", got)
	}
	if got := (reference.Baseline{}).Match(l, b.PCRs()); len(got) != 4 {
		t.Errorf("an empty baseline: got %+v, want PCRs 0, 2, 3, 7", got)
	}
	if got := base.Match(l, nil); len(got) != 4 {
		t.Errorf("nothing quoted: got %+v, want 4 differences", got)
	}
}
