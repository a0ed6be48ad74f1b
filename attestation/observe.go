package attestation

import (
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Observation is what a device proved about its platform while nobody has said yet what the platform should be. It
// affirms nothing: who learns a baseline from it needs several devices that agree, and a person who signs.
type Observation struct {
	Evidence digest.SHA256 `json:"evidence"`           // as in Verdict
	Release  string        `json:"release,omitempty"`  // the expected release that it booted
	Firmware uint64        `json:"firmware,omitzero"`  // version of its TPM's firmware; set only when it is Sound
	Findings []Finding     `json:"findings,omitempty"` // what is wrong beside the platform; an Observation with one counts for nothing
}

// Sound reports whether a baseline may be learned from o: everything but the platform's own PCRs was asked and passed.
func (o Observation) Sound() bool { return len(o.Findings) == 0 && o.Release != "" }

// baselineRule is the one rule that Observe leaves out.
const baselineRule = "baseline"

// Observe asks of in all that Appraise asks, except whether the platform is that of the baseline: the Evidence is
// authentic and fresh, the log explains the quote, and the device booted an expected release. Input.Baseline is not
// looked at; the PCRs that a baseline must name have to be quoted all the same. An error is ErrUndecidable.
func Observe(in Input) (Observation, error) {
	wanted := reference.Baseline{Version: reference.Version}
	for _, pcr := range platformPCRs {
		wanted.PCRs = append(wanted.PCRs, reference.Platform{Index: pcr})
	}
	in.Baseline = &wanted
	asked := slices.DeleteFunc(slices.Clone(rules[:]), func(r rule) bool { return r.id == baselineRule })
	v, err := appraise(in, asked)
	if err != nil {
		return Observation{}, err
	}
	seen := Observation{Evidence: v.Evidence, Release: v.Release, Findings: v.Findings}
	if v.Accepted != nil {
		seen.Firmware = v.Accepted.Firmware
	}
	return seen, nil
}
