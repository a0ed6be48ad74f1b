// Package wire holds the types and paths of the device API (conformance/docs/protocol.md).
//
// The device API lives ten years: within v1 only optional fields are added, both sides ignore unknown fields and refuse
// duplicate ones. Evidence alone is strict per its own version. Bytes are base64 (RFC 4648, padded) in JSON.
package wire

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Paths of the device API. Artifact bytes are GET PathArtifacts + "/" + hex SHA-256, with Range.
const (
	PathEnroll    = "/device/v1/enroll"
	PathActivate  = "/device/v1/enroll/activate"
	PathPoll      = "/device/v1/poll"
	PathArtifacts = "/device/v1/artifacts"
	PathImage     = "/repo/image/"    // N.root.json, N.targets.json, N.<product>.json, N.snapshot.json, timestamp.json, targets/...
	PathDirector  = "/repo/director/" // N.root.json only
)

// Headers of a poll answer, authenticated by TLS alone.
const (
	HeaderNextPoll = "Cordon-Next-Poll" // seconds until the next poll, jitter included
	HeaderTime     = "Cordon-Time"      // RFC 3339, UTC
)

// HeaderRedirect in a request for an artifact says that the client can follow a redirect (307) to one of the downloads of
// its trust bundle. It then asks with a Range, even for the whole, and sends the same Range there. Any value counts.
const HeaderRedirect = "Cordon-Redirect"

// Limits in bytes; both sides refuse more.
const (
	MaxEnrollBytes   = 512 << 10 // a round of enrollment, event log included
	MaxPollBytes     = 512 << 10 // a poll request, event log included
	MaxAnswerBytes   = 2 << 20   // a poll answer
	MaxClaimsBytes   = 64 << 10
	MaxRootBytes     = 512_000
	MaxMetadataBytes = 5_000_000
	MaxRoots         = 64 // newer roots in one poll answer; the next poll brings more
)

// EnrollRequest is round 1: who the TPM is.
type EnrollRequest struct {
	EKCertificate []byte   `json:"ek_certificate"`        // DER; empty in a TPM that holds none
	EKPublic      []byte   `json:"ek_public,omitempty"`   // instead of a certificate: DER SPKI of the RSA-2048 endorsement key
	EKChain       [][]byte `json:"ek_chain,omitempty"`    // DER intermediates, at most 4
	AKPublic      []byte   `json:"ak_public"`             // TPMT_PUBLIC
	TLSPublic     []byte   `json:"tls_public"`            // TPMT_PUBLIC of the key that this connection authenticates with
	HardwareID    string   `json:"hardware_id,omitempty"` // a claim; the inventory decides
	Token         string   `json:"token,omitempty"`       // one-time enrollment token
}

// EnrollChallenge answers round 1. The device id is derived from the EK; the client checks it.
type EnrollChallenge struct {
	Device          string `json:"device"`
	Challenge       []byte `json:"challenge"`        // MACed, opaque, at most 5 minutes old, bound to this request
	Credential      []byte `json:"credential"`       // TPM2B_ID_OBJECT for that EK and AK name
	EncryptedSecret []byte `json:"encrypted_secret"` // TPM2B_ENCRYPTED_SECRET
}

// ActivateRequest is round 2. The transcript is attestation.Transcript with purpose "enroll", the challenge bytes as
// nonce and SHA-256 of Claims; it is the extraData of Certify and of the quote, and the message of HMAC.
type ActivateRequest struct {
	Enroll           EnrollRequest `json:"enroll"` // round 1 again: the server keeps nothing in between
	Challenge        []byte        `json:"challenge"`
	HMAC             []byte        `json:"hmac"`              // HMAC-SHA-256(secret, transcript)
	Certify          []byte        `json:"certify"`           // TPMS_ATTEST of TPM2_Certify(TLS key) by the AK
	CertifySignature []byte        `json:"certify_signature"` // TPMT_SIGNATURE

	// When the attestation key is rotated: TPMS_ATTEST of TPM2_Certify(the AK of this request) by the AK before it, over
	// the same transcript.
	AKCertify          []byte `json:"ak_certify,omitempty"`
	AKCertifySignature []byte `json:"ak_certify_signature,omitempty"` // TPMT_SIGNATURE

	Claims   []byte         `json:"claims"`   // JSON of Claims
	Evidence jsontext.Value `json:"evidence"` // attestation.Evidence; with its log
}

// ActivateAnswer says what the device is now.
type ActivateAnswer struct {
	Device      string    `json:"device"`
	Lifecycle   string    `json:"lifecycle"` // "pending", "active"
	CounterBase uint64    `json:"counter_base"`
	HardwareID  string    `json:"hardware_id,omitempty"` // from the inventory; a client without one of its own uses it
	Refusal     []Refusal `json:"refusal,omitempty"`     // why it is pending
}

// A conversation, as this client has it (all on one TLS connection, since a quote is bound to its exporter):
//
//   - Enrollment: both rounds on one connection. In ActivateRequest, Claims.Challenge stays empty: the nonce of the
//     transcript is ActivateRequest.Challenge. Without an event log the log counts as empty bytes. A lost answer is
//     recovered by enrolling again from round 1. A device enrolls again by itself when a poll is answered with 401 or
//     404 and reason device_unknown, ak_unknown or unauthenticated, when the counter is missing from its TPM, and for
//     the action "reenroll".
//   - Counter: the client makes a missing counter before it enrolls, and reports an event counter_missing if there was
//     one before. At a re-activation CounterBase must keep Claims.Counter.Index - CounterBase at the release counter
//     that the server last saw of the device: a new counter starts above the old one, and with the old base the device
//     would refuse its own release as a downgrade. While the counter is still there, a client refuses a CounterBase,
//     here or in director metadata, above the one that it agreed on. It remembers the first one in its TPM. So a server
//     that does not know the device, after a restore for example, keeps Claims.Counter.Value as well.
//   - Poll: Evidence is over Claims.Challenge when that is set, else over the 32 bytes of the beacon Claims.Timestamp,
//     and absent when the device has neither, or when that beacon was affirmed already in this boot and no trial runs.
//     At most 4 polls follow each other: an answer with EvidenceWanted and a Challenge is answered at once, with the log
//     inside Evidence for WantLog. A challenge of an answer that wanted nothing is kept for the next poll. After a reset
//     of the TPM the first poll is over the beacon; a server that wants a challenge quote then says so.
//   - A server that keeps the answer of the last poll relies on Claims.Poll: only a resend has the same bytes.
//   - Lost answers: the next conversation begins with the same body, byte for byte, on a new connection. Whatever the
//     answer is, a new poll follows unless it was a 200 or 204 that wanted nothing.
//   - Metadata: Roots, DirectorRoots, Timestamp and Director of one answer are verified in this order. Snapshot, targets
//     and product roles are then fetched by GET from PathImage under the names of tufrepo.FileName, and non-firmware
//     targets (policy, trusted root, bundles) under tufrepo.TargetFileName, on the same connection.
//   - Events are reported until a poll that carried them was answered with 200 or 204.
//   - Boot is set from the first poll after a trial boot until the device has committed or the next update begins.
//     Components name the image that runs. The device commits when a poll over a challenge, made in the trial's boot
//     and with Boot.Result "ok", is answered with Verdict "affirmed". So a server answers a poll with Boot.Result "ok"
//     whose quote is over the beacon with a Challenge and EvidenceWanted.
//   - A refusal of a GET or POST is a problem document with a 4xx status; 429 and 5xx mean "try later" (Retry-After).

// PollRequest is one poll. Claims stay bytes because the quote commits to exactly them.
type PollRequest struct {
	Claims   []byte         `json:"claims"`
	Evidence jsontext.Value `json:"evidence,omitempty"`
}

// ClaimsVersion is the version that this build writes.
const ClaimsVersion = 1

// Claims say what the device has. They are the device's word, bound to the quote but not proven by it.
type Claims struct {
	Version         int           `json:"version"`
	Challenge       []byte        `json:"challenge,omitempty"`  // the challenge the quote answers; empty: the quote is over the beacon Timestamp
	Timestamp       digest.SHA256 `json:"timestamp,omitzero"`   // SHA-256 of the newest verified image timestamp.json: the beacon
	ImageRoot       int64         `json:"image_root,omitempty"` // newest verified root versions
	DirectorRoot    int64         `json:"director_root,omitempty"`
	DirectorVersion int64         `json:"director_version,omitempty"` // newest verified director timestamp version
	LogDigest       digest.SHA256 `json:"log_digest,omitzero"`        // of the event log of this boot
	Components      []Installed   `json:"components,omitempty"`       // at most 64
	Counter         *Counter      `json:"counter,omitempty"`          // nil: the TPM index is missing
	Boot            *BootReport   `json:"boot,omitempty"`
	Events          []Event       `json:"events,omitempty"` // at most 64, oldest first
	Agent           string        `json:"agent,omitempty"`  // name/version of the client
	Poll            []byte        `json:"poll,omitempty"`   // 8 random bytes: two polls never have the same bytes unless one is the other, sent again
}

// Installed is a component that the device has, with the release that brought it.
type Installed struct {
	Component string        `json:"component"`
	SHA256    digest.SHA256 `json:"sha256"`
	Length    int64         `json:"length"`
	Product   string        `json:"product"`
	Version   string        `json:"version"`
}

// Counter is the device's own release counter: the TPM's NV counter minus the base fixed at enrollment.
type Counter struct {
	Index uint64 `json:"index"` // raw NV counter value
	Value uint64 `json:"value"` // Index - base
}

// BootReport tells what the last boot attempt came to.
type BootReport struct {
	Result  string `json:"result"`            // "ok", "fallback", "refused" (no boot: an installer did not take the image)
	Version string `json:"version,omitempty"` // the release that was tried, product/version
	Detail  string `json:"detail,omitempty"`  // at most 1024 bytes
}

// Event is something that the client refused or that happened to it since the last accepted poll.
type Event struct {
	Reason reason.Reason `json:"reason,omitempty"`
	Detail string        `json:"detail"` // at most 1024 bytes
	Time   int64         `json:"time"`   // device time, Unix seconds
}

// EvidenceWanted values of a poll answer.
const (
	WantQuote = "quote" // quote over the challenge of this answer
	WantLog   = "log"   // the same, and send the event log with it
)

// PollAnswer is the body of a 200. 204 means: your timestamp is the current one and nothing else applies.
type PollAnswer struct {
	Roots          [][]byte  `json:"roots,omitempty"`          // newer Image roots, in order
	DirectorRoots  [][]byte  `json:"director_roots,omitempty"` // newer Director roots, in order
	Timestamp      []byte    `json:"timestamp,omitempty"`      // Image timestamp.json, if it is not the device's
	Director       *Director `json:"director,omitempty"`
	Challenge      []byte    `json:"challenge,omitempty"`
	EvidenceWanted string    `json:"evidence_wanted,omitempty"`
	Verdict        string    `json:"verdict,omitempty"`     // "affirmed" or "refused", when the poll carried Evidence that was judged
	Release        string    `json:"release,omitempty"`     // with "affirmed": product/version that the Evidence matched. A client commits a trial only if it is that release, or absent
	LeaseUntil     int64     `json:"lease_until,omitempty"` // Unix seconds; for people, nothing is decided on it
	Refusal        []Refusal `json:"refusal,omitempty"`
	Certificate    [][]byte  `json:"certificate,omitempty"` // DER chain of a new SPIFFE certificate for the TLS key
	Actions        []Action  `json:"actions,omitempty"`
}

// Director is the device's director metadata.
type Director struct {
	Timestamp []byte `json:"timestamp"`
	Snapshot  []byte `json:"snapshot"`
	Targets   []byte `json:"targets"`
}

// Refusal is what a device is told: code and remedy, never what was expected or seen.
type Refusal struct {
	Reason reason.Reason `json:"reason"`
	Remedy string        `json:"remedy"`
}

// Action is a request of the server to the device. Unknown actions are ignored.
type Action struct {
	Kind string `json:"kind"` // "reenroll"
}

// DirectorCustom is the `custom` object of a target in director metadata: artifacts.Custom and the installer's needs
// lie in the Image repository; here stands for whom the target is (Uptane: ECU identifier) and how long the offer lives.
type DirectorCustom struct {
	Device   string `json:"device"`
	Deadline int64  `json:"deadline,omitempty"` // Unix seconds; after it the update is overdue
}

// Problem is an RFC 9457 problem document.
type Problem struct {
	Type      string        `json:"type"` // URL of the page of reasons, with the reason as its anchor
	Title     string        `json:"title"`
	Status    int           `json:"status"`
	Detail    string        `json:"detail,omitempty"`
	Reason    reason.Reason `json:"reason"`
	RequestID string        `json:"request_id"`
	Next      string        `json:"remedy,omitempty"`
	AKName    []byte        `json:"ak_name,omitempty"` // with ak_not_bound, to a TPM that has proven itself: the Name of its registered key
}
