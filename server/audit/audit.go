// Package audit names the events that cordon keeps for good, and reads their stored form.
//
// Whatever an auditor could ask about is a typed event, written in the same transaction as the change that it tells
// about. The store assigns its number and its final leaf bytes; nothing rewrites a leaf.
package audit

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The closed list of event types. A type is never renamed and never reused.
const (
	ServerStarted       = "server.started"
	ServerInitialised   = "server.initialised"
	CeremonyApplied     = "ceremony.applied"
	TimestampIssued     = "timestamp.issued"
	PersonAdded         = "person.added"
	PersonDisabled      = "person.disabled"
	TokenIssued         = "token.issued"
	InventorySet        = "inventory.set"
	InventoryRemoved    = "inventory.removed"
	EnrollTokenIssued   = "enroll_token.issued"
	DeviceEnrolled      = "device.enrolled"
	DeviceReactivated   = "device.reactivated"
	DeviceAKRotated     = "device.ak_rotated"      // a new attestation key, certified by the one before
	DeviceAKForgetAsked = "device.ak_forget_asked" // a person wants the attestation key forgotten
	DeviceAKForgotten   = "device.ak_forgotten"    // enough people did: the device has to enroll again
	DeviceAKRegistered  = "device.ak_registered"   // an attestation key after one that was forgotten, by credential activation
	DeviceVouched       = "device.vouched"         // a device without an EK certificate has shown a token; a person has to approve it
	EndorsementDenied   = "endorsement.denied"
	EndorsementApproved = "endorsement.lift_approved"
	EndorsementLifted   = "endorsement.lifted"
	DeviceClaimed       = "device.claimed"
	DeviceRetired       = "device.retired"
	DeviceRefused       = "device.refused" // an enrollment that was refused
	VerdictAffirmed     = "verdict.affirmed"
	VerdictRefused      = "verdict.refused"
	AppraisalRepeated   = "appraisal.repeated" // stored Evidence, appraised again because policy or baseline changed
	ClaimsDisputed      = "claims.disputed"    // the device says that it runs something else than its quote proves
	ReleaseOffered      = "release.offered"
	UpdateProven        = "update.proven"
	UpdateOverdue       = "update.overdue"
	DeviceStale         = "device.stale"
	SegmentOrdered      = "segment.ordered"
	SegmentVerified     = "segment.verified"
	SegmentUnverified   = "segment.unverified"      // an enforcement point could not be brought to follow; it is tried again
	SegmentDrifted      = "segment.drifted"         // an enforcement point showed another state than the one verified
	BreakerTripped      = "segment.breaker_tripped" // too many devices at once: tightening network orders wait for a person
	BreakerResumed      = "segment.breaker_resumed" // a person let them go on
	AddressLearned      = "device.address_learned"  // an authenticated poll came from another address than before
	QuarantineOpened    = "quarantine.opened"
	QuarantineRecovered = "quarantine.recovered" // a fresh challenge quote passed
	QuarantineApproved  = "quarantine.approved"
	QuarantineEnded     = "quarantine.ended"
	ReleaseStaged       = "release.staged"
	ReleaseApproved     = "release.approved"
	ReleasePublished    = "release.published"
	ReleaseHeld         = "release.held"
	ReleaseResumeAsked  = "release.resume_approved"
	ReleaseResumed      = "release.resumed"
	ArtifactRefused     = "artifact.refused"
	ArtifactServed      = "artifact.served"     // a whole artifact reached the end of its last range
	ClientEvent         = "client.event"        // what a device says it refused
	ArtifactPresigned   = "artifact.presigned"  // a URL that opens one range for up to a minute, past the door
	ReleasePruned       = "release.pruned"      // its images are no longer kept
	ArtifactsCondemned  = "artifacts.condemned" // blobs that nothing refers to are being removed
	ArtifactsRemoved    = "artifacts.removed"   // blobs and unfinished uploads are gone
	BaselineAdded       = "baseline.added"      // baseline signers say what a platform measures
	ReportMade          = "report.made"
	CertificateIssued   = "certificate.issued"
	LogStopped          = "log.stopped"     // rows, tiles, checkpoints and witnesses do not agree: the tile log signs nothing more
	LogRefused          = "log.refused"     // a witness has seen another history
	ServerRestored      = "server.restored" // from a backup; a log that was signed before ends here
)

// ErrLeaf is returned for leaf bytes that cordon did not write.
var ErrLeaf = errors.New("audit leaf is not valid")

// leaf is the form of the stored bytes.
type leaf struct {
	V       int            `json:"v"`
	N       int64          `json:"n"`
	At      string         `json:"at"`
	Type    string         `json:"type"`
	Actor   string         `json:"actor"`
	Subject string         `json:"subject"`
	Data    jsontext.Value `json:"data,omitempty"`
}

// DataOf returns the data object of a leaf, nil if it has none.
func DataOf(b []byte) (jsontext.Value, error) {
	var l leaf
	if err := json.Unmarshal(b, &l, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrLeaf, err)
	}
	return l.Data, nil
}
