package reference

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// ErrMalformed is returned for documents that are not what this package writes; test with errors.Is.
var ErrMalformed = errors.New("document is malformed")

// Limits inside documents.
const (
	maxEvents = 1024 // per PCR
	maxText   = 256  // bytes of What and Profile
)

// ownedPCRs must be named by the Values of a boot path: one left out would be one that nobody looks at.
var ownedPCRs = map[string][]int{BootDirectUKI: {pcrPrograms, pcrKernelInput, pcrSections, pcrOverrides, pcrExtensions}}

// platformPCRs must be named by a Baseline.
var platformPCRs = [...]int{0, 2, 3, 7}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Encode writes v as JSON; equal Values give equal bytes. It returns ErrMalformed for Values that Decode would refuse.
func (v Values) Encode() ([]byte, error) {
	if err := v.validate(); err != nil {
		return nil, err
	}
	return encode(v)
}

// Decode reads Values. It returns ErrMalformed for unknown or repeated members, trailing bytes, a PCR whose value is
// not what its events lead to, an order that does not rise, and a missing PCR of the boot path.
func Decode(b []byte) (Values, error) {
	var v Values
	if err := decode(b, &v); err != nil {
		return Values{}, err
	}
	if err := v.validate(); err != nil {
		return Values{}, err
	}
	return v, nil
}

// Encode writes b as JSON; equal Baselines give equal bytes. It returns ErrMalformed for what DecodeBaseline refuses.
func (b Baseline) Encode() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	return encode(b)
}

// DecodeBaseline reads a Baseline. It returns ErrMalformed for anything that is not one, in particular for one that
// does not name PCRs 0, 2, 3 and 7.
func DecodeBaseline(data []byte) (Baseline, error) {
	var b Baseline
	if err := decode(data, &b); err != nil {
		return Baseline{}, err
	}
	if err := b.validate(); err != nil {
		return Baseline{}, err
	}
	return b, nil
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	if len(b) > MaxBytes {
		return nil, malformed("%d bytes, at most %d", len(b), MaxBytes)
	}
	return b, nil
}

func decode(b []byte, v any) error {
	if len(b) > MaxBytes {
		return malformed("%d bytes, at most %d", len(b), MaxBytes)
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return malformed("%v", err)
	}
	return nil
}

// validate is what Encode and Decode agree on.
func (v Values) validate() error {
	owned, ok := ownedPCRs[v.Boot]
	switch {
	case v.Version != Version:
		return malformed("version %d of reference values", v.Version)
	case !ok:
		return malformed("boot path %q", cut(v.Boot))
	case v.Image.IsZero():
		return malformed("no image")
	}
	named := map[int]bool{}
	last := -1
	for _, p := range v.PCRs {
		if p.Index <= last || p.Index > eventlog.MaxPCR {
			return malformed("PCR %d after PCR %d", p.Index, last)
		}
		last, named[p.Index] = p.Index, true
		if err := p.validate(); err != nil {
			return err
		}
	}
	for _, index := range owned {
		if !named[index] {
			return malformed("PCR %d is missing", index)
		}
	}
	return nil
}

func (p PCR) validate() error {
	if len(p.Events) > maxEvents {
		return malformed("PCR %d has %d events, at most %d", p.Index, len(p.Events), maxEvents)
	}
	for _, e := range p.Events {
		if !plain(e.What) {
			return malformed("PCR %d has an event whose description is long or not text", p.Index)
		}
	}
	if replay(p.Events) != p.Value {
		return malformed("PCR %d has a value that its events do not lead to", p.Index)
	}
	return nil
}

func (b Baseline) validate() error {
	if b.Version != Version {
		return malformed("version %d of a baseline", b.Version)
	}
	if b.Profile == "" || !plain(b.Profile) {
		return malformed("the profile is empty, long or not text")
	}
	named := map[int]bool{}
	last := -1
	for _, p := range b.PCRs {
		if p.Index <= last || p.Index > eventlog.MaxPCR {
			return malformed("PCR %d after PCR %d", p.Index, last)
		}
		last, named[p.Index] = p.Index, true
		if p.Value.IsZero() {
			return malformed("PCR %d has the value of a register that nothing was measured into", p.Index)
		}
	}
	for _, index := range platformPCRs {
		if !named[index] {
			return malformed("PCR %d is missing", index)
		}
	}
	return nil
}

// plain reports whether s is short printable text.
func plain(s string) bool {
	if len(s) > maxText || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func cut(s string) string { return s[:min(len(s), 64)] }

// LearnBaseline makes the Baseline of a platform from the PCRs that an approved device of it quoted. PCRs that are not
// in quoted stay out of it, and Encode then refuses it.
func LearnBaseline(profile string, quoted map[int]digest.SHA256) Baseline {
	b := Baseline{Version: Version, Profile: profile}
	for _, index := range platformPCRs {
		if value, ok := quoted[index]; ok {
			b.PCRs = append(b.PCRs, Platform{Index: index, Value: value})
		}
	}
	return b
}
