package artifacts

import (
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Refusal is one reason why a release or a bundle is refused. Detail is one sentence for people.
type Refusal struct {
	Reason reason.Reason `json:"reason"`
	Detail string        `json:"detail"`
}

func refuse(r reason.Reason, format string, args ...any) Refusal {
	return Refusal{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// CheckRelease holds a release against the offline policy of its product, on the server and on the device alike, and
// returns every refusal. Who signed the release is provenance's question. The minimum tier is no refusal here, since
// it depends on the device: see EffectiveTier.
func CheckRelease(p Policy, r Release) []Refusal {
	if err := p.Validate(); err != nil {
		return []Refusal{refuse(reason.PolicyMissing, "the offline policy cannot be used: %v", err)}
	}
	if p.Product != r.Product {
		return []Refusal{refuse(reason.PolicyMissing, "the policy is for product %q, the release is of product %.80q", p.Product, r.Product)}
	}
	var out []Refusal
	if r.Counter < p.MinimumCounter {
		out = append(out, refuse(reason.DowngradeRefused, "release counter %d is below the policy's minimum %d", r.Counter, p.MinimumCounter))
	}
	for _, c := range r.Components {
		if slices.Contains(p.Withdrawn, c.SHA256) {
			out = append(out, refuse(reason.ReleaseWithdrawn, "component %.80q (%s) is withdrawn", c.Name, c.SHA256))
		}
		if r.Recovery && !slices.Contains(p.Recovery, c.SHA256) {
			out = append(out, refuse(reason.RecoveryNotListed, "the release calls itself a recovery release, but the policy does not list component %.80q (%s) for recovery", c.Name, c.SHA256))
		}
	}
	return out
}

// EffectiveTier is the tier that a device needs for this release: the policy can raise what the release asks for,
// never lower it.
func EffectiveTier(p Policy, r Release) int { return max(p.MinimumTier, r.MinimumTier) }

// CheckCustom compares a TUF target's custom object with the signed statement. Every difference is a
// statement_mismatch.
func CheckCustom(s Statement, component string, c Custom) []Refusal {
	r := s.Predicate
	signed, ok := r.Component(component)
	if !ok {
		return []Refusal{refuse(reason.StatementMismatch, "the statement of %s names no component %.80q", ReleaseName(r.Product, r.Version), component)}
	}
	want := CustomOf(r, signed)
	var out []Refusal
	differ := func(field string, got, want any) {
		out = append(out, refuse(reason.StatementMismatch, "%s is %.200q in TUF and %.200q in the statement", field, fmt.Sprint(got), fmt.Sprint(want)))
	}
	if c.Product != want.Product {
		differ("product", c.Product, want.Product)
	}
	if c.Version != want.Version {
		differ("version", c.Version, want.Version)
	}
	if c.Counter != want.Counter {
		differ("counter", c.Counter, want.Counter)
	}
	if c.Component != want.Component {
		differ("component", c.Component, want.Component)
	}
	if !slices.Equal(c.HardwareIDs, want.HardwareIDs) {
		differ("hardware_ids", c.HardwareIDs, want.HardwareIDs)
	}
	if c.MinimumTier != want.MinimumTier {
		differ("minimum_tier", c.MinimumTier, want.MinimumTier)
	}
	if c.Recovery != want.Recovery {
		differ("recovery", c.Recovery, want.Recovery)
	}
	return out
}

// CheckImage compares the length and digest that TUF gives for a component's image with the signed statement. Every
// difference is a statement_mismatch.
func CheckImage(s Statement, component string, length int64, sum digest.SHA256) []Refusal {
	r := s.Predicate
	c, ok := r.Component(component)
	if !ok {
		return []Refusal{refuse(reason.StatementMismatch, "the statement of %s names no component %.80q", ReleaseName(r.Product, r.Version), component)}
	}
	if c.Length != length || c.SHA256 != sum {
		return []Refusal{refuse(reason.StatementMismatch, "component %q has %d bytes and digest %s in TUF, %d and %s in the statement", component, length, sum, c.Length, c.SHA256)}
	}
	return nil
}

// CheckComplete holds the components that are to be installed together against the release: every component that is made
// for this hardware must be among names. A part of a release is a state that nobody built and nobody tested.
func CheckComplete(r Release, hardware string, names []string) []Refusal {
	var out []Refusal
	for _, c := range r.Components {
		if slices.Contains(c.HardwareIDs, hardware) && !slices.Contains(names, c.Name) {
			out = append(out, refuse(reason.MetadataInvalid, "component %q of %s is left out; the components of a release are installed together", c.Name, ReleaseName(r.Product, r.Version)))
		}
	}
	return out
}
