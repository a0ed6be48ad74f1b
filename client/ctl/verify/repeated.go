package verify

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/api"
)

// repetition checks that an appraisal which calls itself one has the Evidence of an earlier appraisal of the device that
// had affirmed it, with the same key, binding and history. A server that lies could otherwise pass an old quote off as a
// new one. What a repetition affirms counts as no proof: the device has shown nothing.
func (v *verification) repetition(p api.Appraisal) {
	number, there := v.ids[p.Repeats]
	if !there {
		if v.r.Coverage.Truncated {
			v.cannot("appraisal %d of %s repeats one that was cut from the report", p.Number, p.Device)
			return
		}
		v.fail("appraisal %d of %s repeats appraisal %s, which is not before it in the report", p.Number, p.Device, p.Repeats)
		return
	}
	of := v.verdicts[number]
	switch {
	case of.appraisal.Device != p.Device || of.verdict.Outcome != attestation.Affirmed || !of.appraisal.Repeats.IsZero():
		v.fail("appraisal %d of %s repeats appraisal %d, which is of %s and says %s", p.Number, p.Device, number, of.appraisal.Device, of.verdict.Outcome)
	case !bytes.Equal(shownBy(of.appraisal.Input), shownBy(p.Input)):
		v.fail("appraisal %d of %s repeats appraisal %d with other Evidence", p.Number, p.Device, number)
	case slices.ContainsFunc(p.Input.Expected, func(x attestation.Expectation) bool { return x.Release != of.verdict.Release }):
		v.fail("appraisal %d of %s repeats appraisal %d, which proved %s, and expects another release", p.Number, p.Device, number, of.verdict.Release)
	}
}

// shownBy is the part of an Input that the device and its connection decide.
func shownBy(in attestation.Input) []byte {
	in.Expected, in.Superseded, in.Baseline, in.Policy = nil, nil, nil, attestation.Policy{}
	b, err := json.Marshal(in, json.Deterministic(true))
	if err != nil {
		return nil // never: it was read from JSON
	}
	return b
}
