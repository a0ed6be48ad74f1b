package api

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// ReportVersion is the version of the report document that this build writes.
const ReportVersion = 1

// SignedReport is what GET /api/v1/report returns and `cordonctl verify` reads. The signature is over the exact bytes
// of Report as they stand in the file; its certificate chains to the server CA of the trust bundle.
type SignedReport struct {
	Report    jsontext.Value  `json:"report"` // Report
	Signature ReportSignature `json:"signature"`
}

// ReportSignature is ECDSA P-256 with SHA-256, ASN.1 DER, over ReportContext followed by the report bytes.
type ReportSignature struct {
	Certificate []byte `json:"certificate"` // DER leaf with the report purpose, issued by the server CA
	Signature   []byte `json:"signature"`
}

// ReportContext separates report signatures from all other signatures.
const ReportContext = "cordon/report/v1\n"

// Report answers an auditor's questions for a period and product. Evidence ids E1..E6 and E11 follow the catalogue in
// conformance/docs/report.md.
type Report struct {
	Version     int               `json:"version"`
	Server      string            `json:"server"` // device URL
	TrustDomain string            `json:"trust_domain"`
	From        time.Time         `json:"from"`
	To          time.Time         `json:"to"`
	Product     string            `json:"product,omitempty"` // empty: all
	CreatedAt   time.Time         `json:"created_at"`
	Coverage    Coverage          `json:"coverage"`    // E11
	Appraisals  []Appraisal       `json:"appraisals"`  // E1
	Events      []Event           `json:"events"`      // E2 decisions, E3 enforcement, E6 approvals, publications: typed events with leaf bytes
	Updates     []UpdateRecord    `json:"updates"`     // E4
	Releases    []ReleaseRecord   `json:"releases"`    // E5
	Quarantines []Quarantine      `json:"quarantines"` // E3, E6
	Logs        map[string][]byte `json:"logs"`        // event logs by hex SHA-256
	Beacons     map[string][]byte `json:"beacons"`     // timestamp.json by hex SHA-256 for every beacon used
	Image       ImageMetadata     `json:"image"`       // proves policies, baselines and releases from the trust bundle's root
	Devices     []DeviceRecord    `json:"devices"`
	Baselines   []SignedBaseline  `json:"baselines,omitempty"` // platform baselines that baseline signers signed, the newest generation of each profile first
	Log         *ReportLog        `json:"log,omitempty"`       // E12; absent in reports of servers without a log
}

// What a report says about the log.
const (
	LogWitnessed   = "witnessed"   // the checkpoint has the quorum of witnesses that the offline policy asks for
	LogUnwitnessed = "unwitnessed" // the checkpoint has the log's signature, and less than the quorum or no witness
	LogBehind      = "behind"      // there is no checkpoint yet
	LogStopped     = "stopped"     // the server refuses to sign: rows, log and witnesses do not agree (event log.stopped)
)

// ReportLog proves that events of the report are leaves of the tile log: event number N is leaf N-1.
type ReportLog struct {
	State string `json:"state"` // LogWitnessed, ...; what the server says, the checkpoint's signatures are the proof
	// Checkpoint is a signed note (C2SP tlog-checkpoint) with the cosignatures of witnesses.
	Checkpoint []byte `json:"checkpoint,omitempty"`
	// Hashes prove all events of the report up to the size of the checkpoint at once: tlog.RootOf with the events'
	// leaves gives the root of the checkpoint.
	Hashes []digest.SHA256 `json:"hashes,omitempty"`
	// UncoveredFrom is the number of the report's first event that the checkpoint does not cover; 0 when it covers all.
	UncoveredFrom int64 `json:"uncovered_from,omitempty"`
}

// Coverage says what the report covers and what it does not.
type Coverage struct {
	InScope   int              `json:"in_scope"`
	Proven    int              `json:"proven"` // affirmed at least once in the period
	Stale     int              `json:"stale"`  // proven before, not in the period
	Never     int              `json:"never"`  // enrolled, never affirmed
	Excluded  []ExcludedDevice `json:"excluded,omitempty"`
	Truncated bool             `json:"truncated,omitempty"` // limits cut the lists; never silently
}

// ExcludedDevice is a device outside the coverage, and why.
type ExcludedDevice struct {
	Device string        `json:"device"`
	Reason reason.Reason `json:"reason"`
}

// Appraisal is one verdict with everything needed to reach it again.
type Appraisal struct {
	Number         int64             `json:"number"`
	At             time.Time         `json:"at"`
	Device         string            `json:"device"`
	Input          attestation.Input `json:"input"`         // without the log: see Report.Logs
	Verdict        jsontext.Value    `json:"verdict"`       // exact bytes of the attestation.Verdict
	Verifier       string            `json:"verifier"`      // build that decided
	PolicySHA256   digest.SHA256     `json:"policy_sha256"` // of the offline policy document
	BaselineSHA256 digest.SHA256     `json:"baseline_sha256,omitzero"`
	// Repeats is the id of the appraisal whose Evidence this one appraised again, because policy or baseline had changed.
	// Nothing new was shown by the device then.
	Repeats digest.SHA256 `json:"repeats,omitzero"`
	// References are the digests of the Reference Values documents of the expected releases.
	References map[string]digest.SHA256 `json:"reference_values,omitempty"`
}

// UpdateRecord is one device's step from a release to another.
type UpdateRecord struct {
	Device    string        `json:"device"`
	From      string        `json:"from,omitempty"`
	To        string        `json:"to"`
	OfferedAt time.Time     `json:"offered_at"`
	ProvenAt  *time.Time    `json:"proven_at,omitempty"`
	Result    string        `json:"result"` // "proven", "open", "overdue", "superseded"
	Evidence  digest.SHA256 `json:"evidence,omitzero"`
}

// ReleaseRecord is a release with the proof of who built it.
type ReleaseRecord struct {
	Release     artifacts.Release `json:"release"`
	Bundles     [][]byte          `json:"bundles"`
	Reference   map[string][]byte `json:"reference"` // component -> Reference Values document
	CreatedBy   string            `json:"created_by"`
	Approvals   []Approval        `json:"approvals,omitempty"`
	PublishedAt time.Time         `json:"published_at"`
}

// ImageMetadata is the signed metadata of the Image repository at CreatedAt, plus the offline files.
type ImageMetadata struct {
	Roots     [][]byte          `json:"roots"` // 1..N
	Targets   []byte            `json:"targets"`
	Files     map[string][]byte `json:"files"`    // policy/..., baseline/...
	Products  map[string][]byte `json:"products"` // product role metadata
	Snapshot  []byte            `json:"snapshot"`
	Timestamp []byte            `json:"timestamp"`
	Past      []PastTargets     `json:"past,omitempty"` // offline targets that were current before, oldest first
}

// PastTargets is an offline targets document that was replaced, with those of its policies and baselines that
// ImageMetadata.Files does not have with the same bytes. Appraisals and releases of that time were decided by it.
type PastTargets struct {
	Targets []byte            `json:"targets"`
	Files   map[string][]byte `json:"files,omitempty"`
}

// SignedBaseline is a platform baseline with the proof of who signed it. Product, Profile and Generation are what the
// bundles say; the signed statement counts.
type SignedBaseline struct {
	Product    string   `json:"product"`
	Profile    string   `json:"profile"`
	Generation uint64   `json:"generation"`
	Bundles    [][]byte `json:"bundles"`
}

// DeviceRecord is how a device was admitted (E8 in short form).
type DeviceRecord struct {
	Device        Device `json:"device"`
	EKCertificate []byte `json:"ek_certificate"`
	AKPublic      []byte `json:"ak_public"`
	AdmittedBy    string `json:"admitted_by"` // "inventory", "token", "approval:<person>"

	EKPublic    []byte       `json:"ek_public,omitempty"`      // DER SPKI of the EK, of a device without an EK certificate
	Successions []Succession `json:"ak_successions,omitempty"` // the keys before AKPublic, oldest first
}

// Succession is one end of an attestation key: a rotation, in which it certified the next one of its TPM, or the word of
// people who had it forgotten. Of the key that came after a forgotten one, nothing is proven here.
type Succession struct {
	Before           []byte        `json:"before"`                      // TPMT_PUBLIC
	After            []byte        `json:"after,omitempty"`             // of a rotation, as are those below
	Certify          []byte        `json:"certify,omitempty"`           // TPMS_ATTEST
	CertifySignature []byte        `json:"certify_signature,omitempty"` // TPMT_SIGNATURE
	Transcript       digest.SHA256 `json:"transcript,omitzero"`         // of the enrollment; the extraData of Certify
	Forgotten        []string      `json:"forgotten,omitempty"`         // the people who had Before forgotten
}
