package attestation

import (
	"fmt"
	"reflect"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Standard is what devices are held to: the part of an Input that is the same for many of them, with the digest that a
// Cache knows it by. It is made once, off the path of a poll, and never changes.
type Standard struct {
	terms  terms
	digest digest.SHA256
	size   int
	source terms // what it was made from, which is not its own
}

// terms are the fields of a Standard.
type terms struct {
	Policy     Policy              `json:"policy"`
	Expected   []Expectation       `json:"expected"`
	Superseded []Expectation       `json:"superseded"`
	Baseline   *reference.Baseline `json:"baseline"`
}

// NewStandard makes the Standard of Policy, Expected, Superseded and Baseline of in; the rest of in is not looked at. It
// keeps a copy, decoded from the very bytes that its digest is of, so the two cannot differ. An error means that these
// fields cannot be written as JSON, and then no appraisal of them can be kept either.
func NewStandard(in Input) (*Standard, error) {
	source := terms{in.Policy, in.Expected, in.Superseded, in.Baseline}
	b, err := json.Marshal(source, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode what devices are held to: %w", err)
	}
	s := &Standard{digest: digest.Of(b), size: len(b), source: source}
	if err := json.Unmarshal(b, &s.terms, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("cannot encode what devices are held to: %w", err)
	}
	return s, nil
}

// Of reports whether s is the Standard of in. Who made s and in from the same memory, and leaves that as it is, is answered
// without reading it.
func (s *Standard) Of(in Input) bool {
	return s != nil && reflect.DeepEqual(s.source, terms{in.Policy, in.Expected, in.Superseded, in.Baseline})
}

// Size is the length of s as JSON, in bytes; what it takes in memory is of that order.
func (s *Standard) Size() int { return s.size }

// Hold returns in with the Policy, Expected, Superseded and Baseline of s. They belong to s: nobody changes them.
func (s *Standard) Hold(in Input) Input {
	in.Policy, in.Expected, in.Superseded, in.Baseline = s.terms.Policy, s.terms.Expected, s.terms.Superseded, s.terms.Baseline
	return in
}
