package reference_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// platform is four registers that state names.
func platform(state string) map[int]digest.SHA256 {
	out := map[int]digest.SHA256{}
	for _, index := range reference.PlatformPCRs() {
		out[index] = digest.Of([]byte{byte(index), state[0]})
	}
	return out
}

func variants(states ...string) reference.Baseline {
	b := reference.LearnBaseline("board", platform(states[0]))
	b.Name = states[0]
	for _, s := range states[1:] {
		b.Variants = append(b.Variants, reference.Variant{Name: s, PCRs: reference.PlatformOf(platform(s))})
	}
	return b
}

func TestAcceptsEachVariantAsAWhole(t *testing.T) {
	t.Parallel()
	b := variants("a", "b", "c")
	for _, state := range []string{"a", "b", "c"} {
		if d := b.Match(eventlog.Log{}, platform(state)); len(d) != 0 {
			t.Errorf("state %s: got %v, want a match", state, d)
		}
		if name, ok := b.Matching(platform(state)); !ok || name != state {
			t.Errorf("Matching: got %q, %t, want %q", name, ok, state)
		}
	}
}

// One register of the old firmware and the rest of the new one is a state that no vendor shipped.
func TestRefusesAMixOfVariants(t *testing.T) {
	t.Parallel()
	b := variants("a", "b")
	mixed := platform("a")
	mixed[0] = platform("b")[0]
	d := b.Match(eventlog.Log{}, mixed)
	if len(d) != 1 || d[0].PCR != 0 || !strings.Contains(d[0].Detail, "in state a") {
		t.Errorf("got %+v, want PCR 0, compared with the nearest state, a", d)
	}
	if name, ok := b.Matching(mixed); ok {
		t.Errorf("Matching: got %q, want none", name)
	}
	mixed[7] = platform("c")[7]
	if len(b.Match(eventlog.Log{}, mixed)) == 0 {
		t.Error("a mix matched")
	}
}

// An Input is not decoded by this package: a variant that leaves a register out must not match without it.
func TestRefusesAVariantWithoutARegister(t *testing.T) {
	t.Parallel()
	b := variants("a", "b")
	b.Variants[0].PCRs = b.Variants[0].PCRs[:3]
	if len(b.Match(eventlog.Log{}, platform("b"))) == 0 {
		t.Error("a variant without PCR 7 matched")
	}
}

func TestRefusesVariantsThatCannotBeToldApart(t *testing.T) {
	t.Parallel()
	good := variants("a", "b")
	if _, err := good.Encode(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*reference.Baseline){
		"no name":              func(b *reference.Baseline) { b.Name = "" },
		"variant without name": func(b *reference.Baseline) { b.Variants[0].Name = "" },
		"same name":            func(b *reference.Baseline) { b.Variants[0].Name = "a" },
		"same values":          func(b *reference.Baseline) { b.Variants[0].PCRs = b.PCRs },
		"left out":             func(b *reference.Baseline) { b.Variants[0].PCRs = b.Variants[0].PCRs[1:] },
		"one more": func(b *reference.Baseline) {
			b.Variants[0].PCRs = append(b.Variants[0].PCRs, reference.Platform{Index: 14, Value: digest.Of(nil)})
		},
		"too many": func(b *reference.Baseline) { *b = variants("a", "b", "c", "d", "e") },
	} {
		b := variants("a", "b")
		change(&b)
		if _, err := b.Encode(); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

// What was signed before variants were known must stay the same bytes: digests name it.
func TestKeepsBytesOfABaselineWithoutVariants(t *testing.T) {
	t.Parallel()
	b, err := reference.LearnBaseline("board", platform("a")).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "variants") || strings.Contains(string(b), "name") {
		t.Errorf("new members in %s", b)
	}
}

// observed is a device that booted with tweaks of its firmware.
func observed(device string, tweaks ...evidencetest.Tweak) reference.Observation {
	log := evidencetest.DirectUKI(evidencetest.Release("lamp/1.0"), tweaks...)
	parsed, err := eventlog.Parse(log.Bytes())
	if err != nil {
		panic(err)
	}
	return reference.Observation{Device: device, Quoted: log.PCRs(), Log: parsed}
}

func TestLearnsWhatAllDevicesAgreeAbout(t *testing.T) {
	t.Parallel()
	all := []reference.Observation{observed("c"), observed("a"), observed("b")}
	got := reference.Learn(all, 3)
	if len(got.Refusals) != 0 {
		t.Fatalf("refused: %v", got.Refusals)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got.Agreeing); diff != "" {
		t.Errorf("agreeing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(reference.PlatformOf(all[0].Quoted), got.Values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	all[0], all[2] = all[2], all[0]
	if diff := cmp.Diff(got, reference.Learn(all, 3)); diff != "" {
		t.Errorf("the order counts:\n%s", diff)
	}
}

func TestLearnsNothingFromTooFew(t *testing.T) {
	t.Parallel()
	for _, need := range []int{3, 4, 0, -1} {
		got := reference.Learn([]reference.Observation{observed("a"), observed("b")}, need)
		if len(got.Refusals) == 0 || got.Values != nil {
			t.Errorf("need %d: got %+v, want a refusal", need, got)
		}
	}
	if got := reference.Learn(nil, 1); len(got.Refusals) == 0 {
		t.Error("learned from nobody")
	}
}

// A compromised device beside honest ones is neither the norm nor overlooked.
func TestNamesTheDeviceThatDiffers(t *testing.T) {
	t.Parallel()
	odd := observed("odd")
	odd.Quoted[2] = digest.Of([]byte("implant"))
	for i, e := range odd.Log.Events {
		if e.PCR == 2 {
			odd.Log.Events[i].Digest = digest.Of([]byte("implant's driver"))
			break
		}
	}
	all := []reference.Observation{observed("a"), observed("b"), observed("c"), odd}
	got := reference.Learn(all, 3)
	if got.Values != nil || len(got.Refusals) != 1 || !strings.Contains(got.Refusals[0], "odd") {
		t.Fatalf("got %+v, want a refusal that names odd", got.Refusals)
	}
	if len(got.Others) != 1 || got.Others[0].Device != "odd" || !strings.Contains(strings.Join(got.Others[0].Detail, "\n"), "only it has event") {
		t.Errorf("others: %+v, want the event that only odd has", got.Others)
	}
	if g := got.PCRs[1]; g.Index != 2 || len(g.Groups) != 2 || len(g.Groups[0].Devices) != 3 {
		t.Errorf("groups of PCR 2: %+v", g)
	}
	if got := reference.Learn(all[:3], 3); got.Values == nil {
		t.Errorf("left out by name: %v, want it learned", got.Refusals)
	}
}

// Three of five is no agreement: who differs is a question, not a vote.
func TestMajorityDoesNotOutvote(t *testing.T) {
	t.Parallel()
	all := []reference.Observation{observed("a"), observed("b"), observed("c"), observed("d"), observed("e")}
	for _, i := range []int{0, 1} {
		all[i].Quoted[7] = digest.Of([]byte("other keys"))
	}
	got := reference.Learn(all, 3)
	if got.Values != nil || len(got.Refusals) != 2 {
		t.Errorf("got %+v, want two refusals", got.Refusals)
	}
}

func TestLearnsNothingTwiceFromOneDevice(t *testing.T) {
	t.Parallel()
	if got := reference.Learn([]reference.Observation{observed("a"), observed("a"), observed("b")}, 3); got.Values != nil {
		t.Error("one device counted twice")
	}
	short := observed("a")
	delete(short.Quoted, 7)
	if got := reference.Learn([]reference.Observation{short}, 1); got.Values != nil || len(got.Refusals) != 1 {
		t.Errorf("without PCR 7: %+v", got)
	}
}

func FuzzDecodeBaseline(f *testing.F) {
	_, quoted := genuine(f, "direct-uki-v1-no-secureboot")
	for _, b := range []reference.Baseline{reference.LearnBaseline("softpc-v1", quoted), variants("a", "b"), variants("a", "b", "c", "d")} {
		doc, err := b.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		evidencetest.Bounded(t, len(doc), func() { _, _ = reference.DecodeBaseline(doc) })
		b, err := reference.DecodeBaseline(doc)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil {
			t.Fatalf("decoded, and cannot be encoded: %v", err)
		}
		if other, err := reference.DecodeBaseline(again); err != nil || !cmp.Equal(b, other) {
			t.Fatalf("not stable: %v", err)
		}
		// Whatever it says, registers of zeros and an empty quote match nothing.
		if len(b.Match(eventlog.Log{}, map[int]digest.SHA256{})) == 0 || len(b.Match(eventlog.Log{}, map[int]digest.SHA256{0: {}, 2: {}, 3: {}, 7: {}})) == 0 {
			t.Fatal("an empty quote matches")
		}
	})
}
