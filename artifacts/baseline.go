package artifacts

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// BaselinePredicateType is the predicate of a baseline statement.
const BaselinePredicateType = "https://cordon-ota.github.io/baseline/v1"

// How a set of platform values was made.
const (
	BaselineLearned = "learned" // from approved devices that agree
	BaselineVendor  = "vendor"  // from whoever makes the platform
)

// Limits inside a baseline statement.
const (
	MaxBaselineDevices = 256 // per set
	maxSource          = 256 // bytes of a set's origin
)

// ErrBaseline is returned for a baseline statement that is not exactly what cordon writes.
var ErrBaseline = errors.New("baseline statement is not valid")

// BaselineStatement is the in-toto statement that baseline signers sign. Its one subject is the baseline document that a
// verifier compares quotes with.
type BaselineStatement struct {
	Type          string           `json:"_type"`
	Subject       []Subject        `json:"subject"`
	PredicateType string           `json:"predicateType"`
	Predicate     PlatformBaseline `json:"predicate"`
}

// PlatformBaseline says what the firmware of a platform measures, and how that was found out.
type PlatformBaseline struct {
	Product    string        `json:"product"`
	Profile    string        `json:"profile"`    // platform profile, as the inventory names it
	Generation uint64        `json:"generation"` // grows per product and profile; an older one is never taken again
	Sets       []BaselineSet `json:"sets"`       // 1..reference.MaxVariants states; a device is in one of them as a whole
}

// BaselineSet is one state of the platform's firmware.
type BaselineSet struct {
	Name    string               `json:"name"`
	Source  string               `json:"source"`           // BaselineLearned or BaselineVendor
	Origin  string               `json:"origin,omitempty"` // in plain words, such as the vendor's document
	PCRs    []reference.Platform `json:"pcrs"`
	Devices []BaselineDevice     `json:"devices,omitempty"` // learned: those that agreed, by rising id
}

// BaselineDevice is a device that a set was learned from.
type BaselineDevice struct {
	Device   string        `json:"device"`
	Evidence digest.SHA256 `json:"evidence"` // of its Evidence without the log, as in verdicts
	Log      digest.SHA256 `json:"log"`      // of its event log
}

// Baseline is the document that quotes are compared with: the first set, the others as its variants.
func (b PlatformBaseline) Baseline() reference.Baseline {
	out := reference.Baseline{Version: reference.Version, Profile: b.Profile}
	for i, s := range b.Sets {
		if i == 0 {
			out.Name, out.PCRs = s.Name, s.PCRs
			continue
		}
		out.Variants = append(out.Variants, reference.Variant{Name: s.Name, PCRs: s.PCRs})
	}
	return out
}

// NewBaselineStatement makes the statement of a baseline. It returns ErrBaseline for one that breaks a rule, and says
// which.
func NewBaselineStatement(b PlatformBaseline) (BaselineStatement, error) {
	doc, err := b.Baseline().Encode()
	if err != nil {
		return BaselineStatement{}, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	s := BaselineStatement{
		Type: StatementType, PredicateType: BaselinePredicateType, Predicate: b,
		Subject: []Subject{{Name: BaselinePath(b.Product, b.Profile), Digest: SubjectDigest{SHA256: digest.Of(doc)}}},
	}
	if err := s.validate(); err != nil {
		return BaselineStatement{}, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	return s, nil
}

// Encode writes the one byte form of a valid statement. It returns ErrBaseline for what DecodeBaselineStatement refuses.
func (s BaselineStatement) Encode() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	b, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	if len(b) > MaxStatementBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrBaseline, len(b), MaxStatementBytes)
	}
	return b, nil
}

// DecodeBaselineStatement reads a statement. It returns ErrBaseline for anything but the bytes that Encode writes.
func DecodeBaselineStatement(b []byte) (BaselineStatement, error) {
	var s BaselineStatement
	if err := decodeStrict(b, MaxStatementBytes, &s); err != nil {
		return BaselineStatement{}, fmt.Errorf("%w: %w", ErrBaseline, err)
	}
	canonical, err := s.Encode()
	if err != nil {
		return BaselineStatement{}, err
	}
	if !bytes.Equal(b, canonical) {
		return BaselineStatement{}, fmt.Errorf("%w: its bytes are not in the form that cordon writes", ErrBaseline)
	}
	return s, nil
}

// validate holds every rule on a statement and collects all findings.
func (s BaselineStatement) validate() error {
	var errs []error
	if s.Type != StatementType {
		errs = append(errs, fmt.Errorf("_type is %.80q, want %q", s.Type, StatementType))
	}
	if s.PredicateType != BaselinePredicateType {
		errs = append(errs, fmt.Errorf("predicateType is %.80q, want %q", s.PredicateType, BaselinePredicateType))
	}
	if err := s.Predicate.validate(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, s.validateSubject())...)
}

// validateSubject: the subject repeats the document's digest, so that any in-toto verifier sees what was signed.
func (s BaselineStatement) validateSubject() error {
	doc, err := s.Predicate.Baseline().Encode()
	if err != nil {
		return err
	}
	want := Subject{Name: BaselinePath(s.Predicate.Product, s.Predicate.Profile), Digest: SubjectDigest{SHA256: digest.Of(doc)}}
	if len(s.Subject) != 1 || s.Subject[0] != want {
		return fmt.Errorf("the subject is not %s with digest %s", want.Name, want.Digest.SHA256)
	}
	return nil
}

func (b PlatformBaseline) validate() error {
	var errs []error
	if err := ValidName(b.Product); err != nil {
		errs = append(errs, fmt.Errorf("product: %w", err))
	}
	if err := ValidName(b.Profile); err != nil {
		errs = append(errs, fmt.Errorf("profile: %w", err))
	}
	if b.Generation < 1 || b.Generation > MaxCounter {
		errs = append(errs, fmt.Errorf("generation is %d, want 1 to %d", b.Generation, uint64(MaxCounter)))
	}
	if n := len(b.Sets); n < 1 || n > reference.MaxVariants {
		errs = append(errs, fmt.Errorf("it has %d sets, want 1 to %d", n, reference.MaxVariants))
	}
	for i, s := range b.Sets {
		if err := s.validate(); err != nil {
			errs = append(errs, fmt.Errorf("set %d %.80q: %w", i, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (s BaselineSet) validate() error {
	if err := ValidName(s.Name); err != nil {
		return err
	}
	if len(s.Origin) > maxSource || !printable(s.Origin) {
		return fmt.Errorf("origin is no text of at most %d bytes", maxSource)
	}
	switch {
	case s.Source == BaselineVendor && len(s.Devices) == 0:
	case s.Source == BaselineLearned && len(s.Devices) > 0 && len(s.Devices) <= MaxBaselineDevices:
	default:
		return fmt.Errorf("source is %.80q with %d devices, want %q with 1 to %d, or %q with none", s.Source, len(s.Devices), BaselineLearned, MaxBaselineDevices, BaselineVendor)
	}
	for i, d := range s.Devices {
		if err := ValidName(d.Device); err != nil {
			return fmt.Errorf("device: %w", err)
		}
		if i > 0 && s.Devices[i-1].Device >= d.Device {
			return fmt.Errorf("device %s is not in order, or there twice", d.Device)
		}
		if d.Evidence.IsZero() || d.Log.IsZero() {
			return fmt.Errorf("device %s has no Evidence or no event log", d.Device)
		}
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
