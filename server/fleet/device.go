// Package fleet decides what a device is: its lifecycle, its standing, its segment, its quarantine.
//
// It is pure: no clock, no I/O. appraise, the sweeper and the admin API load a Device, call one function here and
// commit what comes back. A refusal is a value; only authentic, fresh Evidence that proves a wrong state quarantines.
//
// Trusted: an attacker who controls this code can keep a compromised device in production. He still cannot make any
// device install what no publisher signed.
package fleet

import (
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Lifecycle of a device.
type Lifecycle string

// The lifecycles.
const (
	Pending Lifecycle = "pending" // a genuine TPM that nobody has claimed: gets nothing
	Active  Lifecycle = "active"
	Retired Lifecycle = "retired"
)

// Standing says what the device's last proof is worth.
type Standing string

// The standings.
const (
	Unproven Standing = "unproven" // never affirmed, or what was affirmed counts no more
	Affirmed Standing = "affirmed" // within its lease
	Stale    Standing = "stale"    // the lease has ended
	Refused  Standing = "refused"  // the last authentic Evidence proved a wrong state
)

// Segment is where the network lets the device be. It is derived, never stored as a decision of its own.
type Segment string

// The segments.
const (
	Production Segment = "production"
	Restricted Segment = "restricted"
)

// Device is everything the server knows about a device. Zero times mean "never". Version is the row version that a
// change expects.
type Device struct {
	ID         string
	Version    int64
	Product    string
	HardwareID string
	Profile    string
	Lifecycle  Lifecycle
	Standing   Standing
	Tier       int
	AdmittedBy string // "inventory", "token", "approval:<person>", "" while pending; a pending device without an EK certificate may have "token"

	// Identity, fixed at enrollment.
	EKCertificate     []byte
	EKSPKI            digest.SHA256
	EKPublic          []byte   // DER SubjectPublicKeyInfo, of a device without a certificate
	EKIssuers         []string // identity.EK.Issuers of the chain at enrollment, for the deny list
	Manufacturer      string
	AKPublic          []byte // TPMT_PUBLIC; empty once people had it forgotten, see ForgetKey
	AKName            []byte
	AKQualifiedSigner []byte
	TLSPublic         []byte        // TPMT_PUBLIC
	TLSKey            digest.SHA256 // SHA-256 of the DER SPKI: how the device API knows the device
	CounterBase       uint64
	EnrolledAt        time.Time
	ForgetKey         []KeyVoice // people who want AKPublic forgotten

	// Continuity and proof.
	Accepted      *attestation.Accepted // last accepted quote; nil right after enrollment or re-activation
	LastEvidence  digest.SHA256         // id of the last stored appraisal
	LogDigest     digest.SHA256         // log of the last affirmed quote
	Proven        string                // release that the last affirmed Evidence matched
	ProvenCounter uint64                // its counter
	HighCounter   uint64                // the highest counter ever proven
	ProvenAt      time.Time
	ChallengedAt  time.Time // last affirmed quote over a challenge
	LeaseUntil    time.Time
	StaleSince    time.Time
	Grounds       digest.SHA256 // policy and baseline behind the last decision (repository.Product.Grounds); zero: not known

	// Offer: the expected set is {Proven} or {Proven, Offered} while an offer is open. Offered is empty when none is.
	// OfferedCounter is the highest counter offered since the last proof of an offered release, and outlives an offer
	// that was held, superseded or overdue: the device may have installed it already and boot it at any time.
	Offered        string
	OfferedCounter uint64
	OfferedAt      time.Time
	Deadline       time.Time
	Counter        *uint64 // as the device last reported; nil: missing

	// The last accepted poll, to recognise the same bytes sent again.
	LastPoll   digest.SHA256
	LastAnswer []byte
	SeenAt     time.Time

	Segment Segment // as last ordered; SegmentOf says what it should be
	Epoch   int64   // number of the last enforcement order
}

// Quarantine is one row of the quarantine table: sticky until two people and a fresh challenge quote end it.
type Quarantine struct {
	ID          string
	Version     int64
	Device      string
	Since       time.Time
	Causes      []reason.Reason
	Detail      string
	By          string // "verifier" or a person
	Evidence    digest.SHA256
	RecoveredAt time.Time // a fresh challenge quote passed after Since
	EndedAt     time.Time
}

// Approval is one person's yes to a subject ("quarantine:<id>", "release:<name>").
type Approval struct {
	Subject string
	Person  string
	At      time.Time
}
