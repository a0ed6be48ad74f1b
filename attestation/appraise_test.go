package attestation_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

const (
	current = "product/1.0.0"
	next    = "product/1.1.0"
	older   = "product/0.9.0"
)

func scenario() *evidencetest.Scenario { return evidencetest.NewScenario("device", current) }

func appraise(t *testing.T, in attestation.Input) attestation.Verdict {
	t.Helper()
	v, err := attestation.Appraise(in)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAffirmsWhatIsExpected(t *testing.T) {
	t.Parallel()
	s := scenario()
	in := s.Input()
	got := appraise(t, in)
	want := attestation.Verdict{
		Outcome: attestation.Affirmed, Release: current, Evidence: attestation.DigestEvidence(in.Evidence),
		Accepted: &attestation.Accepted{Clock: s.Clock, Firmware: s.Firmware, PCRs: in.Evidence.PCRs},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAcceptedRemembersBootPCRsOnly(t *testing.T) {
	t.Parallel()
	s := scenario()
	s.Quoted = nil
	for pcr := range 24 {
		s.Quoted = append(s.Quoted, pcr)
	}
	s.Registers[10] = digest.Of([]byte("IMA")) // nobody asks the log about these two
	s.Registers[16] = digest.Of([]byte("debug"))
	got := appraise(t, s.Input())
	if got.Outcome != attestation.Affirmed {
		t.Fatalf("refused: %+v", got.Findings)
	}
	var indexes []int
	for _, p := range got.Accepted.PCRs {
		indexes = append(indexes, p.Index)
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13}; !slices.Equal(indexes, want) {
		t.Errorf("got %v, want %v", indexes, want)
	}
}

func TestContinuityOverTicksAndBoots(t *testing.T) {
	t.Parallel()
	s := scenario()
	s.Expected = append(s.Expected, attestation.Expectation{Release: next, Values: evidencetest.Release(next)})
	s.Accept()
	s.Tick()
	v := appraise(t, s.Input())
	if v.Outcome != attestation.Affirmed || v.NewBoot || v.Release != current {
		t.Fatalf("same boot: %+v", v)
	}
	s.Accept()
	s.Boot(next)
	v = appraise(t, s.Input())
	if v.Outcome != attestation.Affirmed || !v.NewBoot || v.Release != next {
		t.Fatalf("after the update: %+v", v)
	}
	s.Accept()
	s.Boot(next)
	s.Clock.Safe = false
	if v = appraise(t, s.Input()); v.Outcome != attestation.Affirmed {
		t.Fatalf("unsafe clock on a challenge after a reset: %+v", v.Findings)
	}
}

func TestRecoveryMatchSaysSo(t *testing.T) {
	t.Parallel()
	s := scenario()
	s.Expected = append(s.Expected, attestation.Expectation{Release: "product/recovery", Recovery: true, Values: evidencetest.Release("product/recovery")})
	s.Boot("product/recovery")
	v := appraise(t, s.Input())
	if v.Outcome != attestation.Affirmed || !v.Recovery || v.Release != "product/recovery" {
		t.Errorf("got %+v, want the recovery release", v)
	}
}

func TestFirstOfEqualExpectationsIsNamed(t *testing.T) {
	t.Parallel()
	s := scenario()
	twin := attestation.Expectation{Release: next, Values: s.Expected[0].Values}
	s.Expected = append([]attestation.Expectation{twin}, s.Expected...)
	if got := appraise(t, s.Input()).Release; got != next {
		t.Errorf("got %s, want %s", got, next)
	}
}

func only(r ...reason.Reason) []reason.Reason { return r }

// The rule that nobody is quarantined by evidence that somebody else could have sent. Each attack is also combined with
// a device that really booted something else: that must not show.
func TestUnauthenticEvidenceNeverQuarantines(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		t.Run(title(c), func(t *testing.T) {
			t.Parallel()
			evil := scenario()
			evil.Boot("product/evil", evidencetest.Firmware("evil"))
			evil.Policy.SecureBoot = true
			for _, in := range []attestation.Input{c.Input(), c.InputOf(evil)} {
				v := appraise(t, in)
				if v.Outcome != attestation.Refused || v.NewBoot {
					t.Fatalf("got %s, new boot %t", v.Outcome, v.NewBoot)
				}
				for _, f := range v.Findings {
					if effect := reason.EffectOf(f.Reason); effect == reason.Quarantine {
						t.Errorf("%s quarantines: %s", f.Reason, f.Detail)
					}
				}
			}
		})
	}
}

// Every single bit of quote and signature.
func TestNoBitOfTheQuoteMayChange(t *testing.T) {
	t.Parallel()
	in := scenario().Input()
	check := func(what string, i int) {
		v := appraise(t, in)
		if effect, any := reason.Strongest(v.Reasons()); v.Outcome != attestation.Refused || !any || effect != reason.Retry {
			t.Fatalf("%s bit %d: got %s with %v, want a refusal with effect retry", what, i, v.Outcome, v.Reasons())
		}
	}
	for i := range 8 * len(in.Evidence.Quote) {
		in.Evidence.Quote[i/8] ^= 1 << (i % 8)
		check("quote", i)
		in.Evidence.Quote[i/8] ^= 1 << (i % 8)
	}
	for i := range 8 * len(in.Evidence.Signature) {
		in.Evidence.Signature[i/8] ^= 1 << (i % 8)
		check("signature", i)
		in.Evidence.Signature[i/8] ^= 1 << (i % 8)
	}
}

func TestUndecidableIsAnError(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*attestation.Input)
	}{
		{"N72 empty nonce", func(in *attestation.Input) { in.Binding.Nonce = nil }},
		{"short nonce", func(in *attestation.Input) { in.Binding.Nonce = make([]byte, 15) }},
		{"unknown purpose", func(in *attestation.Input) { in.Binding.Purpose = "" }},
		{"no device", func(in *attestation.Input) { in.Binding.Device = "" }},
		{"no exporter", func(in *attestation.Input) { in.Binding.Exporter = nil }},
		{"N130 nothing expected", func(in *attestation.Input) { in.Expected = nil }},
		{"N131 empty policy", func(in *attestation.Input) { in.Policy = attestation.Policy{} }},
		{"policy with PCR 24", func(in *attestation.Input) { in.Policy.RequiredPCRs = []int{24} }},
		{"policy with PCR -1", func(in *attestation.Input) { in.Policy.RequiredPCRs = []int{-1} }},
		{"no baseline", func(in *attestation.Input) { in.Baseline = nil }},
		{"empty baseline", func(in *attestation.Input) { in.Baseline = &reference.Baseline{} }},
		{"baseline without PCR 7", func(in *attestation.Input) {
			b := *in.Baseline
			b.PCRs = slices.DeleteFunc(slices.Clone(b.PCRs), func(p reference.Platform) bool { return p.Index == 7 })
			in.Baseline = &b
		}},
		{"expectation without values", func(in *attestation.Input) { in.Expected[0].Values = reference.Values{} }},
		{"superseded without values", func(in *attestation.Input) { in.Superseded = []attestation.Expectation{{Release: older}} }},
		{"expectation without name", func(in *attestation.Input) { in.Expected[0].Release = "" }},
		{"damaged key in the store", func(in *attestation.Input) { in.AK.Public = in.AK.Public[:40] }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := scenario().Input()
			tt.change(&in)
			v, err := attestation.Appraise(in)
			if !errors.Is(err, attestation.ErrUndecidable) {
				t.Errorf("got %v, want ErrUndecidable", err)
			}
			if v.Outcome != "" {
				t.Errorf("an error carries outcome %q", v.Outcome)
			}
		})
	}
}

func TestVerdictBytesAreDeterministic(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic, evidencetest.StageState) {
		first, err := appraise(t, c.Input()).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		second, err := appraise(t, c.Input()).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s: %s\n%s", title(c), first, second)
		}
		if !strings.HasPrefix(string(first), `{"outcome":"refused",`) {
			t.Errorf("%s: %s", title(c), first)
		}
	}
}
