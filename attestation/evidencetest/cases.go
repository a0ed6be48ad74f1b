package evidencetest

import (
	"slices"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Releases that cases speak about; the device is expected to run Current.
const (
	Current = "product/1.0.0"
	Next    = "product/1.1.0"
	Older   = "product/0.9.0"
)

// Undecidable is what a case wants when Appraise must return an error.
const Undecidable attestation.Outcome = "undecidable"

// Stage says where a case must be refused.
type Stage string

// The stages of a verifier. Nothing that StageDocument to StageAuthentic refuse may quarantine a device.
const (
	StageDocument  Stage = "document"  // the bytes are not one Evidence document
	StageInput     Stage = "input"     // the verifier's own side is incomplete: an error, not a verdict
	StageAuthentic Stage = "authentic" // the Evidence is not authentic, not fresh, or covers too little
	StageState     Stage = "state"     // the Evidence proves a wrong state, or leaves it open
	StageAffirmed  Stage = "affirmed"  // nothing is wrong: strictness must not mean refusing everything
)

// Case is one piece of negative evidence, or one that must be affirmed although it looks odd.
type Case struct {
	ID      string // number of the negative case, "N101"; several cases may share it
	Name    string // short and unique together with ID
	About   string // what is done, in one sentence
	Stage   Stage
	Reasons []reason.Reason // all that must be given, in order
	Note    string          // why this outcome is right, where that is not plain

	Device   func(*Scenario)          // changes the device before it quotes
	Change   func(*attestation.Input) // changes the finished Input
	Document func(good []byte) []byte // changes the Evidence document; StageDocument only
	Large    bool                     // made when it is needed: too large to be kept as a file
}

// Outcome is what Appraise must say.
func (c Case) Outcome() attestation.Outcome {
	switch c.Stage {
	case StageInput:
		return Undecidable
	case StageAffirmed:
		return attestation.Affirmed
	}
	return attestation.Refused
}

// Input makes the Evidence of c with everything that a verifier knows beside it.
func (c Case) Input() attestation.Input { return c.InputOf(NewScenario("device", Current)) }

// InputOf makes it of a device that a test has changed already.
func (c Case) InputOf(s *Scenario) attestation.Input {
	if c.Device != nil {
		c.Device(s)
	}
	in := s.Input()
	if c.Change != nil {
		c.Change(&in)
	}
	return in
}

// Bytes makes the Evidence document of a case of StageDocument.
func (c Case) Bytes() []byte {
	in := NewScenario("device", Current).Input()
	in.Evidence.Log = in.Log
	good, err := attestation.EncodeEvidence(in.Evidence)
	must(err)
	return c.Document(good)
}

// Cases returns every case, sorted as the numbers are. The same build always makes the same bytes.
func Cases() []Case {
	return slices.Concat(documentCases(), encodingCases(), keyCases(), freshnessCases(), registerCases(),
		logFormCases(), logStoryCases(), stateCases(), inputCases(), affirmedCases())
}

// CasesOf returns the cases of some stages.
func CasesOf(stages ...Stage) []Case {
	return slices.DeleteFunc(Cases(), func(c Case) bool { return !slices.Contains(stages, c.Stage) })
}

// Requote replaces the quote of in by one with change's fields, signed by the registered key of the usual device. Clock and
// firmware stay those of the quote that in has.
func Requote(in *attestation.Input, change func(*QuoteSpec)) {
	s := NewScenario("device", Current)
	if q, err := quote.ParseQuote(in.Evidence.Quote); err == nil {
		s.Clock, s.Firmware = q.Clock, q.Firmware
	}
	extra := attestation.Transcript(in.Binding)
	spec := QuoteSpec{QualifiedSigner: in.AK.QualifiedSigner, ExtraData: extra[:], Clock: s.Clock, Firmware: s.Firmware, PCRs: map[int]digest.SHA256{}}
	for _, p := range in.Evidence.PCRs {
		spec.PCRs[p.Index] = p.Value
	}
	change(&spec)
	in.Evidence.Quote, in.Evidence.Signature = s.AK.Quote(spec)
}

func requoted(change func(*QuoteSpec)) func(*attestation.Input) {
	return func(in *attestation.Input) { Requote(in, change) }
}

// resigned changes the bytes of the quote and lets the registered key sign them: a TPM that writes wrong structures.
func resigned(change func([]byte) []byte) func(*attestation.Input) {
	return func(in *attestation.Input) {
		in.Evidence.Quote = change(slices.Clone(in.Evidence.Quote))
		in.Evidence.Signature = NewScenario("device", Current).AK.Sign(in.Evidence.Quote)
	}
}

func only(r ...reason.Reason) []reason.Reason { return r }
