package appraise

import (
	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/rollout"
	"github.com/cordon-ota/cordon/server/store"
)

// compare holds what the device claims to have installed against the release that its quote has just proven (V-84). The
// boot is proven good whatever is claimed, so a difference takes no standing: the client lies or is confused, and it gets
// no update until the two agree.
func (t *turn) compare(verdict attestation.Verdict, appraisal store.Appraisal) {
	release, ok := t.product.Release(verdict.Release)
	if verdict.Outcome != attestation.Affirmed || !ok {
		return
	}
	c, ok := release.Measured(t.d.HardwareID)
	if !ok {
		return
	}
	proven := rollout.Image{Release: release.Name, Component: c.Name, SHA256: c.SHA256}
	var published []rollout.Image
	for _, r := range t.product.Releases {
		if other, ok := r.Measured(t.d.HardwareID); ok && r != release {
			published = append(published, rollout.Image{Release: r.Name, Component: other.Name, SHA256: other.SHA256})
		}
	}
	var claims []rollout.Claim
	for _, installed := range t.claims.Components {
		claim := rollout.Claim{Component: installed.Component, SHA256: installed.SHA256}
		if installed.Product != "" || installed.Version != "" {
			claim.Release = artifacts.ReleaseName(installed.Product, installed.Version)
		}
		claims = append(claims, claim)
	}
	why := rollout.Disputed(proven, published, claims)
	if why == "" {
		return
	}
	t.disputed = true
	t.refuse(reason.ClaimMismatch)
	t.event(audit.ClaimsDisputed, "server", map[string]any{
		"reason": reason.ClaimMismatch, "detail": why, "proven": release.Name, "appraisal": appraisal.ID.String(), "claims": claims,
	})
}

// choose decides which release the device may have. One whose claims are disputed keeps what it has proven.
func (t *turn) choose() {
	t.decision = rollout.Next(t.d, t.q, t.product.Policy, t.product.Candidates())
	if t.disputed && t.q == nil {
		t.decision = rollout.Decision{Release: t.d.Proven, Reasons: []reason.Reason{reason.ClaimMismatch}}
	}
}
