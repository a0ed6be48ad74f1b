package attestation

import (
	"fmt"
	"iter"
	"slices"

	"github.com/cordon-ota/cordon/attestation/reference"
)

// The rules of this file refuse an Input whose verifier side could make a weak verdict look strong (V-81). They are
// errors, ErrUndecidable: they say nothing about the device.

// giveUp ends the appraisal.
func (a *appraisal) giveUp(format string, args ...any) bool {
	a.undecided = fmt.Errorf("%w: %w", ErrUndecidable, fmt.Errorf(format, args...))
	return false
}

func (a *appraisal) inputPurpose() bool {
	if p := a.in.Binding.Purpose; p != PurposePoll && p != PurposeEnroll {
		return a.giveUp("unknown purpose %q", p)
	}
	return true
}

func (a *appraisal) inputNonce() bool {
	if n := len(a.in.Binding.Nonce); n < minNonceBytes {
		return a.giveUp("nonce of %d bytes, want at least %d", n, minNonceBytes)
	}
	return true
}

func (a *appraisal) inputDevice() bool {
	if a.in.Binding.Device == "" {
		return a.giveUp("the binding names no device")
	}
	return true
}

func (a *appraisal) inputExporter() bool {
	if n := len(a.in.Binding.Exporter); n != exporterBytes {
		return a.giveUp("TLS exporter of %d bytes, want %d", n, exporterBytes)
	}
	return true
}

func (a *appraisal) inputPolicy() bool {
	if len(a.in.Policy.RequiredPCRs) == 0 {
		return a.giveUp("the policy requires no PCR")
	}
	return true
}

func (a *appraisal) inputBaseline() bool {
	if a.in.Baseline == nil || len(a.in.Baseline.PCRs) == 0 {
		return a.giveUp("no baseline for the platform")
	}
	return true
}

func (a *appraisal) inputExpected() bool {
	if len(a.in.Expected) == 0 {
		return a.giveUp("no expected release")
	}
	return true
}

func (a *appraisal) inputPlatform() bool {
	for _, pcr := range platformPCRs {
		if !slices.ContainsFunc(a.in.Baseline.PCRs, func(p reference.Platform) bool { return p.Index == pcr }) {
			return a.giveUp("the baseline does not name PCR %d", pcr)
		}
	}
	return true
}

func (a *appraisal) inputValues() bool {
	for _, list := range [...][]Expectation{a.in.Expected, a.in.Superseded} {
		for i := range list {
			if e := &list[i]; e.Release == "" || len(e.Values.PCRs) == 0 {
				return a.giveUp("release %q has no Reference Values", e.Release)
			}
		}
	}
	return true
}

func (a *appraisal) inputRegisters() bool {
	for pcr := range requiredPCRs(&a.in) {
		if pcr < 0 || pcr > highestPCR {
			return a.giveUp("there is no PCR %d", pcr)
		}
	}
	return true
}

func (a *appraisal) prepareRequired() bool {
	for pcr := range requiredPCRs(&a.in) {
		a.required |= 1 << pcr
	}
	return true
}

// requiredPCRs is every PCR that the decision depends on, in any order. What a Reference Value or the Baseline names
// counts too, PCR 7 of Secure Boot among them: a PCR that was not quoted is a weak quote, never a wrong state.
func requiredPCRs(in *Input) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, pcr := range in.Policy.RequiredPCRs {
			if !yield(pcr) {
				return
			}
		}
		for i := range in.Baseline.PCRs {
			if !yield(in.Baseline.PCRs[i].Index) {
				return
			}
		}
		for i := range in.Expected {
			named := in.Expected[i].Values.PCRs
			for j := range named {
				if !yield(named[j].Index) {
					return
				}
			}
		}
	}
}
