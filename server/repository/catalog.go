// Package repository runs the Image repository: it takes in what the offline roles signed, checks and publishes
// releases, issues timestamps, and gives the rest of the server one consistent view of all that: the Catalog.
//
// It refuses to sign root or the offline targets, and publishes no release that the product's offline policy does not
// allow. Trusted: with its online keys an attacker can withhold releases and choose among those that publishers signed.
package repository

import (
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/rollout"
)

// Catalog is an immutable view of what is published. A new one replaces it after every change; readers keep theirs for
// one request.
type Catalog struct {
	Timestamp        []byte // image/timestamp.json; nil before the server is initialised
	TimestampVersion int64
	Beacon           digest.SHA256
	IssuedAt         time.Time
	ImageRoots       [][]byte // version 1 first
	DirectorRoots    [][]byte
	Targets          int64
	Products         map[string]*Product
	OfflineFiles     map[string][]byte // offline targets by path
}

// Product is what the offline roles and the publishers said about one product.
type Product struct {
	Name         string
	Policy       artifacts.Policy
	PolicyDigest digest.SHA256
	Baselines    map[string]Baseline // by platform profile
	Releases     []*Release          // published ones, highest counter first
}

// Baseline is a signed platform baseline.
type Baseline struct {
	Value      reference.Baseline
	Digest     digest.SHA256
	Generation uint64   // 0: the offline targets role signed it
	Signers    []string // the baseline signers whose signatures verified
}

// Release is a published release.
type Release struct {
	Name        string // product/version
	Statement   artifacts.Statement
	Hold        bool
	Pruned      bool // it is judged when a device boots it, and offered to nobody
	PublishedAt time.Time
	Values      map[string]reference.Values // component -> its Reference Values
	Documents   map[string]digest.SHA256    // open documents beside the components, by file name
}

// Initialised reports whether both roots and a timestamp are there.
func (c *Catalog) Initialised() bool {
	return c != nil && len(c.ImageRoots) > 0 && len(c.DirectorRoots) > 0 && len(c.Timestamp) > 0
}

// Candidates returns the product's published releases as rollout sees them: those whose images are kept.
func (p *Product) Candidates() []rollout.Candidate {
	out := make([]rollout.Candidate, 0, len(p.Releases))
	for _, r := range p.Releases {
		if r.Pruned {
			continue
		}
		out = append(out, rollout.Candidate{Name: r.Name, Release: r.Statement.Predicate, Hold: r.Hold})
	}
	return out
}

// Release finds a published release by name.
func (p *Product) Release(name string) (*Release, bool) {
	i := slices.IndexFunc(p.Releases, func(r *Release) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	return p.Releases[i], true
}

// Expectation is what a device of that hardware must measure when it boots the release; false when the release has no
// measured component for it.
func (r *Release) Expectation(hardwareID string) (attestation.Expectation, bool) {
	for _, c := range r.Statement.Predicate.Components {
		values, measured := r.Values[c.Name]
		if measured && slices.Contains(c.HardwareIDs, hardwareID) {
			return attestation.Expectation{Release: r.Name, Recovery: r.Statement.Predicate.Recovery, Values: values}, true
		}
	}
	return attestation.Expectation{}, false
}

// Expectation is the release's for devices of that hardware, false also when the image was withdrawn and nothing that is
// measured is this image's alone: RevokedBoot cannot name it then, and all that can be done is not to expect it any more.
func (p *Product) Expectation(r *Release, hardwareID string) (attestation.Expectation, bool) {
	if c, ok := r.Measured(hardwareID); ok && p.gone(r, c) {
		return attestation.Expectation{}, false
	}
	return r.Expectation(hardwareID)
}

// Expects says that a device may have booted the release. The first proof may show whichever published release the device was
// made with; a recovery release counts as long as the offline policy lists it.
func (p *Product) Expects(d fleet.Device, r *Release) bool {
	switch {
	case d.Proven == "", r.Name == d.Proven, r.Name == d.Offered:
		return true
	case r.Statement.Predicate.Recovery:
		return len(artifacts.CheckRelease(p.Policy, r.Statement.Predicate)) == 0
	}
	return false
}

// Lacks says what is missing to judge a proof of the device, for operators; "" if nothing is. The device hears policy_missing
// then. Where the release that it has proven is not known, it hears something else (release_lost).
func (p *Product) Lacks(d fleet.Device) string {
	if _, ok := p.Baselines[d.Profile]; !ok {
		return fmt.Sprintf("no baseline of product %s is signed for profile %s", p.Name, d.Profile)
	}
	if _, known := p.Release(d.Proven); d.Proven != "" && !known {
		return ""
	}
	for _, r := range p.Releases {
		if _, ok := p.Expectation(r, d.HardwareID); ok && p.Expects(d, r) {
			return ""
		}
	}
	return fmt.Sprintf("product %s has no published release whose boot hardware %s could have been expected to measure", p.Name, d.HardwareID)
}

// gone reports whether an image whose boot is measured was withdrawn, and RevokedBoot cannot name it.
func (p *Product) gone(r *Release, c artifacts.Component) bool {
	values, measured := r.Values[c.Name]
	_, named := values.BootDigest()
	return measured && !named && slices.Contains(p.Policy.Withdrawn, c.SHA256)
}

// AttestationPolicy is what the product asks of every quote.
func (p *Product) AttestationPolicy() attestation.Policy {
	required := p.Policy.RequiredPCRs
	if len(required) == 0 {
		required = attestation.DefaultRequiredPCRs[:]
	}
	return attestation.Policy{RequiredPCRs: required, SecureBoot: p.Policy.SecureBoot}
}

// RevokedBoot lists the boot measurements of withdrawn images: no device may boot them. They come from the Reference
// Values of releases that were published and that the offline role withdrew later.
func (p *Product) RevokedBoot() []digest.SHA256 {
	var out []digest.SHA256
	for _, r := range p.Releases {
		for _, c := range r.Statement.Predicate.Components {
			if slices.Contains(p.Policy.Withdrawn, c.SHA256) {
				if d, ok := r.Values[c.Name].BootDigest(); ok {
					out = append(out, d)
				}
			}
		}
	}
	return out
}
