package attestation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// ErrUndecidable is returned by Appraise when the verifier's own side of the Input is incomplete. It says nothing
// about the device: nobody passes and nobody is quarantined.
var ErrUndecidable = errors.New("cannot appraise")

// platformPCRs are those that a Baseline must name: one that it left out would be one that nobody looks at.
var platformPCRs = [...]int{0, 2, 3, 7}

// Bounds of what Appraise takes and gives.
const (
	minNonceBytes   = 16
	exporterBytes   = 32
	maxFindings     = 64
	maxFindingBytes = 512 // of one text in a finding
)

// Appraise decides about in. It has two stages.
//
// The first asks whether the Evidence is authentic and fresh: the attestation key is one that signs only what its TPM
// generated, it signed this quote, the quote commits to the Binding, the TPM's clock advanced, and the PCR values are
// those of the quote and enough of them. Everything in it but the signature itself is looked at only once the
// signature has verified. A verdict that fails here carries reasons with the effect retry or hold, never quarantine:
// anybody can send a bad quote in a device's name.
//
// The second asks what the device booted, and only runs after the first has passed: the log explains every quoted PCR
// (V-62), the boot PCRs are constant within one boot (V-48), the platform is the one of the Baseline, and one of
// Expected matches. When several match, the first in the list is the one the Verdict names.
//
// A change of TPM firmware (V-51) is not a refusal here: Verdict.Accepted carries the version, and who holds the
// previous one compares. Nor is a beacon quote right after a reset: Verdict.NewBoot says so and the caller asks for a
// challenge quote.
//
// All failing checks are collected. An error, always ErrUndecidable, means that the verifier's side of in (Binding,
// Expected, Baseline, Policy, AK) is unusable.
func Appraise(in Input) (Verdict, error) {
	if err := checkInput(in); err != nil {
		return Verdict{}, err
	}
	a := &appraisal{in: in}
	verdict := Verdict{Outcome: Refused, Evidence: DigestEvidence(in.Evidence)}
	if err := a.authenticate(); err != nil {
		return Verdict{}, err
	}
	if len(a.findings) > 0 {
		verdict.Findings = a.findings
		return verdict, nil
	}
	verdict.NewBoot = in.Last != nil && !a.quote.Clock.SameBoot(in.Last.Clock)
	matched := a.judge()
	if len(a.findings) > 0 || matched == nil {
		verdict.Findings = a.findings
		return verdict, nil
	}
	verdict.Outcome, verdict.Release, verdict.Recovery = Affirmed, matched.Release, matched.Recovery
	verdict.Accepted = &Accepted{Clock: a.quote.Clock, Firmware: a.quote.Firmware, PCRs: bootPCRs(in.Evidence.PCRs)}
	return verdict, nil
}

// Marshal writes v; the same Verdict always gives the same bytes.
func (v Verdict) Marshal() ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode verdict: %w", err)
	}
	return b, nil
}

// appraisal is one run of Appraise.
type appraisal struct {
	in       Input
	quote    quote.Attest
	quoted   map[int]digest.SHA256 // set once the values are known to be those of the quote
	log      eventlog.Log          // set once it is known to be the log of the Evidence
	findings []Finding
}

// add records f. Texts are bounded and made valid UTF-8: they may come from a device. Beyond maxFindings only reasons
// that are not there yet are recorded.
func (a *appraisal) add(f Finding) {
	known := func(g Finding) bool { return g.Reason == f.Reason }
	if len(a.findings) >= maxFindings && slices.ContainsFunc(a.findings, known) {
		return
	}
	f.Detail, f.Expected, f.Seen = clip(f.Detail), clip(f.Expected), clip(f.Seen)
	a.findings = append(a.findings, f)
}

func (a *appraisal) refuse(r reason.Reason, format string, args ...any) {
	a.add(Finding{Reason: r, Detail: fmt.Sprintf(format, args...)})
}

func clip(s string) string {
	if len(s) > maxFindingBytes {
		s = s[:maxFindingBytes]
	}
	return strings.ToValidUTF8(s, "?")
}

// checkInput refuses an Input whose verifier side could make a weak verdict look strong (V-81).
func checkInput(in Input) error {
	b := in.Binding
	switch {
	case b.Purpose != PurposePoll && b.Purpose != PurposeEnroll:
		return fmt.Errorf("%w: unknown purpose %q", ErrUndecidable, b.Purpose)
	case len(b.Nonce) < minNonceBytes:
		return fmt.Errorf("%w: nonce of %d bytes, want at least %d", ErrUndecidable, len(b.Nonce), minNonceBytes)
	case b.Device == "":
		return fmt.Errorf("%w: the binding names no device", ErrUndecidable)
	case len(b.Exporter) != exporterBytes:
		return fmt.Errorf("%w: TLS exporter of %d bytes, want %d", ErrUndecidable, len(b.Exporter), exporterBytes)
	case len(in.Policy.RequiredPCRs) == 0:
		return fmt.Errorf("%w: the policy requires no PCR", ErrUndecidable)
	case in.Baseline == nil || len(in.Baseline.PCRs) == 0:
		return fmt.Errorf("%w: no baseline for the platform", ErrUndecidable)
	case len(in.Expected) == 0:
		return fmt.Errorf("%w: no expected release", ErrUndecidable)
	}
	for _, pcr := range platformPCRs {
		if !slices.ContainsFunc(in.Baseline.PCRs, func(p reference.Platform) bool { return p.Index == pcr }) {
			return fmt.Errorf("%w: the baseline does not name PCR %d", ErrUndecidable, pcr)
		}
	}
	for _, e := range slices.Concat(in.Expected, in.Superseded) {
		if e.Release == "" || len(e.Values.PCRs) == 0 {
			return fmt.Errorf("%w: release %q has no Reference Values", ErrUndecidable, e.Release)
		}
	}
	for _, pcr := range requiredPCRs(in) {
		if pcr < 0 || pcr > highestPCR {
			return fmt.Errorf("%w: there is no PCR %d", ErrUndecidable, pcr)
		}
	}
	return nil
}

// requiredPCRs is every PCR that the decision depends on, rising. What a Reference Value or the Baseline names counts
// too, PCR 7 of Secure Boot among them: a PCR that was not quoted is a weak quote, never a wrong state.
func requiredPCRs(in Input) []int {
	required := slices.Clone(in.Policy.RequiredPCRs)
	for _, p := range in.Baseline.PCRs {
		required = append(required, p.Index)
	}
	for _, e := range in.Expected {
		for _, p := range e.Values.PCRs {
			required = append(required, p.Index)
		}
	}
	slices.Sort(required)
	return slices.Compact(required)
}
