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
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
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

// mutation is one attack. In changes the finished Input; Device changes the device before it quotes.
type mutation struct {
	name   string
	device func(*evidencetest.Scenario)
	in     func(*attestation.Input)
	want   []reason.Reason
}

func (m mutation) input() attestation.Input {
	s := scenario()
	if m.device != nil {
		m.device(s)
	}
	in := s.Input()
	if m.in != nil {
		m.in(&in)
	}
	return in
}

func only(r ...reason.Reason) []reason.Reason { return r }

// requote replaces the quote by one with spec's changes, signed by the registered key.
func requote(in *attestation.Input, change func(*evidencetest.QuoteSpec)) {
	s := scenario()
	extra := attestation.Transcript(in.Binding)
	spec := evidencetest.QuoteSpec{ExtraData: extra[:], Clock: s.Clock, Firmware: s.Firmware, PCRs: map[int]digest.SHA256{}}
	for _, p := range in.Evidence.PCRs {
		spec.PCRs[p.Index] = p.Value
	}
	change(&spec)
	in.Evidence.Quote, in.Evidence.Signature = s.AK.Quote(spec)
}

// withKey signs with, and registers, a key with another public area.
func withKey(change func(*evidencetest.PublicSpec)) func(*evidencetest.Scenario) {
	return func(s *evidencetest.Scenario) {
		spec := evidencetest.GoodAK()
		change(&spec)
		s.AK = evidencetest.AK{Key: evidencetest.NewKey(evidencetest.Seed("device"), spec)}
	}
}

// unauthentic are the mutations that break authenticity or freshness.
func unauthentic() []mutation {
	return slices.Concat(encodingMutations(), keyMutations(), freshnessMutations(), selectionMutations())
}

func encodingMutations() []mutation {
	malformed := only(reason.QuoteMalformed)
	return []mutation{
		{name: "N01 byte after the quote", in: func(in *attestation.Input) { in.Evidence.Quote = append(in.Evidence.Quote, 0) }, want: malformed},
		{name: "N02 byte after the signature", in: func(in *attestation.Input) { in.Evidence.Signature = append(in.Evidence.Signature, 0) }, want: malformed},
		{name: "N03 wrong magic", in: func(in *attestation.Input) { requote(in, func(s *evidencetest.QuoteSpec) { s.Magic = 1 }) }, want: malformed},
		{name: "N04 certify as quote", in: func(in *attestation.Input) { requote(in, func(s *evidencetest.QuoteSpec) { s.Type = 0x8017 }) }, want: malformed},
		{name: "N04 creation as quote", in: func(in *attestation.Input) { requote(in, func(s *evidencetest.QuoteSpec) { s.Type = 0x801a }) }, want: malformed},
		{name: "N05 truncated", in: func(in *attestation.Input) { in.Evidence.Quote = in.Evidence.Quote[:60] }, want: malformed},
		{name: "no quote", in: func(in *attestation.Input) { in.Evidence.Quote = nil }, want: malformed},
		{name: "no signature", in: func(in *attestation.Input) { in.Evidence.Signature = nil }, want: malformed},
		{name: "large quote", in: func(in *attestation.Input) { in.Evidence.Quote = make([]byte, attestation.MaxQuoteBytes+1) }, want: malformed},
		{name: "future version", in: func(in *attestation.Input) { in.Evidence.Version = 2 }, want: malformed},
		{name: "PCRs not rising", in: func(in *attestation.Input) { slices.Reverse(in.Evidence.PCRs) }, want: malformed},
		{name: "PCR 24", in: func(in *attestation.Input) { in.Evidence.PCRs[10].Index = 24 }, want: malformed},
		{name: "PCR -1", in: func(in *attestation.Input) { in.Evidence.PCRs[0].Index = -1 }, want: malformed},
	}
}

func keyMutations() []mutation {
	unbound, unsigned := only(reason.AKNotBound), only(reason.QuoteSignatureInvalid)
	return []mutation{
		{name: "N20 bit flip in the quote", in: func(in *attestation.Input) { in.Evidence.Quote[50] ^= 1 }, want: unsigned},
		{name: "N20 bit flip in the signature", in: func(in *attestation.Input) { in.Evidence.Signature[20] ^= 1 }, want: unsigned},
		{name: "N21 RSA signature", in: func(in *attestation.Input) { in.Evidence.Signature[1] = 0x14 }, want: unsigned},
		{name: "N22 SHA-1 signature", in: func(in *attestation.Input) { in.Evidence.Signature[3] = 4 }, want: unsigned},
		{name: "N24 another device's key", in: func(in *attestation.Input) {
			other := evidencetest.NewAK(evidencetest.Seed("other"))
			in.AK = attestation.AK{Public: other.Public, QualifiedSigner: other.QualifiedSigner()}
		}, want: unsigned},
		{name: "N25 unregistered", in: func(in *attestation.Input) { in.AK = attestation.AK{} }, want: only(reason.AKUnknown)},
		{name: "N26 unrestricted key", device: withKey(func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.Restricted }), want: unbound},
		{name: "N29 storage key", device: withKey(func(s *evidencetest.PublicSpec) { s.Attributes |= identity.Decrypt }), want: unbound},
		{name: "N30 duplicable key", device: withKey(func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedTPM }), want: unbound},
		{name: "N31 imported key", device: withKey(func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.SensitiveDataOrigin }), want: unbound},
		{name: "N22 SHA-1 key", device: withKey(func(s *evidencetest.PublicSpec) { s.Hash = evidencetest.AlgSHA1 }), want: unbound},
		{name: "N33 P-224 key", device: withKey(func(s *evidencetest.PublicSpec) { s.Curve = 2 }), want: unbound},
		{name: "N32 quote of another hierarchy", in: func(in *attestation.Input) {
			requote(in, func(s *evidencetest.QuoteSpec) { s.QualifiedSigner = append([]byte{0, 0x0b}, make([]byte, 32)...) })
		}, want: unbound},
		{name: "N32 key registered in another hierarchy", in: func(in *attestation.Input) {
			in.AK.QualifiedSigner = append([]byte{0, 0x0b}, make([]byte, 32)...)
			requote(in, func(s *evidencetest.QuoteSpec) { s.QualifiedSigner = in.AK.QualifiedSigner })
		}, want: unbound},
	}
}

func freshnessMutations() []mutation {
	unknown, reused := only(reason.NonceUnknown), only(reason.NonceReused)
	clock := func(change func(*quote.Clock)) func(*evidencetest.Scenario) {
		return func(s *evidencetest.Scenario) { s.Accept(); change(&s.Clock) }
	}
	return []mutation{
		{name: "N62 nonce of another challenge", in: func(in *attestation.Input) { in.Binding.Nonce = make([]byte, 32) }, want: unknown},
		{name: "N62 other device", in: func(in *attestation.Input) { in.Binding.Device = "other" }, want: unknown},
		{name: "N62 other purpose", in: func(in *attestation.Input) { in.Binding.Purpose = attestation.PurposeEnroll }, want: unknown},
		{name: "other TLS connection", in: func(in *attestation.Input) { in.Binding.Exporter = make([]byte, 32) }, want: unknown},
		{name: "other claims", in: func(in *attestation.Input) { in.Binding.Claims[0] ^= 1 }, want: unknown},
		{name: "one more log", in: func(in *attestation.Input) { in.Binding.LogDigests = append(in.Binding.LogDigests, digest.SHA256{}) }, want: unknown},
		{name: "log outside of the transcript", device: func(s *evidencetest.Scenario) { s.Binding.LogDigests = []digest.SHA256{} }, want: unknown},
		{name: "empty extraData", in: func(in *attestation.Input) { requote(in, func(s *evidencetest.QuoteSpec) { s.ExtraData = nil }) }, want: unknown},
		{name: "N67 the same clock", device: clock(func(*quote.Clock) {}), want: reused},
		{name: "N68 clock goes back", device: clock(func(c *quote.Clock) { c.Clock-- }), want: reused},
		{name: "N69 resetCount goes back", device: clock(func(c *quote.Clock) { c.ResetCount--; c.Clock += 100 }), want: reused},
		{name: "restartCount goes back", device: clock(func(c *quote.Clock) { c.RestartCount--; c.Clock += 100 }), want: reused},
		{name: "N70 unsafe clock in the same boot", device: clock(func(c *quote.Clock) { c.Clock++; c.Safe = false }), want: reused},
		{name: "N70 unsafe clock after a restart only", device: clock(func(c *quote.Clock) { c.RestartCount++; c.Safe = false }), want: reused},
		{name: "N70 unsafe clock on a beacon", device: func(s *evidencetest.Scenario) { s.Clock.Safe, s.Challenge = false, false }, want: reused},
		{name: "N61 replay of a bad boot", device: func(s *evidencetest.Scenario) {
			s.Boot("product/evil")
			s.Accept()
		}, want: reused},
		{name: "stale and of another challenge", device: clock(func(*quote.Clock) {}), in: func(in *attestation.Input) { in.Binding.Nonce = make([]byte, 32) },
			want: only(reason.NonceUnknown, reason.NonceReused)},
	}
}

func selectionMutations() []mutation {
	weak, malformed := only(reason.PCRBankWeak), only(reason.QuoteMalformed)
	bank := func(banks ...evidencetest.Bank) func(*attestation.Input) {
		return func(in *attestation.Input) {
			requote(in, func(s *evidencetest.QuoteSpec) { s.Banks = banks })
		}
	}
	all := []byte{0xff, 0x1a, 0}
	return []mutation{
		{name: "N80 empty selection", in: func(in *attestation.Input) {
			requote(in, func(s *evidencetest.QuoteSpec) { s.PCRs = nil })
		}, want: only(reason.PCRBankWeak, reason.QuoteMalformed)},
		{name: "N81 only PCR 23", device: func(s *evidencetest.Scenario) { s.Quoted = []int{23} }, want: weak},
		{name: "N82 PCR 7 missing", device: func(s *evidencetest.Scenario) { s.Quoted = without(s.Quoted, 7) }, want: weak},
		{name: "PCR 11 missing though the policy forgot it", device: func(s *evidencetest.Scenario) {
			s.Quoted, s.Policy.RequiredPCRs = without(s.Quoted, 11), []int{0}
		}, want: weak},
		{name: "PCR 7 missing though only Secure Boot needs it", device: func(s *evidencetest.Scenario) {
			s.Quoted, s.Policy.RequiredPCRs, s.Policy.SecureBoot = without(s.Quoted, 7), []int{0}, true
		}, want: weak},
		{name: "N83 SHA-1 bank", in: bank(evidencetest.Bank{Alg: evidencetest.AlgSHA1, Select: all}), want: weak},
		{name: "N83 SHA-384 bank", in: bank(evidencetest.Bank{Alg: 0x0c, Select: all}), want: weak},
		{name: "N88 two banks", in: bank(evidencetest.Bank{Alg: evidencetest.AlgSHA256, Select: all}, evidencetest.Bank{Alg: evidencetest.AlgSHA1, Select: all}), want: weak},
		{name: "SHA-1 bank, not signed", in: func(in *attestation.Input) {
			bank(evidencetest.Bank{Alg: evidencetest.AlgSHA1, Select: all})(in)
			in.Evidence.Signature[20] ^= 1
		}, want: only(reason.QuoteSignatureInvalid)},
		{name: "N84 all-zero PCR 0", device: func(s *evidencetest.Scenario) { s.Registers[0] = digest.SHA256{} }, want: weak},
		{name: "N84 all-ones PCR 7", device: func(s *evidencetest.Scenario) { s.Registers[7] = digest.SHA256(bytes.Repeat([]byte{0xff}, 32)) }, want: weak},
		{name: "N85 value altered", in: func(in *attestation.Input) { in.Evidence.PCRs[4].Value[0] ^= 1 }, want: malformed},
		{name: "N86 value that was not quoted", in: func(in *attestation.Input) {
			in.Evidence.PCRs = append(in.Evidence.PCRs, attestation.PCR{Index: 13})
		}, want: malformed},
		{name: "values listed under another index", device: func(s *evidencetest.Scenario) { s.Quoted = append(s.Quoted, 13) }, in: func(in *attestation.Input) {
			in.Evidence.PCRs[len(in.Evidence.PCRs)-1].Index = 14
		}, want: malformed},
		{name: "value left out", in: func(in *attestation.Input) { in.Evidence.PCRs = in.Evidence.PCRs[:10] }, want: malformed},
	}
}

func without(pcrs []int, pcr int) []int {
	return slices.DeleteFunc(slices.Clone(pcrs), func(p int) bool { return p == pcr })
}

func TestRefusesUnauthenticEvidence(t *testing.T) {
	t.Parallel()
	for _, m := range unauthentic() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			v := appraise(t, m.input())
			if got := v.Reasons(); !slices.Equal(got, m.want) {
				t.Errorf("got %v, want %v: %+v", got, m.want, v.Findings)
			}
			if v.Outcome != attestation.Refused || v.Accepted != nil || v.Release != "" || v.NewBoot {
				t.Errorf("a refusal carries a result: %+v", v)
			}
		})
	}
}

// The rule that nobody is quarantined by evidence that somebody else could have sent. Each attack is also combined with
// a device that really booted something else: that must not show.
func TestUnauthenticEvidenceNeverQuarantines(t *testing.T) {
	t.Parallel()
	for _, m := range unauthentic() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			evil := m
			evil.device = func(s *evidencetest.Scenario) {
				s.Boot("product/evil", evidencetest.Firmware("evil"))
				s.Policy.SecureBoot = true
				if m.device != nil {
					m.device(s)
				}
			}
			for _, in := range []attestation.Input{m.input(), evil.input()} {
				v := appraise(t, in)
				if v.Outcome != attestation.Refused {
					t.Fatal("accepted")
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
	for _, m := range append(unauthentic(), wrongStates()...) {
		first, err := appraise(t, m.input()).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		second, err := appraise(t, m.input()).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s: %s\n%s", m.name, first, second)
		}
		if !strings.HasPrefix(string(first), `{"outcome":"refused",`) {
			t.Errorf("%s: %s", m.name, first)
		}
	}
}
