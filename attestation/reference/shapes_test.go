package reference_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

const predictions = "../../conformance/vectors/prediction"

// recorded reads a boot and the prediction that was made of its files.
func recorded(t testing.TB, name string) (reference.Values, eventlog.Log, map[int]digest.SHA256) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(predictions, name, "values.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := reference.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if again := encoded(t, v); !bytes.Equal(again, b) {
		t.Errorf("%s: the recorded document has other bytes when it is written again", name)
	}
	l, quoted := boot(t, filepath.Join(predictions, name))
	return v, l, quoted
}

func recordings(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(predictions, "*", "values.json"))
	if err != nil || len(dirs) < 5 {
		t.Fatalf("got %d recorded predictions, %v", len(dirs), err)
	}
	for i := range dirs {
		dirs[i] = filepath.Base(filepath.Dir(dirs[i]))
	}
	return dirs
}

// Predicted from the files, then booted on a virtual machine: direct and through systemd-boot, Secure Boot off, on with
// Debian's test keys and on with own keys.
func TestRecordedPredictionsAreWhatTheMachinesMeasured(t *testing.T) {
	t.Parallel()
	for _, name := range recordings(t) {
		v, l, quoted := recorded(t, name)
		if diffs := v.Match(l, quoted); len(diffs) > 0 {
			t.Errorf("%s: %+v", name, diffs)
		}
		on, known := l.SecureBoot()
		if want := !strings.HasSuffix(name, "-off"); !known || on != want {
			t.Errorf("%s: Secure Boot is %t, known %t", name, on, known)
		}
	}
}

// Each boot matches its own prediction only. Two recordings are of the same programs, signed by different keys: firmware
// measures a program without its signature, and the keys into PCR 7, where the baseline tells the two apart.
func TestNoPredictionFitsAnotherBoot(t *testing.T) {
	t.Parallel()
	for _, name := range recordings(t) {
		v, _, _ := recorded(t, name)
		for _, other := range recordings(t) {
			_, l, quoted := recorded(t, other)
			same := name == other || strings.HasPrefix(name, "systemd-boot") && strings.HasPrefix(other, "systemd-boot") &&
				strings.HasSuffix(name, "-off") == strings.HasSuffix(other, "-off")
			if diffs := v.Match(l, quoted); !same && len(diffs) == 0 {
				t.Errorf("the prediction for %s fits %s", name, other)
			}
		}
	}
}

// measured reads from a genuine log what a prediction would have read from files.
func measured(t *testing.T, l eventlog.Log, viaLoader bool) reference.Measured {
	t.Helper()
	m := reference.Measured{Sections: map[string]digest.SHA256{}}
	programs := []*digest.SHA256{&m.Program, &m.Kernel}
	if viaLoader {
		programs = slices.Insert(programs, 0, &m.Loader)
	}
	m.Kernel = digest.Of([]byte("not measured"))
	named := ""
	for _, e := range l.Events {
		switch {
		case e.PCR == 4 && e.Type == eventlog.TypeEFIApplication:
			*programs[0], programs = e.Digest, programs[1:]
		case e.PCR == 12:
			m.Options = e.Data
		case e.PCR == 11 && named == "":
			named = strings.ReplaceAll(string(e.Data), "\x00", "")
		case e.PCR == 11:
			m.Sections[named], named = e.Digest, ""
		}
	}
	return m
}

// The formulas against boots whose files are gone: what the log tells of each file leads to the quoted registers.
func TestTheFormulasLeadToGenuineRegisters(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sdboot-ab-1-v1", "sdboot-ab-2-v2-after-update", "sdboot-secureboot-snakeoil-v1"} {
		l, quoted := genuine(t, name)
		v := reference.ValuesOf(measured(t, l, true))
		encoded(t, v)
		if diffs := v.Match(l, quoted); len(diffs) > 0 {
			t.Errorf("%s: %+v", name, diffs)
		}
	}
}

// loader is a small systemd-boot.
func loader(name string) []byte {
	return buildPE(true, []part{{".text", bytes.Repeat([]byte("loader"), 300)}, {".sdmagic", []byte("#### LoaderInfo: " + name + " ####\x00")}}, nil)
}

const knownLoader = "systemd-boot 252.39-1~deb12u2"

func foretell(t testing.TB, im []byte, loaders ...[]byte) reference.Values {
	t.Helper()
	v, err := reference.Predict(reference.SourceOf(im), with252(loaders...))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func with252(loaders ...[]byte) (b reference.Boot) {
	for _, l := range loaders {
		b.Loaders = append(b.Loaders, reference.SourceOf(l))
	}
	return b
}

// registersOf is what a device quotes that boots in shape i.
func registersOf(v reference.Values, i int) map[int]digest.SHA256 {
	out := map[int]digest.SHA256{}
	for _, p := range slices.Concat(v.PCRs, v.Shapes[i].PCRs) {
		out[p.Index] = p.Value
	}
	return out
}

// logOf is a log that tells of Secure Boot.
func logOf(t testing.TB, on bool) eventlog.Log {
	t.Helper()
	name := "systemd-boot-secure-boot-off"
	if on {
		name = "systemd-boot-secure-boot-on"
	}
	l, _ := boot(t, filepath.Join(predictions, name))
	return l
}

func TestAReleaseMatchesInEveryShape(t *testing.T) {
	t.Parallel()
	v := foretell(t, uki(), loader(knownLoader), loader("systemd-boot 252.40"))
	if v.Boot != reference.BootSystemdBoot || len(v.Shapes) != 4 || len(v.Inputs) != 2 {
		t.Fatalf("got %s with %d shapes and %d inputs", v.Boot, len(v.Shapes), len(v.Inputs))
	}
	for i, s := range v.Shapes {
		if diffs := v.Match(logOf(t, s.SecureBoot), registersOf(v, i)); len(diffs) > 0 {
			t.Errorf("shape %d: %+v", i, diffs)
		}
	}
}

// A device that shows PCR 4 of one shape and PCR 12 of another has booted in neither.
func TestAMixOfShapesIsNoMatch(t *testing.T) {
	t.Parallel()
	v := foretell(t, uki(), loader(knownLoader), loader("systemd-boot 252.40"))
	for i, s := range v.Shapes {
		for j := range v.Shapes {
			mixed := registersOf(v, i)
			mixed[12] = registersOf(v, j)[12]
			if maps.Equal(mixed, registersOf(v, i)) {
				continue // loaders differ in PCR 4 only
			}
			diffs := v.Match(logOf(t, s.SecureBoot), mixed)
			if len(diffs) != 1 || diffs[0].PCR != 12 && diffs[0].PCR != 4 {
				t.Errorf("PCR 4 of shape %d, PCR 12 of shape %d: got %+v, want one difference", i, j, diffs)
			}
		}
	}
}

// What is measured with Secure Boot on leaves out the kernel: on a machine with Secure Boot off that is no match.
func TestAShapeBelongsToItsStateOfSecureBoot(t *testing.T) {
	t.Parallel()
	v := foretell(t, uki())
	for i, s := range v.Shapes {
		diffs := v.Match(logOf(t, !s.SecureBoot), registersOf(v, i))
		if len(diffs) == 0 {
			t.Errorf("shape %d (%s) matches with the other state", i, s.What)
		}
	}
	if diffs := v.Match(eventlog.Log{}, registersOf(v, 1)); len(diffs) == 0 {
		t.Error("the shape of Secure Boot on matches with a log that does not tell the state")
	}
}

// Seen is what a dry run starts from: the one way in which the device boots.
func TestSeenIsTheShapeThatTheLogTellsOf(t *testing.T) {
	t.Parallel()
	for _, name := range recordings(t) {
		v, l, quoted := recorded(t, name)
		for _, p := range v.Seen(l).PCRs {
			if quoted[p.Index] != p.Value {
				t.Errorf("%s: PCR %d is %s, want %s", name, p.Index, p.Value, quoted[p.Index])
			}
		}
	}
}

// A device that boots the same release again measures the same, whatever way it boots.
func TestDryRunFollowsTheShapeOfTheDevice(t *testing.T) {
	t.Parallel()
	for _, name := range recordings(t) {
		v, l, quoted := recorded(t, name)
		delete(quoted, 10) // no device quotes what the running kernel measures
		base := reference.LearnBaseline("vm", quoted)
		p := reference.DryRun(reference.LastBoot{Log: l, Quoted: quoted, Release: "lamp/1", Values: v, Baseline: &base}, v)
		if len(p.Problems) > 0 {
			t.Errorf("%s: %+v", name, p.Problems)
		}
		for _, r := range p.PCRs {
			if r.Changes {
				t.Errorf("%s: PCR %d would change", name, r.Index)
			}
		}
	}
}

func TestMatchReportsTheNearestShape(t *testing.T) {
	t.Parallel()
	v := foretell(t, uki(), loader(knownLoader))
	other := foretell(t, buildPE(true, with(".osrel", []byte("ID=other\n")), nil), loader(knownLoader))
	for i, s := range v.Shapes {
		var got []int
		for _, d := range v.Match(logOf(t, s.SecureBoot), registersOf(other, i)) {
			got = append(got, d.PCR)
			if !strings.Contains(d.Detail, "(nearest: "+s.What+")") {
				t.Errorf("shape %d: the detail does not name the nearest shape: %q", i, d.Detail)
			}
		}
		if !slices.Equal(got, []int{4, 11}) {
			t.Errorf("shape %d: differences in PCRs %v, want 4 and 11", i, got)
		}
	}
}

func TestPredictionsDoNotDependOnTheOrderOfLoaders(t *testing.T) {
	t.Parallel()
	a, b := loader(knownLoader), loader("systemd-boot 252.40")
	if !bytes.Equal(encoded(t, foretell(t, uki(), a, b)), encoded(t, foretell(t, uki(), b, a))) {
		t.Error("another order of the loaders gave another document")
	}
}

func TestBootDigestIsTheImageOnEveryPath(t *testing.T) {
	t.Parallel()
	im := uki()
	for name, v := range map[string]reference.Values{"version 1": predict(t, im), "direct": foretell(t, im), "loader": foretell(t, im, loader(knownLoader))} {
		if d, ok := v.BootDigest(); !ok || d != oracle(t, im) {
			t.Errorf("%s: got %s, %t, want %s", name, d, ok, oracle(t, im))
		}
	}
}

func TestRefusesLoadersThatAreNotKnown(t *testing.T) {
	t.Parallel()
	good := loader(knownLoader)
	rows := []struct {
		name    string
		image   []byte
		loaders [][]byte
		want    error
		says    string
	}{
		{"a later version", uki(), [][]byte{loader("systemd-boot 255.4-1")}, reference.ErrUnpredictable, "it is systemd-boot 255.4-1; known is systemd-boot 252"},
		{"an earlier version", uki(), [][]byte{loader("systemd-boot 247")}, reference.ErrUnpredictable, "systemd-boot 247"},
		{"a stub as loader", uki(), [][]byte{loader("systemd-stub 252")}, reference.ErrUnpredictable, "calls itself"},
		{"no name", uki(), [][]byte{kernel()}, reference.ErrUnpredictable, "no section .sdmagic"},
		{"text", uki(), [][]byte{bytes.Repeat([]byte("text"), 100)}, reference.ErrNotLoader, "no PE header"},
		{"empty", uki(), [][]byte{{}}, reference.ErrNotLoader, "0 bytes"},
		{"too long", uki(), [][]byte{make([]byte, reference.MaxLoaderBytes+1)}, reference.ErrNotLoader, "bytes"},
		{"the same twice", uki(), [][]byte{good, good}, reference.ErrInputs, "twice"},
		{"the same with a signature", uki(), [][]byte{good, buildPE(true, []part{{".text", bytes.Repeat([]byte("loader"), 300)},
			{".sdmagic", []byte("#### LoaderInfo: " + knownLoader + " ####\x00")}}, bytes.Repeat([]byte{1}, 64))}, reference.ErrInputs, "twice"},
		{"five", uki(), slices.Repeat([][]byte{good}, 5), reference.ErrInputs, "at most 4"},
		{"an image without .cmdline", buildPE(true, slices.DeleteFunc(ukiParts(), func(p part) bool { return p.name == ".cmdline" }), nil), [][]byte{good}, reference.ErrUnpredictable, ".cmdline"},
		{"an image without .osrel", buildPE(true, slices.DeleteFunc(ukiParts(), func(p part) bool { return p.name == ".osrel" }), nil), [][]byte{good}, reference.ErrUnpredictable, ".osrel"},
		{"an image without .sdmagic", buildPE(true, slices.DeleteFunc(ukiParts(), func(p part) bool { return p.name == ".sdmagic" }), nil), [][]byte{good}, reference.ErrUnpredictable, ".sdmagic"},
		{"an image of a later stub", buildPE(true, with(".sdmagic", []byte("#### LoaderInfo: systemd-stub 255.4 ####\x00")), nil), [][]byte{good}, reference.ErrUnpredictable, "255"},
	}
	for _, row := range rows {
		_, err := reference.Predict(reference.SourceOf(row.image), with252(row.loaders...))
		if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.says) || errors.Is(err, reference.ErrNotUKI) {
			t.Errorf("%s: got %v, want %v with %q", row.name, err, row.want, row.says)
		}
	}
	chain := reference.SourceOf([]byte("{}"))
	if _, err := reference.Predict(reference.SourceOf(uki()), reference.Boot{Loaders: with252(good).Loaders, Chain: &chain}); !errors.Is(err, reference.ErrInputs) {
		t.Errorf("loader and chain: got %v, want ErrInputs", err)
	}
}

func TestPredictAgainFollowsTheClaim(t *testing.T) {
	t.Parallel()
	im, a, b := uki(), loader(knownLoader), loader("systemd-boot 252.40")
	files := map[digest.SHA256][]byte{digest.Of(a): a, digest.Of(b): b}
	open := func(in reference.Input) (reference.Source, error) { return reference.SourceOf(files[in.SHA256]), nil }
	for name, v := range map[string]reference.Values{"version 1": predict(t, im), "direct": foretell(t, im), "two loaders": foretell(t, im, a, b)} {
		again, err := reference.PredictAgain(v, reference.SourceOf(im), open)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	lost := errors.New("lost")
	if _, err := reference.PredictAgain(foretell(t, im, a), reference.SourceOf(im), func(reference.Input) (reference.Source, error) {
		return reference.Source{}, lost
	}); !errors.Is(err, lost) {
		t.Errorf("got %v, want the error of the store", err)
	}
}

func TestDecodeOfShapesIsStrict(t *testing.T) {
	t.Parallel()
	v := foretell(t, uki(), loader(knownLoader), loader("systemd-boot 252.40"))
	got, err := reference.Decode(encoded(t, v))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for name, change := range map[string]func(*reference.Values){
		"version 1 with shapes":       func(v *reference.Values) { v.Version, v.Boot, v.Inputs = 1, reference.BootDirectUKI, nil },
		"version 1 with inputs":       func(v *reference.Values) { v.Version, v.Boot, v.Shapes = 1, reference.BootDirectUKI, nil },
		"version 1 on another path":   func(v *reference.Values) { v.Version, v.Inputs, v.Shapes = 1, nil, nil },
		"version 3":                   func(v *reference.Values) { v.Version = 3 },
		"no input":                    func(v *reference.Values) { v.Inputs = nil },
		"direct with a loader":        func(v *reference.Values) { v.Boot = reference.BootDirectUKI },
		"no shapes":                   func(v *reference.Values) { v.Shapes = nil },
		"a shape missing":             func(v *reference.Values) { v.Shapes = v.Shapes[:3] },
		"a state swapped":             func(v *reference.Values) { v.Shapes[1].SecureBoot = false },
		"inputs swapped":              func(v *reference.Values) { v.Inputs[0], v.Inputs[1] = v.Inputs[1], v.Inputs[0] },
		"an input twice":              func(v *reference.Values) { v.Inputs[1] = v.Inputs[0] },
		"an input of no length":       func(v *reference.Values) { v.Inputs[0].Length = 0 },
		"an input of 5 MiB":           func(v *reference.Values) { v.Inputs[0].Length = 5 << 20 },
		"another kind":                func(v *reference.Values) { v.Inputs[0].Kind = reference.InputChain },
		"no digest":                   func(v *reference.Values) { v.Inputs[0].SHA256 = digest.SHA256{} },
		"another program":             func(v *reference.Values) { v.Inputs[0].Program = digest.Of(nil) },
		"a loader that nothing names": func(v *reference.Values) { v.Shapes[3].PCRs[0] = v.Shapes[1].PCRs[0] },
		"a value that does not follow": func(v *reference.Values) {
			v.Shapes[1].PCRs[0].Value = digest.Of(nil)
		},
		"a register like the first": func(v *reference.Values) { v.Shapes[1].PCRs = append(v.Shapes[1].PCRs, v.PCRs[4]) },
		"a register that is not owned": func(v *reference.Values) {
			v.Shapes[1].PCRs = append(v.Shapes[1].PCRs, reference.PCR{Index: 14})
		},
		"falling registers":  func(v *reference.Values) { slices.Reverse(v.Shapes[1].PCRs) },
		"the first changed":  func(v *reference.Values) { v.Shapes[0].PCRs = v.Shapes[1].PCRs },
		"control characters": func(v *reference.Values) { v.Shapes[1].What = "a\x1b[2Jb" },
	} {
		bad, err := reference.Decode(encoded(t, v)) // a deep copy
		if err != nil {
			t.Fatal(err)
		}
		change(&bad)
		if _, err := bad.Encode(); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

func TestMemoryStaysFlatWithLoaders(t *testing.T) {
	big := buildPE(true, []part{{".sdmagic", []byte("#### LoaderInfo: " + knownLoader + " ####\x00")}, {".text", make([]byte, 3<<20)}}, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := reference.Predict(reference.SourceOf(uki()), with252(big)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > reference.MaxLoaderBytes+(8<<20) {
		t.Errorf("a loader of %d bytes took %d bytes of memory", len(big), got)
	}
}

func FuzzPredictWithLoader(f *testing.F) {
	small := []part{{".sdmagic", []byte("#### LoaderInfo: " + knownLoader + " ####\x00")}}
	f.Add(buildPE(true, small, nil))
	f.Add(buildPE(false, small, []byte("certificates")))
	f.Add([]byte(strings.Repeat("MZ", 64)))
	f.Add(behind(magicText))
	im := uki()
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = reference.Predict(reference.SourceOf(im), with252(b)) })
		v, err := reference.Predict(reference.SourceOf(im), with252(b))
		if err != nil {
			return
		}
		if _, err := reference.Decode(encoded(t, v)); err != nil {
			t.Fatalf("a prediction that cannot be read again: %v", err)
		}
	})
}
