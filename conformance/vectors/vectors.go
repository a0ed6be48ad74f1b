// Package vectors is negative evidence as files, and a runner that asks any verifier about them.
//
// A vector is one question: Evidence with everything that a verifier must know beside it, the bytes of an Evidence
// document, an endorsement certificate, or a certification of a key; and the one right answer. The files in the folders
// negative and identity are generated from the cases of attestation/evidencetest by this package's test with -update;
// the same code always writes the same bytes. The folder measured-boot holds recorded, genuine evidence, and the folder
// ek genuine endorsement certificates and certifications.
//
// It promises to judge outcomes first: a verifier that refuses for another reason is told apart from one that accepts.
// It refuses vectors of another format and answers to other questions.
//
// Nobody trusts it: it proves nothing about a device, and its keys are made from words.
package vectors

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Format of the vector files that this build reads and writes.
const Format = 1

// MaxAlloc is how many bytes a verifier may allocate for one question.
const MaxAlloc = 32 << 20

// ErrVector is returned for a file that is not a vector of Format.
var ErrVector = errors.New("not a vector")

// Outcomes of an Answer.
const (
	Affirmed    = string(attestation.Affirmed)
	Refused     = string(attestation.Refused)
	Undecidable = "undecidable" // the verifier's own side is incomplete; nobody passes and nobody is quarantined
)

// Question is what a verifier is asked. Exactly one of Input, Document, EK and Certify is set.
type Question struct {
	Name     string             `json:"name"`
	Input    *attestation.Input `json:"input,omitempty"`
	Log      []byte             `json:"log,omitzero"`      // the event log that the verifier has; absent when it has none
	Document []byte             `json:"document,omitzero"` // the bytes of an Evidence document, which must not be taken
	EK       *EKQuestion        `json:"ek,omitempty"`
	Certify  *CertifyQuestion   `json:"certify,omitempty"`
}

// kinds is how many kinds of question q is.
func (q Question) kinds() int {
	n := 0
	for _, set := range []bool{q.Input != nil, q.Document != nil, q.EK != nil, q.Certify != nil} {
		if set {
			n++
		}
	}
	return n
}

// Answer is what a verifier says.
type Answer struct {
	Name    string          `json:"name"`
	Outcome string          `json:"outcome"`
	Reasons []reason.Reason `json:"reasons,omitempty"` // a verifier without reasons of its own leaves them out
}

// Vector is a question with its right answer.
type Vector struct {
	Format   int            `json:"format"`
	Case     string         `json:"case"`  // number of the negative case
	About    string         `json:"about"` // what is done, in one sentence
	Stage    string         `json:"stage"`
	Note     string         `json:"note,omitempty"`
	MaxAlloc int            `json:"max_alloc"` // bytes that may be allocated for the answer
	Question Question       `json:"question"`
	Answer   Answer         `json:"answer"`
	Verdict  jsontext.Value `json:"verdict,omitempty"` // exactly what this build's verifier writes
}

// Load reads every vector of a folder, sorted by file name. It returns ErrVector.
func Load(dir fs.FS) ([]Vector, error) {
	names, err := fs.Glob(dir, "*.json")
	if err != nil {
		return nil, fmt.Errorf("cannot list vectors: %w", err)
	}
	var out []Vector
	for _, name := range names {
		b, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("cannot read vector: %w", err)
		}
		v, err := Decode(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if v.Question.Name != strings.TrimSuffix(path.Base(name), ".json") {
			return nil, fmt.Errorf("%s: %w: it is named %q inside", name, ErrVector, v.Question.Name)
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no vector there", ErrVector)
	}
	return out, nil
}

// Decode reads one vector. It is strict and returns ErrVector.
func Decode(b []byte) (Vector, error) {
	var v Vector
	if err := json.Unmarshal(b, &v, json.RejectUnknownMembers(true)); err != nil {
		return Vector{}, fmt.Errorf("%w: %w", ErrVector, err)
	}
	if v.Format != Format || v.Question.Name == "" || v.Answer.Name != v.Question.Name || v.Question.kinds() != 1 {
		return Vector{}, fmt.Errorf("%w: format %d of %q", ErrVector, v.Format, v.Question.Name)
	}
	return v, nil
}

// Encode writes v; the same vector always gives the same bytes.
func (v Vector) Encode() ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent(" "))
	if err != nil {
		return nil, fmt.Errorf("cannot encode vector: %w", err)
	}
	return append(b, '\n'), nil
}

// Ask is cordon's own verifier, in process. verdict is what it wrote, nil when it wrote none.
func Ask(q Question) (a Answer, verdict []byte, err error) {
	a.Name = q.Name
	switch {
	case q.EK != nil:
		a.Reasons, err = q.EK.ask()
		return a.decided(err)
	case q.Certify != nil:
		a.Reasons, err = q.Certify.ask()
		return a.decided(err)
	case q.Input == nil:
		a.Outcome, a.Reasons = document(q.Document)
		return a, nil, nil
	}
	in := *q.Input
	in.Log = q.Log
	v, err := attestation.Appraise(in)
	if errors.Is(err, attestation.ErrUndecidable) {
		a.Outcome = Undecidable
		return a, nil, nil
	}
	if err != nil {
		return Answer{}, nil, fmt.Errorf("cannot ask about %s: %w", q.Name, err)
	}
	a.Outcome, a.Reasons = string(v.Outcome), v.Reasons()
	verdict, err = v.Marshal()
	return a, verdict, err
}

// decided completes an answer that has no verdict.
func (a Answer) decided(err error) (Answer, []byte, error) {
	if err != nil {
		return Answer{}, nil, fmt.Errorf("cannot ask about %s: %w", a.Name, err)
	}
	if a.Outcome = Affirmed; len(a.Reasons) > 0 {
		a.Outcome = Refused
	}
	return a, nil, nil
}

// document answers for bytes that may be no Evidence. Evidence alone, however well-formed, affirms nothing.
func document(b []byte) (string, []reason.Reason) {
	switch _, err := attestation.DecodeEvidence(b); {
	case errors.Is(err, attestation.ErrTooLarge):
		return Refused, []reason.Reason{reason.RequestTooLarge}
	case err != nil:
		return Refused, []reason.Reason{reason.QuoteMalformed}
	}
	return Affirmed, nil
}

// Judgement of one answer.
type Judgement string

// Judgements, the worst first.
const (
	WronglyAccepted Judgement = "wrongly accepted" // the one that must never be
	WronglyRefused  Judgement = "wrongly refused"
	Undecided       Judgement = "undecided"     // refused where the verifier should have said that it cannot decide, or the reverse
	OtherReasons    Judgement = "other reasons" // the right outcome with other reasons than cordon's
	Right           Judgement = "right"
)

// Judge compares an answer with the right one.
func (v Vector) Judge(a Answer) Judgement {
	want := v.Answer
	switch {
	case a.Outcome == want.Outcome && (len(a.Reasons) == 0 || slices.Equal(a.Reasons, want.Reasons)):
		return Right
	case a.Outcome == want.Outcome:
		return OtherReasons
	case a.Outcome == Affirmed:
		return WronglyAccepted
	case want.Outcome == Affirmed:
		return WronglyRefused
	}
	return Undecided
}
