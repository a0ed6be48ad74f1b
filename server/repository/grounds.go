package repository

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
)

// VerdictPolicy is what an appraisal under this catalog asks for: AttestationPolicy with the boot measurements of withdrawn
// images.
func (p *Product) VerdictPolicy() attestation.Policy {
	policy := p.AttestationPolicy()
	policy.RevokedBoot = p.RevokedBoot()
	return policy
}

// Grounds identifies what a verdict about a device of that platform profile depends on beside its Evidence and its
// releases: the policy, the withdrawn boot measurements and images, the baseline. A verdict that was reached on other
// grounds says nothing until the Evidence has been appraised again. What the offline roles sign beyond that, such as
// publishers or the lowest counter, changes no verdict and not the grounds.
func (p *Product) Grounds(profile string) digest.SHA256 {
	policy := p.VerdictPolicy()
	policy.RevokedBoot = slices.Clone(policy.RevokedBoot)
	slices.SortFunc(policy.RevokedBoot, func(a, b digest.SHA256) int { return bytes.Compare(a[:], b[:]) })
	policy.RevokedBoot = slices.Compact(policy.RevokedBoot)
	text, err := json.Marshal(struct {
		Domain   string             `json:"domain"`
		Product  string             `json:"product"`
		Policy   attestation.Policy `json:"policy"`
		Baseline digest.SHA256      `json:"baseline"`
		Gone     []string           `json:"gone,omitempty"`
	}{"cordon/grounds/v1", p.Name, policy, p.Baselines[profile].Digest, p.allGone()}, json.Deterministic(true))
	if err != nil {
		panic(err) // numbers, texts and digests always encode
	}
	return digest.Of(text)
}

// Outdated says that a device stands on other grounds than those of the catalog: policy or baseline have been replaced since
// it was affirmed. It gets nothing new until its Evidence has been appraised again.
func (c *Catalog) Outdated(d fleet.Device) bool {
	if d.Standing != fleet.Affirmed {
		return false
	}
	product := c.Products[d.Product]
	return product == nil || d.Grounds != product.Grounds(d.Profile)
}

// allGone lists the images that Expectation leaves out.
func (p *Product) allGone() []string {
	var out []string
	for _, r := range p.Releases {
		for _, c := range r.Statement.Predicate.Components {
			if p.gone(r, c) {
				out = append(out, c.SHA256.String())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Measured is the component whose Reference Values a device of that hardware is held against; false when there is none.
func (r *Release) Measured(hardwareID string) (artifacts.Component, bool) {
	for _, c := range r.Statement.Predicate.Components {
		if _, measured := r.Values[c.Name]; measured && slices.Contains(c.HardwareIDs, hardwareID) {
			return c, true
		}
	}
	return artifacts.Component{}, false
}
