package artifacts

import "github.com/cordon-ota/cordon/attestation/digest"

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
