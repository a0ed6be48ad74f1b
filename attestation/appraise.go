package attestation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/identity"
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
// (V-62) and contradicts neither itself nor the specification (V-64, V-66, V-68), the boot PCRs are constant within one
// boot (V-48), the platform is the one of the Baseline, and one of Expected matches. When several match, the first in
// the list is the one the Verdict names. A log that only departs from what PC Client firmware writes is held, not
// quarantined: it proves no wrong state.
//
// Every check is a row of one table, rules.
//
// A change of TPM firmware (V-51) is not a refusal here: Verdict.Accepted carries the version, and who holds the
// previous one compares. Nor is a beacon quote right after a reset: Verdict.NewBoot says so and the caller asks for a
// challenge quote.
//
// All failing checks are collected. An error, always ErrUndecidable, means that the verifier's side of in (Binding,
// Expected, Baseline, Policy, AK) is unusable.
func Appraise(in Input) (Verdict, error) { return appraise(in, rules[:]) }

func appraise(in Input, rules []rule) (Verdict, error) {
	return (&appraisal{in: in}).judge(rules, forgetful{})
}

// memory is where judge finds what it has affirmed before; see Cache.
type memory interface {
	recall(in *Input) (matched int, ok bool)
	remember(in *Input, matched int)
}

// forgetful is the memory of Appraise.
type forgetful struct{}

func (forgetful) recall(*Input) (int, bool) { return 0, false }
func (forgetful) remember(*Input, int)      {}

func (a *appraisal) judge(rules []rule, known memory) (Verdict, error) {
	in := &a.in
	if !a.run(rules, stageInput) {
		return Verdict{}, a.undecided
	}
	verdict := Verdict{Outcome: Refused, Evidence: DigestEvidence(in.Evidence)}
	authentic := a.run(rules, stageAuthentic)
	if a.undecided != nil {
		return Verdict{}, a.undecided
	}
	verdict.NewBoot = authentic && in.Last != nil && !a.quote.Clock.SameBoot(in.Last.Clock)
	if !authentic || !a.state(rules, known) || a.matched == nil {
		verdict.Findings = a.findings
		return verdict, nil
	}
	verdict.Outcome, verdict.Release, verdict.Recovery = Affirmed, a.matched.Release, a.matched.Recovery
	verdict.Accepted = &Accepted{Clock: a.quote.Clock, Firmware: a.quote.Firmware, PCRs: bootPCRs(in.Evidence.PCRs)}
	return verdict, nil
}

// state judges what the device booted and reports whether it passed. What is known already, or is asked, depends on
// nothing but the values that were quoted, the log, and what the device is held to.
func (a *appraisal) state(rules []rule, known memory) bool {
	constant := a.run(rules, stageBoot)
	if i, ok := known.recall(&a.in); ok {
		a.matched = &a.in.Expected[i]
		return constant
	}
	b := &appraisal{findings: a.findings, in: Input{
		Evidence: Evidence{PCRs: a.in.Evidence.PCRs, LogDigest: a.in.Evidence.LogDigest}, Log: a.in.Log,
		Expected: a.in.Expected, Superseded: a.in.Superseded, Baseline: a.in.Baseline, Policy: a.in.Policy,
	}}
	passed := b.run(rules, stageState) && constant
	a.findings, a.matched = b.findings, b.matched
	if passed && a.matched != nil {
		known.remember(&a.in, b.matchedAt)
	}
	return passed
}

// Marshal writes v; the same Verdict always gives the same bytes.
func (v Verdict) Marshal() ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode verdict: %w", err)
	}
	return b, nil
}

// appraisal is one run of Appraise. Its fields are set by the rows of rules, in their order.
type appraisal struct {
	in        Input
	undecided error // the verifier's side is unusable; ends everything
	findings  []Finding

	required uint32          // the PCRs that the decision depends on, one bit each
	key      identity.Public // the registered attestation key
	keyErr   error
	quote    quote.Attest
	quoteErr error

	quoted    map[int]digest.SHA256 // the values that the Evidence lists; second stage only
	log       eventlog.Log
	logErr    error
	reading   *eventlog.Reading
	unclear   bool         // the log does not explain the quote
	matched   *Expectation // the first one that matches
	matchedAt int          // its place in Expected
	nearest   []reference.Difference
	nearestTo string // the release that nearest is about
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
