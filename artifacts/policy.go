package artifacts

import (
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// PolicyVersion is the version of the policy document that this build writes.
const PolicyVersion = 1

// Policy is the offline policy of one product, a strict-JSON target that the offline targets role signs
// (policy/<product>.json). Server and device hold every release against it. An empty policy accepts nothing.
type Policy struct {
	Version        int             `json:"version"`
	Product        string          `json:"product"`
	Publishers     []Publisher     `json:"publishers"`
	Threshold      int             `json:"threshold"`       // how many different publishers must have signed; at least 1
	MinimumCounter uint64          `json:"minimum_counter"` // no device installs a release below, recovery included
	MinimumTier    int             `json:"minimum_tier"`
	Withdrawn      []digest.SHA256 `json:"withdrawn"` // image digests that nobody may install or boot
	Recovery       []digest.SHA256 `json:"recovery"`  // image digests that a quarantined device may install
	Approvals      int             `json:"approvals"` // how many people approve before a release is published; 0..4
	SecureBoot     bool            `json:"secure_boot"`
	RequiredPCRs   []int           `json:"required_pcrs,omitempty"` // empty: attestation.DefaultRequiredPCRs
	Baselines      *BaselinePolicy `json:"baselines,omitempty"`     // nil: the offline targets role alone signs platform baselines
}

// BaselinePolicy names who may say what a platform's firmware measures, beside the offline targets role.
type BaselinePolicy struct {
	Signers   []Publisher `json:"signers"`
	Threshold int         `json:"threshold"` // how many different signers must have signed; at least 1
}

// Publisher is one identity that may sign releases: a certificate identity (Issuer, Subject, ...) or a key (KeyPEM).
type Publisher struct {
	Name             string   `json:"name"`
	Issuer           string   `json:"issuer,omitempty"`            // exact
	Subject          string   `json:"subject,omitempty"`           // exact
	SourceRepository string   `json:"source_repository,omitempty"` // exact; empty = any
	Refs             []string `json:"refs,omitempty"`              // exact; empty = any
	KeyPEM           string   `json:"key_pem,omitempty"`           // PKIX, ECDSA P-256; excludes the fields above
}

// Validate holds every rule on a policy and collects all findings; it returns ErrPolicy.
func (p Policy) Validate() error {
	var errs []error
	if p.Version != PolicyVersion {
		errs = append(errs, fmt.Errorf("version is %d, this build knows %d", p.Version, PolicyVersion))
	}
	if err := ValidName(p.Product); err != nil {
		errs = append(errs, fmt.Errorf("product: %w", err))
	}
	if p.Threshold < 1 || p.Threshold > len(p.Publishers) {
		errs = append(errs, fmt.Errorf("threshold is %d, want 1 to the number of publishers, %d", p.Threshold, len(p.Publishers)))
	}
	if p.MinimumCounter > MaxCounter {
		errs = append(errs, fmt.Errorf("minimum_counter is %d, at most %d is allowed", p.MinimumCounter, uint64(MaxCounter)))
	}
	if p.Approvals < 0 || p.Approvals > MaxApprovals {
		errs = append(errs, fmt.Errorf("approvals is %d, want 0 to %d", p.Approvals, MaxApprovals))
	}
	errs = append(errs, validTier("minimum_tier", p.MinimumTier), validPCRs(p.RequiredPCRs),
		validDigests("withdrawn", p.Withdrawn), validDigests("recovery", p.Recovery), validPublishers(p.Publishers), p.Baselines.validate())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return nil
}

// validate accepts nil: then nobody but the offline targets role signs baselines.
func (b *BaselinePolicy) validate() error {
	if b == nil {
		return nil
	}
	if err := validPublishers(b.Signers); err != nil {
		return fmt.Errorf("baselines: %w", err)
	}
	if b.Threshold < 1 || b.Threshold > len(b.Signers) {
		return fmt.Errorf("baselines: threshold is %d, want 1 to the number of signers, %d", b.Threshold, len(b.Signers))
	}
	return nil
}

func validPCRs(pcrs []int) error {
	for i, n := range pcrs {
		if n < 0 || n > 15 || (i > 0 && n <= pcrs[i-1]) {
			return fmt.Errorf("required_pcrs are %d, want rising numbers from 0 to 15", pcrs)
		}
	}
	return nil
}

func validDigests(field string, ds []digest.SHA256) error {
	if len(ds) > MaxPolicyDigests {
		return fmt.Errorf("%s has %d digests, at most %d are allowed", field, len(ds), MaxPolicyDigests)
	}
	seen := map[digest.SHA256]bool{}
	for _, d := range ds {
		if d.IsZero() || seen[d] {
			return fmt.Errorf("%s: digest %s is zero or there twice", field, d)
		}
		seen[d] = true
	}
	return nil
}
