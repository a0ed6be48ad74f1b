package evidencetest

import (
	"bytes"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// freshnessCases are quotes for somebody or something else, and quotes that were accepted before.
func freshnessCases() []Case {
	unknown, reused := only(reason.NonceUnknown), only(reason.NonceReused)
	clock := func(change func(*quote.Clock)) func(*Scenario) {
		return func(s *Scenario) { s.Accept(); change(&s.Clock) }
	}
	return staged(StageAuthentic, []Case{
		{ID: "N61", Name: "replay", About: "the last accepted quote once more, for a new challenge", Device: func(s *Scenario) { s.Accept() },
			Change: func(in *attestation.Input) { in.Binding.Nonce = make([]byte, 32) }, Reasons: only(reason.NonceUnknown, reason.NonceReused)},
		{ID: "N61", Name: "replay of a bad boot", About: "a quote of a wrong state, after it was accepted", Device: func(s *Scenario) { s.Boot("product/evil"); s.Accept() }, Reasons: reused,
			Note: "what is not fresh never quarantines"},
		{ID: "N62", Name: "other challenge", About: "the quote is over another challenge", Change: func(in *attestation.Input) { in.Binding.Nonce = make([]byte, 32) }, Reasons: unknown},
		{ID: "N62", Name: "other device", About: "the quote names another device", Change: func(in *attestation.Input) { in.Binding.Device = "other" }, Reasons: unknown},
		{ID: "N62", Name: "other purpose", About: "the quote was made for an enrollment", Change: func(in *attestation.Input) { in.Binding.Purpose = attestation.PurposeEnroll }, Reasons: unknown},
		{ID: "N62", Name: "other connection", About: "the quote was made on another TLS connection", Change: func(in *attestation.Input) { in.Binding.Exporter = make([]byte, 32) }, Reasons: unknown},
		{ID: "N62", Name: "other claims", About: "the quote commits to other claims", Change: func(in *attestation.Input) { in.Binding.Claims[0] ^= 1 }, Reasons: unknown},
		{ID: "N62", Name: "one more log", About: "the transcript lists a log more", Change: func(in *attestation.Input) { in.Binding.LogDigests = append(in.Binding.LogDigests, digest.SHA256{}) }, Reasons: unknown},
		{ID: "N62", Name: "log outside of the transcript", About: "the quote commits to no log", Device: func(s *Scenario) { s.Binding.LogDigests = []digest.SHA256{} }, Reasons: unknown},
		{ID: "N62", Name: "empty extraData", About: "the quote commits to nothing", Change: requoted(func(s *QuoteSpec) { s.ExtraData = nil }), Reasons: unknown},
		{ID: "N62", Name: "raw challenge", About: "extraData is the challenge itself and not the transcript", Change: func(in *attestation.Input) {
			Requote(in, func(s *QuoteSpec) { s.ExtraData = in.Binding.Nonce })
		}, Reasons: unknown},
		{ID: "N67", Name: "same clock", About: "the clock is that of the last accepted quote", Device: clock(func(*quote.Clock) {}), Reasons: reused},
		{ID: "N68", Name: "clock goes back", About: "the clock is one tick earlier", Device: clock(func(c *quote.Clock) { c.Clock-- }), Reasons: reused},
		{ID: "N68", Name: "restartCount goes back", About: "the restart counter is lower and the clock higher", Device: clock(func(c *quote.Clock) { c.RestartCount--; c.Clock += 100 }), Reasons: reused},
		{ID: "N69", Name: "resetCount goes back", About: "the reset counter is lower and the clock higher", Device: clock(func(c *quote.Clock) { c.ResetCount--; c.Clock += 100 }), Reasons: reused},
		{ID: "N69", Name: "resetCount goes back, restartCount up", About: "the reset counter is lower and the restart counter higher", Device: clock(func(c *quote.Clock) { c.ResetCount--; c.RestartCount += 9 }), Reasons: reused},
		{ID: "N70", Name: "unsafe clock in the same boot", About: "the TPM says that its clock may have gone back, and it has not booted", Device: clock(func(c *quote.Clock) { c.Clock++; c.Safe = false }), Reasons: reused},
		{ID: "N70", Name: "unsafe clock after a restart", About: "the same after a resume", Device: clock(func(c *quote.Clock) { c.RestartCount++; c.Safe = false }), Reasons: reused},
		{ID: "N70", Name: "unsafe clock on a beacon", About: "the same on a quote that is not over a challenge", Device: func(s *Scenario) { s.Clock.Safe, s.Challenge = false, false }, Reasons: reused},
	})
}

// registerCases are quotes that cover too little or other registers than they say.
func registerCases() []Case {
	weak, malformed := only(reason.PCRBankWeak), only(reason.QuoteMalformed)
	bank := func(banks ...Bank) func(*attestation.Input) {
		return requoted(func(s *QuoteSpec) { s.Banks = banks })
	}
	all := []byte{0xff, 0x3a, 0}
	cases := []Case{
		{ID: "N80", Name: "empty selection", About: "the quote covers no PCR", Change: requoted(func(s *QuoteSpec) { s.PCRs = nil }), Reasons: only(reason.PCRBankWeak, reason.QuoteMalformed)},
		{ID: "N80", Name: "no bank", About: "the quote names no bank at all", Change: bank([]Bank{}...), Reasons: weak},
		{ID: "N81", Name: "only PCR 23", About: "the quote covers PCR 23 alone", Device: quoting(func([]int) []int { return []int{23} }), Reasons: weak},
		{ID: "N81", Name: "only PCR 0", About: "the quote covers PCR 0 alone", Device: quoting(func([]int) []int { return []int{0} }), Reasons: weak},
		{ID: "N82", Name: "PCR 7", About: "PCR 7 is not quoted", Device: quotingWithout(7), Reasons: weak},
		{ID: "N82", Name: "PCR 5", About: "PCR 5, which the policy alone requires, is not quoted", Device: quotingWithout(5), Reasons: weak},
		{ID: "N82", Name: "PCR 11 that the policy forgot", About: "PCR 11 is not quoted and only the Reference Values need it", Device: func(s *Scenario) {
			quotingWithout(11)(s)
			s.Policy.RequiredPCRs = []int{0}
		}, Reasons: weak},
		{ID: "N82", Name: "PCR 7 that the policy forgot", About: "PCR 7 is not quoted and only the baseline needs it", Device: func(s *Scenario) {
			quotingWithout(7)(s)
			s.Policy.RequiredPCRs, s.Policy.SecureBoot = []int{0}, true
		}, Reasons: weak},
		{ID: "N83", Name: "SHA-1 bank", About: "the quote covers the SHA-1 bank", Change: bank(Bank{Alg: AlgSHA1, Select: all}), Reasons: weak},
		{ID: "N83", Name: "SHA-384 bank", About: "the quote covers the SHA-384 bank", Change: bank(Bank{Alg: 0x0c, Select: all}), Reasons: weak},
		{ID: "N83", Name: "SHA-512 bank", About: "the quote covers a bank that was never extended", Change: bank(Bank{Alg: 0x0d, Select: all}), Reasons: weak},
		{ID: "N83", Name: "selection of four bytes", About: "the selection is longer than a PC Client TPM's", Change: bank(Bank{Alg: AlgSHA256, Select: append(bytes.Clone(all), 0)}), Reasons: weak},
		{ID: "N83", Name: "digest of another length", About: "the PCR digest is not SHA-256", Change: requoted(func(s *QuoteSpec) { s.Digest = make([]byte, 20) }), Reasons: weak},
		{ID: "N85", Name: "value altered", About: "one bit of a listed value is altered", Change: func(in *attestation.Input) { in.Evidence.PCRs[4].Value[0] ^= 1 }, Reasons: malformed},
		{ID: "N86", Name: "value that was not quoted", About: "a value is listed for a PCR that was not quoted", Change: func(in *attestation.Input) {
			in.Evidence.PCRs = append(in.Evidence.PCRs, attestation.PCR{Index: 14})
		}, Reasons: malformed},
		{ID: "N86", Name: "value under another index", About: "a value is listed under another PCR than it was quoted for", Change: func(in *attestation.Input) {
			in.Evidence.PCRs[len(in.Evidence.PCRs)-1].Index = 14
		}, Reasons: malformed},
		{ID: "N86", Name: "value left out", About: "a quoted value is not listed", Change: func(in *attestation.Input) { in.Evidence.PCRs = in.Evidence.PCRs[:10] }, Reasons: malformed},
		{ID: "N86", Name: "value twice", About: "a PCR is listed twice", Change: func(in *attestation.Input) { in.Evidence.PCRs[1].Index = 0 }, Reasons: malformed},
		{ID: "N88", Name: "two banks", About: "the quote covers two banks", Change: bank(Bank{Alg: AlgSHA256, Select: all}, Bank{Alg: AlgSHA1, Select: all}), Reasons: weak},
		{ID: "N88", Name: "SHA-256 twice", About: "the quote names the SHA-256 bank twice", Change: bank(Bank{Alg: AlgSHA256, Select: all}, Bank{Alg: AlgSHA256, Select: all}), Reasons: weak},
		{ID: "N83", Name: "SHA-1 bank, not signed", About: "the quote covers the SHA-1 bank and its signature is wrong", Change: func(in *attestation.Input) {
			bank(Bank{Alg: AlgSHA1, Select: all})(in)
			in.Evidence.Signature[20] ^= 1
		}, Reasons: only(reason.QuoteSignatureInvalid)},
	}
	for _, pcr := range []int{0, 2, 3, 7} {
		cases = append(cases, Case{ID: "N84", Name: "PCR " + digits(pcr) + " of zeros", About: "the firmware has not measured into PCR " + digits(pcr),
			Device: func(s *Scenario) { s.Registers[pcr] = digest.SHA256{} }, Reasons: weak})
	}
	cases = append(cases, Case{ID: "N84", Name: "PCR 1 of zeros that the log explains", About: "neither the TPM nor the log knows of anything in PCR 1",
		Device: func(s *Scenario) {
			s.Log = Rewrite(s.Log, func(e eventlog.Event) []eventlog.Event { return unless(e.PCR == 1, e) })
			s.Registers = s.Log.PCRs()
		}, Reasons: weak})
	return staged(StageAuthentic, append(cases, Case{ID: "N84", Name: "PCR 7 of ones", About: "PCR 7 holds the value of a register that was never used",
		Device: func(s *Scenario) { s.Registers[7] = digest.SHA256(bytes.Repeat([]byte{0xff}, 32)) }, Reasons: weak}))
}

// inputCases are verifiers that would decide without knowing what to look for.
func inputCases() []Case {
	policy := func(p ...int) func(*attestation.Input) {
		return func(in *attestation.Input) { in.Policy.RequiredPCRs = p }
	}
	return staged(StageInput, []Case{
		{ID: "N72", Name: "no nonce", About: "verifier and quote agree on an empty nonce", Device: func(s *Scenario) { s.Binding.Nonce = nil }},
		{ID: "N72", Name: "short nonce", About: "verifier and quote agree on 15 bytes of nonce", Device: func(s *Scenario) { s.Binding.Nonce = make([]byte, 15) }},
		{ID: "N62", Name: "no purpose", About: "verifier and quote agree on an unknown purpose", Device: func(s *Scenario) { s.Binding.Purpose = "anything" }},
		{ID: "N62", Name: "no device", About: "verifier and quote agree on an empty device id", Device: func(s *Scenario) { s.Binding.Device = "" }},
		{ID: "N62", Name: "no connection", About: "verifier and quote agree on an empty TLS exporter", Device: func(s *Scenario) { s.Binding.Exporter = nil }},
		{ID: "N130", Name: "nothing expected", About: "no release is expected of the device", Change: func(in *attestation.Input) { in.Expected = nil }},
		{ID: "N130", Name: "no baseline", About: "nothing is known about the platform", Change: func(in *attestation.Input) { in.Baseline = nil }},
		{ID: "N131", Name: "empty policy", About: "the policy requires nothing", Change: func(in *attestation.Input) { in.Policy = attestation.Policy{} }},
		{ID: "N131", Name: "PCR 24", About: "the policy requires a register that does not exist", Change: policy(0, 24)},
		{ID: "N131", Name: "baseline without PCR 7", About: "the baseline leaves a firmware register out", Change: func(in *attestation.Input) {
			b := *in.Baseline
			b.PCRs = b.PCRs[:len(b.PCRs)-1]
			in.Baseline = &b
		}},
		{ID: "N131", Name: "release without values", About: "the expected release has no Reference Values", Device: func(s *Scenario) { s.Expected[0].Values.PCRs = nil }},
		{ID: "N131", Name: "release without a name", About: "the expected release has no name", Device: func(s *Scenario) { s.Expected[0].Release = "" }},
		{ID: "N131", Name: "left release without values", About: "a release that the device has left has no Reference Values", Change: func(in *attestation.Input) {
			in.Superseded = []attestation.Expectation{{Release: Older}}
		}},
		{ID: "N33", Name: "damaged key", About: "the registered key's point is not on its curve", Change: func(in *attestation.Input) {
			in.AK.Public = offCurve(&NewKey(Seed("device"), GoodAK()).Private.PublicKey)
		}, Note: "only the verifier's own store can hold this: nobody passes and nobody is quarantined"},
		{ID: "N33", Name: "cut key", About: "the registered key's public area is cut short", Change: func(in *attestation.Input) { in.AK.Public = in.AK.Public[:40] }},
	})
}
