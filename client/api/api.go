// Package api holds the types of the admin API (/api/v1/..., openapi.yaml) and its Go client.
//
// Requests are decoded strictly: unknown fields, duplicates and trailing bytes are refused. Every error is an RFC 9457
// problem document (wire.Problem). Times are RFC 3339 in UTC.
package api

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
)

// Limits in bytes.
const (
	MaxRequestBytes  = 8 << 20
	MaxCeremonyBytes = 16 << 20
	UploadChunk      = 8 << 20 // a client sends at most this much of a blob in one request
)

// Status is GET /api/v1/status, open to everyone: what a ceremony needs, and what /readyz says.
type Status struct {
	Version        string        `json:"version"`
	Initialised    bool          `json:"initialised"`
	TrustDomain    string        `json:"trust_domain"`
	DeviceURL      string        `json:"device_url"`
	ServerCA       string        `json:"server_ca"` // PEM
	ServerCASHA256 digest.SHA256 `json:"server_ca_sha256"`
	Keys           []OnlineKey   `json:"keys"`
	LogKey         string        `json:"log_key,omitempty"` // of the audit log: C2SP note verifier key, its name is the log's origin
	Epoch          int64         `json:"epoch"`

	// Downloads are what the door may send devices to; a trust bundle has to name them.
	Downloads []wire.Download `json:"downloads,omitempty"`

	ImageRoot    int64 `json:"image_root"` // newest root versions; 0 = none
	DirectorRoot int64 `json:"director_root"`
	Targets      int64 `json:"targets"` // newest offline targets version
}

// Uses of an online key.
const (
	KeySnapshot  = "snapshot"
	KeyTimestamp = "timestamp"
	KeyProduct   = "product"  // every product role
	KeyDirector  = "director" // targets, snapshot, timestamp of the Director
)

// OnlineKey is a public key that the server signs with and that the offline root has to name.
type OnlineKey struct {
	Use         string        `json:"use"`
	PublicPEM   string        `json:"public_pem"`
	Fingerprint digest.SHA256 `json:"fingerprint"` // SHA-256 of the DER SPKI
}

// Ceremony is POST /api/v1/ceremony: signed offline metadata. Parts that are absent stay as they are.
type Ceremony struct {
	ImageRoots    [][]byte          `json:"image_roots,omitempty"` // in order
	DirectorRoots [][]byte          `json:"director_roots,omitempty"`
	Targets       []byte            `json:"targets,omitempty"`
	Files         map[string][]byte `json:"files,omitempty"` // offline targets by path: policy/..., baseline/..., sigstore/...
}

// CeremonyResult says what is current now.
type CeremonyResult struct {
	ImageRoot    int64    `json:"image_root"`
	DirectorRoot int64    `json:"director_root"`
	Targets      int64    `json:"targets"`
	Products     []string `json:"products"`
	Changed      bool     `json:"changed"`
}

// Roles of people and machines.
const (
	RoleAdmin    = "admin"    // people, tokens, ceremony
	RoleOperator = "operator" // devices, releases' hold, quarantine
	RoleAuditor  = "auditor"  // reads everything, reports
	RoleCI       = "ci"       // publishes
)

// PersonRequest is POST /api/v1/people. Names are artifacts.ValidName.
type PersonRequest struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles"`
	Days  int      `json:"days"` // life of the token; 1..400, default 90
}

// TokenRequest is POST /api/v1/people/{name}/token.
type TokenRequest struct {
	Days int `json:"days"` // life of the token; 1..400, default 90
}

// PersonCreated carries the token once.
type PersonCreated struct {
	Person Person `json:"person"`
	Token  string `json:"token"`
}

// Person is a named account. A ci account is a person too, with the ci role only.
type Person struct {
	Name      string    `json:"name"`
	Roles     []string  `json:"roles"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"` // of the newest token
	Disabled  bool      `json:"disabled,omitempty"`
}

// InventoryEntry claims a TPM for a product: PUT /api/v1/inventory/{device}.
type InventoryEntry struct {
	Device     string `json:"device"` // device id: base32 of SHA-256 of the EK's SPKI, see identity.DeviceIDOf
	Product    string `json:"product"`
	HardwareID string `json:"hardware_id"`
	Profile    string `json:"profile"` // platform profile, names the baseline

	// Where the device is in the network: what enforcement points find it by. At most 16 each.
	Addresses []string `json:"addresses,omitempty"` // IP addresses
	MACs      []string `json:"macs,omitempty"`      // like 02:00:00:00:00:01
}

// EnrollTokenRequest is POST /api/v1/enroll-tokens: a one-time token that claims whichever genuine TPM presents it.
type EnrollTokenRequest struct {
	Product    string `json:"product"`
	HardwareID string `json:"hardware_id"`
	Profile    string `json:"profile"`
	Minutes    int    `json:"minutes"` // 1..10080, default 60
}

// EnrollTokenCreated carries the token once.
type EnrollTokenCreated struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Device is GET /api/v1/devices/{id} and an element of GET /api/v1/devices.
type Device struct {
	ID           string          `json:"id"`
	Product      string          `json:"product,omitempty"`
	HardwareID   string          `json:"hardware_id,omitempty"`
	Profile      string          `json:"profile,omitempty"`
	Lifecycle    string          `json:"lifecycle"`
	Standing     string          `json:"standing"`
	Segment      string          `json:"segment"`
	Reasons      []reason.Reason `json:"reasons,omitempty"` // why it is not offered anything or restricted
	Tier         int             `json:"tier"`
	AdmittedBy   string          `json:"admitted_by,omitempty"` // "inventory", "token" or "approval:PERSON"
	Proven       string          `json:"proven,omitempty"`      // release, product/version
	ProvenAt     *time.Time      `json:"proven_at,omitempty"`
	LeaseUntil   *time.Time      `json:"lease_until,omitempty"`
	Offered      string          `json:"offered,omitempty"`
	Deadline     *time.Time      `json:"deadline,omitempty"`
	SeenAt       *time.Time      `json:"seen_at,omitempty"`
	EnrolledAt   time.Time       `json:"enrolled_at"`
	Manufacturer string          `json:"manufacturer,omitempty"`
	Quarantine   *Quarantine     `json:"quarantine,omitempty"`
	Version      int64           `json:"version"`
	// ReappraisalDue: it was affirmed by a policy or baseline that has been replaced since, and gets nothing new until its
	// Evidence has been appraised again.
	ReappraisalDue bool `json:"reappraisal_due,omitempty"`
	// Endorsement is there when one device was asked for, not in lists.
	Endorsement *Endorsement `json:"endorsement,omitempty"`
	// ForgetKey is there when people want the attestation key forgotten, and from then on until the device has enrolled again.
	ForgetKey *ForgetKey `json:"forget_key,omitempty"`
}

// ForgetKey says how far the forgetting of a device's attestation key is.
type ForgetKey struct {
	Forgotten bool       `json:"forgotten,omitempty"` // no attestation key is registered; the device has to enroll again
	Voices    []KeyVoice `json:"voices,omitempty"`    // who wants the registered key forgotten; two people do it
}

// KeyVoice is one person's wish that an attestation key is forgotten.
type KeyVoice struct {
	Person string    `json:"person"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"` // it counts no more after that
}

// ForgetKeyRequest is POST /api/v1/devices/{id}/forget-key; it takes two people.
type ForgetKeyRequest struct {
	Reason string `json:"reason"`
}

// Endorsement is what a denial can name the TPM of a device by, in the form that DenialRequest takes.
type Endorsement struct {
	Key      digest.SHA256 `json:"key"`                // SHA-256 of the endorsement key's SubjectPublicKeyInfo
	Serial   string        `json:"serial,omitempty"`   // of its certificate
	Issuers  []string      `json:"issuers,omitempty"`  // key identifiers, that of the certificate's issuer first
	Firmware string        `json:"firmware,omitempty"` // as the last accepted quote shows it, in hex
}

// Quarantine is an open or ended quarantine.
type Quarantine struct {
	ID          string          `json:"id"`
	Device      string          `json:"device"`
	Since       time.Time       `json:"since"`
	Causes      []reason.Reason `json:"causes"`
	Detail      string          `json:"detail"` // the first finding, in plain words
	By          string          `json:"by"`     // "verifier" or a person
	Evidence    digest.SHA256   `json:"evidence,omitzero"`
	RecoveredAt *time.Time      `json:"recovered_at,omitempty"` // a fresh challenge quote passed after Since
	Approvals   []Approval      `json:"approvals,omitempty"`
	EndedAt     *time.Time      `json:"ended_at,omitempty"`
}

// Approval is one person's yes.
type Approval struct {
	Person string    `json:"person"`
	At     time.Time `json:"at"`
}

// QuarantineRequest is POST /api/v1/devices/{id}/quarantine (one person is enough to tighten).
type QuarantineRequest struct {
	Detail string `json:"detail"`
}

// PublishRequest is POST /api/v1/releases, after all components, Reference Values and SBOMs were uploaded as blobs.
type PublishRequest struct {
	Bundles   [][]byte                 `json:"bundles"`             // Sigstore bundles over the same statement
	Reference map[string]digest.SHA256 `json:"reference,omitempty"` // component -> blob of its Reference Values
	SBOMs     map[string]digest.SHA256 `json:"sboms,omitempty"`     // component -> blob of its SBOM
	DryRun    bool                     `json:"dry_run,omitempty"`   // check and change nothing; a blob that is not uploaded yet is no refusal
}

// States of a release.
const (
	ReleaseStaged    = "staged"    // checked, waits for approvals
	ReleasePublished = "published" // in signed metadata
)

// Release is GET /api/v1/releases/{product}/{version}, the answer to a publish, and an element of the list.
type Release struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Hold        bool              `json:"hold"`
	HoldReason  string            `json:"hold_reason,omitempty"`
	Release     artifacts.Release `json:"release"`
	Publishers  []string          `json:"publishers"`
	Approvals   []Approval        `json:"approvals,omitempty"`
	Needed      int               `json:"approvals_needed"`
	CreatedBy   string            `json:"created_by"`
	CreatedAt   time.Time         `json:"created_at"`
	PublishedAt *time.Time        `json:"published_at,omitempty"`
	Changed     bool              `json:"changed"`             // false: the same release was there already
	Timestamp   int64             `json:"timestamp,omitempty"` // version of the timestamp that shows it
	Withdrawn   bool              `json:"withdrawn,omitempty"` // the offline role withdrew one of its images
	PrunedAt    *time.Time        `json:"pruned_at,omitempty"` // its images are no longer kept
}

// HoldRequest is POST /api/v1/releases/{product}/{version}/hold.
type HoldRequest struct {
	Detail string `json:"detail"`
}

// PruneRequest is POST /api/v1/releases/{product}/{version}/prune.
type PruneRequest struct {
	Detail string `json:"detail"`            // why, for the audit log
	DryRun bool   `json:"dry_run,omitempty"` // check and change nothing
}

// RetentionPlan is GET /api/v1/retention: what collecting garbage would remove now, and why releases are kept.
type RetentionPlan struct {
	Releases  []RetentionRelease `json:"releases"`
	Blobs     []RetentionBlob    `json:"blobs"`     // that nothing refers to; the first 200
	Uploads   []RetentionBlob    `json:"uploads"`   // unfinished and forgotten; the first 200
	Removable int                `json:"removable"` // blobs without a lock
	Bytes     int64              `json:"bytes"`     // of them
	Grace     string             `json:"grace"`     // how long a blob is left alone, as in "24h0m0s"
	More      bool               `json:"more"`      // the artifact store holds more than was looked at
}

// RetentionRelease is one release in a plan. Without needs it may be pruned.
type RetentionRelease struct {
	Name     string          `json:"name"`
	Counter  uint64          `json:"counter"`
	PrunedAt *time.Time      `json:"pruned_at,omitempty"`
	Needs    []RetentionNeed `json:"needs"`
}

// RetentionNeed is one reason to keep a release.
type RetentionNeed struct {
	Why     string `json:"why"`
	Devices int    `json:"devices,omitempty"`
}

// RetentionBlob is a blob or an unfinished upload.
type RetentionBlob struct {
	SHA256      digest.SHA256 `json:"sha256"`
	Bytes       int64         `json:"bytes,omitempty"`
	Modified    time.Time     `json:"modified"`
	LockedUntil *time.Time    `json:"locked_until,omitempty"` // the store keeps it until then
}

// RetentionResult is POST /api/v1/retention: what was removed.
type RetentionResult struct {
	Pruned   []string `json:"pruned"` // releases
	Blobs    int      `json:"blobs"`
	Bytes    int64    `json:"bytes"`
	Uploads  int      `json:"uploads"`
	Retained int      `json:"retained"` // blobs that a lock of the store keeps
	More     bool     `json:"more"`     // there is more to do; ask again
}

// Upload is what HEAD and PUT of /api/v1/blobs/{sha256} say in the headers Upload-Offset and Upload-Length.
type Upload struct {
	Offset   int64 `json:"offset"`
	Length   int64 `json:"length"`
	Complete bool  `json:"complete"`
}

// Page wraps every list. Next is opaque and empty at the end.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Event is one audit event. Leaf is the exact bytes that were stored; the other fields are read from it.
type Event struct {
	Number  int64          `json:"number"`
	At      time.Time      `json:"at"`
	Type    string         `json:"type"`
	Actor   string         `json:"actor"`
	Subject string         `json:"subject"`
	Data    jsontext.Value `json:"data,omitempty"`
	Leaf    []byte         `json:"leaf"`
}

// Why is GET /api/v1/devices/{id}/why: the whole story of the last decision.
type Why struct {
	Device      Device               `json:"device"`
	Verdict     *attestation.Verdict `json:"verdict,omitempty"` // the last appraisal, affirmed or refused
	AppraisedAt *time.Time           `json:"appraised_at,omitempty"`
	Changes     *BootChanges         `json:"changes,omitempty"` // of a refused boot, when the device was ever affirmed
	Decision    Decision             `json:"decision"`          // what a poll would be offered right now
	Events      []Event              `json:"events"`            // the newest first, at most 20
	Segment     DeviceSegment        `json:"segment"`           // where the network should let it be, and how far that is
}

// BootChanges is what a refused boot measured otherwise than the device's last affirmed one, both by their event logs.
// Nothing was decided by it.
type BootChanges struct {
	Since   time.Time    `json:"since"`   // when the other boot was affirmed
	Changes []BootChange `json:"changes"` // by register, at most 64
}

// BootChange is one measurement in words: Before as it was, After as it is. One of them is empty where there is none.
type BootChange struct {
	PCR    int    `json:"pcr"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Decision is what a device may have now.
type Decision struct {
	Release  string          `json:"release,omitempty"` // offered, product/version
	Reasons  []reason.Reason `json:"reasons,omitempty"` // why nothing (or only recovery) is offered
	Detail   []string        `json:"detail,omitempty"`
	Remedies []string        `json:"remedies,omitempty"`
}
