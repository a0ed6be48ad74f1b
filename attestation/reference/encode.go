package reference

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
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
var ownedPCRs = map[string][]int{
	BootDirectUKI:   {pcrPrograms, pcrKernelInput, pcrSections, pcrOverrides, pcrExtensions},
	BootSystemdBoot: {pcrPrograms, pcrKernelInput, pcrSections, pcrOverrides, pcrExtensions},
	BootChain:       {pcrPrograms, pcrCommands, pcrKernelInput},
}

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
	case v.Version != Version && v.Version != VersionShapes:
		return malformed("version %d of reference values", v.Version)
	case !ok || v.Version == Version && v.Boot != BootDirectUKI:
		return malformed("boot path %q", cut(v.Boot))
	case v.Version == Version && (v.Inputs != nil || v.Shapes != nil):
		return malformed("version %d knows no inputs and no shapes", Version)
	case v.Image.IsZero():
		return malformed("no image")
	}
	named, err := rising(v.PCRs)
	if err != nil {
		return err
	}
	for _, index := range owned {
		if !named[index] {
			return malformed("PCR %d is missing", index)
		}
	}
	if v.Version == Version {
		return nil
	}
	if err := v.validateInputs(); err != nil {
		return err
	}
	return v.validateShapes()
}

// rising checks each PCR and that their indices rise, and returns which there are.
func rising(pcrs []PCR) (named map[int]bool, err error) {
	named = map[int]bool{}
	last := -1
	for _, p := range pcrs {
		if p.Index <= last || p.Index > eventlog.MaxPCR {
			return nil, malformed("PCR %d after PCR %d", p.Index, last)
		}
		last, named[p.Index] = p.Index, true
		if err := p.validate(); err != nil {
			return nil, err
		}
	}
	return named, nil
}

// inputsOf says which and how many Inputs the Values of a boot path name.
var inputsOf = map[string]struct {
	kind          string
	least, most   int
	longest       int64
	namesPrograms bool
}{
	BootDirectUKI:   {},
	BootSystemdBoot: {InputLoader, 1, MaxLoaders, MaxLoaderBytes, true},
	BootChain:       {InputChain, 1, 1, MaxChainBytes, false},
}

func (v Values) validateInputs() error {
	want := inputsOf[v.Boot]
	if n := len(v.Inputs); n < want.least || n > want.most {
		return malformed("%d inputs, boot path %s has %d to %d", n, v.Boot, want.least, want.most)
	}
	for i, in := range v.Inputs {
		switch {
		case in.Kind != want.kind || in.SHA256.IsZero() || in.Length < 1 || in.Length > want.longest:
			return malformed("input %d has the wrong kind or length, or no digest", i)
		case in.Program.IsZero() == want.namesPrograms || !plain(in.What):
			return malformed("input %d names a program where none is, or none where one is, or its description is no text", i)
		case i > 0 && bytes.Compare(v.Inputs[i-1].SHA256[:], in.SHA256[:]) >= 0:
			return malformed("the inputs are not in the order of their digests")
		}
	}
	return nil
}

// validateShapes: a UKI has two shapes, Secure Boot off and on, and that for each loader in the order of the Inputs.
func (v Values) validateShapes() error {
	want := 2 * max(1, len(v.Inputs))
	if v.Boot == BootChain {
		want = 0
	}
	if len(v.Shapes) != want {
		return malformed("%d shapes, want %d", len(v.Shapes), want)
	}
	for i, s := range v.Shapes {
		if s.SecureBoot != (i%2 == 1) || !plain(s.What) || i == 0 && len(s.PCRs) > 0 {
			return malformed("shape %d is not the one that belongs there", i)
		}
		if _, err := rising(s.PCRs); err != nil {
			return err
		}
		for _, p := range s.PCRs {
			j := slices.IndexFunc(v.PCRs, func(q PCR) bool { return q.Index == p.Index })
			if j < 0 || v.PCRs[j].Value == p.Value {
				return malformed("shape %d names PCR %d, which is not another one in it", i, p.Index)
			}
		}
		if v.Boot == BootSystemdBoot && !v.starts(s, v.Inputs[i/2].Program) {
			return malformed("shape %d does not start with the boot loader that input %d names", i, i/2)
		}
	}
	return nil
}

// starts reports whether PCR 4 of the shape expects that program as the first one that the firmware starts.
func (v Values) starts(s Shape, program digest.SHA256) bool {
	pcrs := v.with(s)
	i := slices.IndexFunc(pcrs, func(p PCR) bool { return p.Index == pcrPrograms })
	return i >= 0 && len(pcrs[i].Events) > loaderEvent && pcrs[i].Events[loaderEvent].Digest == program
}

// loaderEvent is the position in PCR 4 of the first program that the firmware starts.
const loaderEvent = 2

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
