package artifacts

import (
	"errors"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// The fixed words of a release statement (in-toto Statement v1).
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://cordon-ota.github.io/release/v1"
	PayloadType   = "application/vnd.in-toto+json" // DSSE
)

// ErrStatement is returned for a statement that is not exactly what cordon writes.
var ErrStatement = errors.New("release statement is not valid")

// Statement is the in-toto statement that the publisher signs. It holds every field that a client decides on.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // one per component, in the order of Predicate.Components
	PredicateType string    `json:"predicateType"`
	Predicate     Release   `json:"predicate"`
}

// Subject names one component by its target path.
type Subject struct {
	Name   string        `json:"name"`
	Digest SubjectDigest `json:"digest"`
}

// SubjectDigest carries SHA-256 only.
type SubjectDigest struct {
	SHA256 digest.SHA256 `json:"sha256"`
}

// Release is a product's version: 1..n components that are installed together.
type Release struct {
	Product     string      `json:"product"`
	Version     string      `json:"version"`
	Counter     uint64      `json:"counter"`      // grows per product, by at most MaxCounterStep
	Floor       uint64      `json:"floor"`        // after this release the device refuses counters below; at most Counter
	Requires    uint64      `json:"requires"`     // the counter that a device must have reached before; 0 = none
	MinimumTier int         `json:"minimum_tier"` // 0..5
	Recovery    bool        `json:"recovery"`     // a quarantined device may fetch it
	Components  []Component `json:"components"`   // unique names
}

// Component is one installable image.
type Component struct {
	Name            string        `json:"name"`
	HardwareIDs     []string      `json:"hardware_ids"`
	SHA256          digest.SHA256 `json:"sha256"`
	Length          int64         `json:"length"`
	Installer       string        `json:"installer"`                  // "ab", "uki", "rauc", "swupdate", "script"
	ReferenceValues digest.SHA256 `json:"reference_values,omitzero"`  // of the Reference Values document; zero for an image that is not measured
	ReferenceLength int64         `json:"reference_length,omitempty"` // its length in bytes
	Deltas          []Delta       `json:"deltas,omitempty"`
}

// Delta is a patch that turns one exact image into this one.
type Delta struct {
	Base   digest.SHA256 `json:"base"`
	SHA256 digest.SHA256 `json:"sha256"` // of the patch
	Length int64         `json:"length"`
}

// Custom is the `custom` object of a TUF target. It repeats what TUF needs to route; any difference from the statement
// is a refusal (statement_mismatch).
type Custom struct {
	Product     string   `json:"product"`
	Version     string   `json:"version"`
	Counter     uint64   `json:"counter"`
	Component   string   `json:"component"`
	HardwareIDs []string `json:"hardware_ids"`
	MinimumTier int      `json:"minimum_tier"`
	Recovery    bool     `json:"recovery"`
}

// CustomOf is the only way in which a component's Custom is made.
func CustomOf(r Release, c Component) Custom {
	return Custom{
		Product: r.Product, Version: r.Version, Counter: r.Counter, Component: c.Name,
		HardwareIDs: c.HardwareIDs, MinimumTier: r.MinimumTier, Recovery: r.Recovery,
	}
}
