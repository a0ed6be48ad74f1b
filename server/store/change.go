// Package store keeps the server's state in SQL: SQLite embedded by default, PostgreSQL for more than one replica.
//
// State changes are values. A caller reads, decides, and hands a Change to Commit; it returns when the change is
// durable, together with its audit events and enforcement orders, or not applied at all. The committer batches many
// Changes into one transaction, so no poll waits alone for an fsync.
//
// Trusted: an attacker who controls the database can withhold updates, forge verdicts and unwitnessed history. He cannot
// make a device install what no publisher signed.
package store

import (
	"errors"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
)

// Errors that callers test for.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("state changed in between")   // an Expect or a unique rule did not hold: read again, decide again
	ErrUnavailable = errors.New("database cannot be reached") // nothing was decided
)

// Change is one state change: all of it becomes durable, or none.
type Change struct {
	Expect []Expect
	Writes []Write
	Events []Event
	Orders []Order
}

// Expect names a row version that must still hold; Version 0 means that the row must not exist.
type Expect struct {
	Table   Table
	Key     string
	Version int64
}

// Table names a versioned table.
type Table string

// The versioned tables. Their key is a text column; a Put of their row raises the version by one.
const (
	Devices     Table = "devices"     // key: device id
	Quarantines Table = "quarantines" // key: quarantine id
	Releases    Table = "releases"    // key: product/version
	Repos       Table = "repos"       // key: RepoImage
	Directors   Table = "directors"   // key: device id
	People      Table = "people"      // key: name
	Settings    Table = "settings"    // key: setting name
	Locks       Table = "locks"       // key: lock name; the version is the fence that Lock returned, and nothing Puts it
	Checkpoints Table = "checkpoints" // key: log and kind, see package tilelog
	Denials     Table = "ek_denials"  // key: denial id
)

// Write is one of the Put and Add types below; the set is closed. Put writes the whole row (insert or replace), Add
// inserts a row that must not exist yet (ErrConflict) unless its comment says otherwise.
type Write interface{ write() }

// PutDevice writes a device; Device.Version is ignored, Expect guards it. A second device with the same EKSPKI, AKName or
// TLSKey is ErrConflict (V-17).
type PutDevice struct{ Device fleet.Device }

// PutQuarantine writes a quarantine. A second open quarantine of the same device is ErrConflict.
type PutQuarantine struct{ Quarantine fleet.Quarantine }

// PutDenial writes a row of the deny list of endorsement keys.
type PutDenial struct{ Denial fleet.Denial }

func (PutDenial) write() {}

// AddApproval adds a person's approval of a subject; the same person twice is ErrConflict.
type AddApproval struct{ Approval fleet.Approval }

// PutRelease writes a release.
type PutRelease struct{ Release Release }

// PutRepo writes the state of a repository.
type PutRepo struct{ Repo Repo }

// AddMetadata adds an immutable metadata file; the same bytes again are no error, other bytes ErrConflict.
type AddMetadata struct{ Metadata Metadata }

// AddBeacon records that a timestamp was issued.
type AddBeacon struct{ Beacon Beacon }

// PutDirector writes a device's director documents.
type PutDirector struct{ Director Director }

// AddAppraisal stores an appraisal for good.
type AddAppraisal struct{ Appraisal Appraisal }

// AddLog stores an event log; one that is there already is no error.
type AddLog struct {
	Digest digest.SHA256
	Bytes  []byte
}

// AddUpdate opens an update record; CloseUpdate ends the open one of the device, if there is any.
type AddUpdate struct{ Update Update }

// CloseUpdate ends the open update record of a device.
type CloseUpdate struct {
	Device   string
	Result   string // "proven", "overdue", "superseded"
	At       time.Time
	Evidence digest.SHA256
}

// ConsumeChallenge makes a challenge single-use; a second time is ErrConflict. Rows past Expires are swept.
type ConsumeChallenge struct {
	Digest  digest.SHA256
	Expires time.Time
}

// PutInventory writes an inventory entry with its addresses; RemoveInventory takes one back.
type PutInventory struct{ Entry Inventory }

// PutAddresses replaces all that one source says about where a device is in the network.
type PutAddresses struct {
	Device    string
	Source    string // SourceInventory or SourcePoll
	Addresses []string
	MACs      []string
	At        time.Time
}

// RemoveInventory removes an inventory entry.
type RemoveInventory struct{ Device string }

// AddEnrollToken adds a one-time enrollment token; UseEnrollToken consumes it: used, expired or unknown is ErrConflict.
type AddEnrollToken struct{ Token EnrollToken }

// UseEnrollToken consumes a one-time enrollment token.
type UseEnrollToken struct {
	Hash   digest.SHA256
	Device string
	At     time.Time
}

// PutPerson writes a person.
type PutPerson struct{ Person Person }

// AddToken adds an access token; RevokeTokens ends all tokens of a person.
type AddToken struct{ Token Token }

// RevokeTokens ends every token of a person that is valid at At.
type RevokeTokens struct {
	Person string
	At     time.Time
}

// PutSetting writes a setting.
type PutSetting struct {
	Name  string
	Value []byte
}

// SettleOrder records what became of an enforcement order. An order that is verified or superseded by now is ErrConflict:
// somebody else has settled it. Zero times and an empty Observed leave what is there.
type SettleOrder struct {
	ID         int64
	Acked      time.Time
	Verified   time.Time
	Detail     string
	Waiting    Waiting
	Observed   fleet.Segment
	ObservedAt time.Time
}

// ReopenOrder makes a verified order pending again, because the enforcement point shows something else by now. Verified is
// the time that the row must still have; otherwise, or when the order was superseded, it is ErrConflict.
type ReopenOrder struct {
	ID         int64
	Verified   time.Time
	Detail     string
	Waiting    Waiting
	Observed   fleet.Segment
	ObservedAt time.Time
}

// PutCheckpoint writes a checkpoint of the audit log.
type PutCheckpoint struct{ Checkpoint Checkpoint }

func (PutCheckpoint) write() {}

// TouchBlob notes that somebody relies on a blob from now on; one that is being removed is ErrConflict.
type TouchBlob struct {
	SHA256 digest.SHA256
	At     time.Time
}

// KeepBlob is part of the Change that refers to a blob which was touched at Since, by whoever does so, or later: a blob
// that was condemned in between, whatever became of it, is ErrConflict.
type KeepBlob struct {
	SHA256    digest.SHA256
	Since, At time.Time
}

// CondemnBlob begins the removal of a blob; one that was touched after Before is ErrConflict. Again is no error.
type CondemnBlob struct {
	SHA256     digest.SHA256
	Before, At time.Time
}

// ForgetBlob ends the removal of a condemned blob.
type ForgetBlob struct{ SHA256 digest.SHA256 }

func (TouchBlob) write()        {}
func (KeepBlob) write()         {}
func (CondemnBlob) write()      {}
func (ForgetBlob) write()       {}
func (PutDevice) write()        {}
func (PutQuarantine) write()    {}
func (AddApproval) write()      {}
func (PutRelease) write()       {}
func (PutRepo) write()          {}
func (AddMetadata) write()      {}
func (AddBeacon) write()        {}
func (PutDirector) write()      {}
func (AddAppraisal) write()     {}
func (AddLog) write()           {}
func (AddUpdate) write()        {}
func (CloseUpdate) write()      {}
func (ConsumeChallenge) write() {}
func (PutInventory) write()     {}
func (RemoveInventory) write()  {}
func (AddEnrollToken) write()   {}
func (UseEnrollToken) write()   {}
func (PutPerson) write()        {}
func (AddToken) write()         {}
func (RevokeTokens) write()     {}
func (PutSetting) write()       {}
func (SettleOrder) write()      {}
func (ReopenOrder) write()      {}
func (PutAddresses) write()     {}

// Event is an audit event before it has its number. Data is marshalled deterministically.
type Event struct {
	At      time.Time
	Type    string // "device.enrolled", "verdict.refused", ...: the closed list is in server/audit
	Actor   string // person, device id, "bootstrap", "door", "enroll", "server", "sweeper"
	Subject string // device id, release, person, ...
	Data    any    // a struct or map that marshals to a JSON object; nil for none
}

// StoredEvent is an audit event as stored: Leaf holds the final bytes, Number is gap-free from 1.
type StoredEvent struct {
	Number  int64
	At      time.Time
	Type    string
	Actor   string
	Subject string
	Leaf    []byte // {"v":1,"n":..,"at":"RFC 3339, microseconds","type":..,"actor":..,"subject":..,"data":{..}}
}

// Checkpoint is a signed state of the audit log.
type Checkpoint struct {
	Name    string
	Version int64 // row version
	Size    int64 // leaves: the events 1 to Size
	Root    digest.SHA256
	Note    []byte // the signed note
	At      time.Time
}

// Order is an enforcement order: put the device into the segment at every enforcement point. Epoch grows per device; an
// older order never undoes a newer one.
type Order struct {
	ID       int64 // assigned by the database
	Device   string
	Segment  fleet.Segment
	Epoch    int64
	Point    string // enforcement point: "door" or the name of a network point
	At       time.Time
	Acked    time.Time
	Verified time.Time
	Detail   string

	Tightens   bool          // it takes a device out of production, or repeats one that did and is not verified; the breaker counts these
	Waiting    Waiting       // why it is not verified yet, as far as somebody has found out
	Observed   fleet.Segment // what the point last showed, "" for never
	ObservedAt time.Time
}

// Waiting says why an order is not verified. It is a closed set: a metric label and a word in the API.
type Waiting string

// Why orders wait.
const (
	WaitingNothing     Waiting = ""               // not tried yet, or verified
	WaitingUnreachable Waiting = "unreachable"    // the point does not answer
	WaitingRefused     Waiting = "refused"        // the point said no
	WaitingAddress     Waiting = "no_address"     // nobody knows where the device is
	WaitingShared      Waiting = "shared_address" // an address belongs to several devices
	WaitingDiffers     Waiting = "differs"        // the point took it, the network does not show it
	WaitingNewer       Waiting = "newer_in_force" // the point holds a newer order than the database
	WaitingBreaker     Waiting = "suspended"      // the mass-quarantine breaker holds it back
)

// Release is a staged or published release.
type Release struct {
	Name        string // product/version
	Version     int64  // row version
	Product     string
	Counter     uint64
	Recovery    bool
	State       string // api.ReleaseStaged or api.ReleasePublished
	Hold        bool
	HoldDetail  string
	Statement   []byte
	Bundles     [][]byte
	Publishers  []string
	Reference   map[string]digest.SHA256 // component -> blob
	SBOMs       map[string]digest.SHA256
	CreatedBy   string
	CreatedAt   time.Time
	PublishedAt time.Time
	Timestamp   int64     // version of the timestamp that first showed it
	PrunedAt    time.Time // its images are no longer kept, and it is offered to nobody
}

// Blob is what retention knows about a blob beside the artifact store.
type Blob struct {
	SHA256      digest.SHA256
	TouchedAt   time.Time // when somebody last relied on it
	CondemnedAt time.Time // being removed since; zero for not
}

// RepoImage is the key of the Image repository in Repos.
const RepoImage = "image"

// Repo is the state of a repository: which versions are current and, while Pending, which files still have to reach
// the artifact store. The rows are the truth; the store's copy can be rebuilt from them.
type Repo struct {
	Name         string
	Version      int64
	ImageRoot    int64
	DirectorRoot int64
	Targets      int64
	Products     map[string]int64
	Snapshot     int64
	Timestamp    int64
	TimestampDoc []byte
	IssuedAt     time.Time
	Pending      []string // metadata names to copy, in the safe order; the timestamp is last
}

// Metadata is one immutable metadata file or offline target, by its name in the repository.
type Metadata struct {
	Name  string // "image/3.snapshot.json", "director/1.root.json", "image/targets/policy/<sha256>.p.json"
	Bytes []byte
}

// Beacon is an issued timestamp: a quote over its digest is fresh for as long as the window after IssuedAt.
type Beacon struct {
	Digest   digest.SHA256
	Version  int64
	IssuedAt time.Time
	Doc      []byte
}

// Director is what the director last signed for a device.
type Director struct {
	Device    string
	Version   int64         // row version
	Number    int64         // version of all three roles
	Content   digest.SHA256 // of what was signed over, without versions and times: unchanged means nothing to sign
	Expires   time.Time
	Timestamp []byte
	Snapshot  []byte
	Targets   []byte
}

// Appraisal is one verdict with all that led to it, for good.
type Appraisal struct {
	ID       digest.SHA256 // SHA-256 of Device, time and Input: unique
	Number   int64         // assigned by the database, rising
	Device   string
	Product  string
	At       time.Time
	Outcome  string
	Release  string
	Input    []byte // attestation.Input as JSON, without the log
	Verdict  []byte // exact verdict bytes
	Verifier string
	Policy   digest.SHA256
	Baseline digest.SHA256

	Repeats    digest.SHA256            // the appraisal whose Evidence this one appraised again; zero for a new quote
	References map[string]digest.SHA256 // expected release -> its Reference Values document
}

// Update is one device's step to a release.
type Update struct {
	Device    string
	Product   string
	From      string
	To        string
	OfferedAt time.Time
	EndedAt   time.Time
	Result    string // "open", "proven", "overdue", "superseded"
	Evidence  digest.SHA256
}

// Inventory claims a TPM for a product.
type Inventory struct {
	Device     string
	Product    string
	HardwareID string
	Profile    string
	By         string
	At         time.Time
	Addresses  []string // IP addresses, sorted
	MACs       []string // link addresses, sorted
}

// Who says where a device is in the network.
const (
	SourceInventory = "inventory" // an operator
	SourcePoll      = "poll"      // the peer address of its last authenticated poll
)

// Kinds of addresses.
const (
	KindIP  = "ip"
	KindMAC = "mac"
)

// Address is one place of a device in the network.
type Address struct {
	Device  string
	Source  string
	Kind    string
	Address string
	At      time.Time
}

// EnrollToken claims whichever genuine TPM presents it.
type EnrollToken struct {
	Hash       digest.SHA256
	Product    string
	HardwareID string
	Profile    string
	By         string
	Expires    time.Time
}

// Person is a named account.
type Person struct {
	Name     string
	Version  int64
	Roles    []string
	Disabled bool
	At       time.Time
}

// Token is an access token of a person; only its SHA-256 is kept.
type Token struct {
	Hash    digest.SHA256
	Person  string
	At      time.Time
	Expires time.Time
	Revoked time.Time
}
