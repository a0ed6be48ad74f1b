package fleet

import (
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Basis names what a verdict was reached with, for the audit log: the verifier's build and the documents that it held the
// Evidence against.
type Basis struct {
	Verifier   string                   `json:"verifier"`
	Policy     digest.SHA256            `json:"policy"`
	Baseline   digest.SHA256            `json:"baseline,omitzero"`
	References map[string]digest.SHA256 `json:"reference_values,omitempty"` // release -> its Reference Values
}

// Repeated is the Evidence that a device was last affirmed by, appraised again under newer Grounds.
type Repeated struct {
	At        time.Time
	Grounds   digest.SHA256
	Undecided string // why nothing could be decided; then there is no Verdict
	Verdict   attestation.Verdict
	Appraisal digest.SHA256 // the new one; zero when undecided
	Of        digest.SHA256 // the one whose Evidence it is; zero when that is not stored any more
	Before    Basis
	After     Basis
}

// Repeat applies what stored Evidence is worth now. It only ever takes away: a pass leaves standing and lease as they are.
//
// Evidence that proves a wrong state opens a quarantine while it still speaks for the device, which is until its lease
// ends. After that it is no longer fresh: the device is unproven, which restricts it at once and is not sticky. Whatever
// else does not pass, and what cannot be decided, only ends the lease: within the product's grace the device shows a new
// quote, or it is restricted as any stale one.
func Repeat(d Device, q *Quarantine, r Repeated) Step {
	s := Step{Device: d}
	if d.Lifecycle != Active || q != nil || d.Standing != Affirmed && d.Standing != Stale {
		return s
	}
	n := &s.Device
	n.Grounds = r.Grounds
	if !r.Appraisal.IsZero() {
		n.LastEvidence = r.Appraisal
	}
	if r.Undecided == "" && r.Verdict.Outcome == attestation.Affirmed && r.Verdict.Release == d.Proven {
		s.repeated(r, attestation.Affirmed, nil)
		return s
	}
	reasons := r.Verdict.Reasons()
	if len(reasons) == 0 { // undecided, or another release than the one it stands for: nothing that a device did
		reasons = []reason.Reason{reason.DeviceUnproven}
	}
	s.Reasons = reasons
	s.repeated(r, attestation.Refused, reasons)
	n.LeaseUntil = time.Time{}
	n.forgetPoll()
	effect, _ := reason.Strongest(reasons)
	switch {
	case effect == reason.Quarantine && d.Standing == Affirmed && r.At.Before(d.LeaseUntil):
		n.Standing = Refused
		s.open(r.At, reasons, firstDetail(r.Verdict), "verifier", r.Appraisal)
	case effect == reason.Quarantine:
		n.Standing = Unproven
	case d.Standing == Affirmed:
		n.Standing, n.StaleSince = Stale, r.At
	}
	return s
}

func (s *Step) repeated(r Repeated, outcome attestation.Outcome, reasons []reason.Reason) {
	data := map[string]any{"outcome": outcome, "before": r.Before, "after": r.After}
	if r.Undecided != "" {
		data["outcome"], data["why"] = "undecided", r.Undecided
	}
	if !r.Appraisal.IsZero() {
		data["appraisal"], data["evidence"] = r.Appraisal.String(), r.Verdict.Evidence
	}
	if !r.Of.IsZero() {
		data["of"] = r.Of.String()
	}
	if len(reasons) > 0 && r.Undecided == "" {
		data["reasons"], data["finding"] = reasons, firstDetail(r.Verdict)
	}
	s.fact("appraisal.repeated", data)
}
