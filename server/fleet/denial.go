package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Denial is a row of the deny list: TPMs that are not believed although their endorsement keys are genuine (V-13).
type Denial struct {
	ID       string
	Version  int64
	Denial   identity.Denial
	By       string
	At       time.Time
	LiftedAt time.Time // zero while it is in force
}

// ApprovalSubject is what people approve to lift the denial.
func (n Denial) ApprovalSubject() string { return "denial:" + n.ID }

// Denied returns the first denial of the list that names the device, by what enrollment and its last accepted quote have
// proven of its TPM. Lifted denials name nobody.
func Denied(d Device, list []Denial) (Denial, bool) {
	if len(list) == 0 {
		return Denial{}, false
	}
	firmware := uint64(0)
	if d.Accepted != nil {
		firmware = d.Accepted.Firmware
	}
	return DeniedEK(d.EK(), firmware, list)
}

// DeniedForGood is Denied without the TPM's firmware: no quote of the device can change the answer.
func DeniedForGood(d Device, list []Denial) (Denial, bool) {
	d.Accepted = nil
	return Denied(d, list)
}

// DeniedEK returns the first denial of the list that names a TPM with this EK and this firmware, 0 for unknown.
func DeniedEK(ek identity.EK, firmware uint64, list []Denial) (Denial, bool) {
	for _, n := range list {
		if _, named := identity.Denied(ek, firmware, []identity.Denial{n.Denial}); named && n.LiftedAt.IsZero() {
			return n, true
		}
	}
	return Denial{}, false
}

// Deny puts a device that a denial names into quarantine, on the word of the person who denied it; changed is false when
// it is there already. It cannot recover as long as the denial names it.
func Deny(d Device, q *Quarantine, n Denial, now time.Time) (s Step, changed bool) {
	s = Step{Device: d, Reasons: []reason.Reason{reason.EKRevoked}}
	if d.Lifecycle != Active {
		return s, false
	}
	s.Device.Standing, s.Device.LeaseUntil = Refused, time.Time{}
	changed = d.Standing != Refused || !d.LeaseUntil.IsZero()
	switch {
	case q == nil:
		s.open(now, []reason.Reason{reason.EKRevoked}, fmt.Sprintf("denial %s: %s", n.ID, n.Denial.Why), n.By, digest.SHA256{})
		return s, true
	case !q.RecoveredAt.IsZero():
		again := *q
		again.RecoveredAt = time.Time{}
		s.Quarantine = &again
		return s, true
	}
	return s, changed
}

// Lift says whether the denial may be lifted now: enough different people approved, the one who denied not among them.
// The reasons say what is missing.
func Lift(n Denial, approvals []Approval) []reason.Reason {
	if !n.LiftedAt.IsZero() {
		return []reason.Reason{reason.Conflict}
	}
	subject := n.ApprovalSubject()
	approvals = slices.DeleteFunc(slices.Clone(approvals), func(a Approval) bool { return a.Subject != subject })
	if People(approvals, n.By) < ApprovalsToLoosen {
		return []reason.Reason{reason.ApprovalRequired}
	}
	return nil
}

// EK is the device's endorsement key as enrollment has verified it.
func (d Device) EK() identity.EK {
	if !d.Certified() {
		return identity.EK{SPKI: d.EKPublic}
	}
	ek, err := identity.StoredEK(d.EKCertificate, d.EKIssuers)
	if err != nil { // it was verified when it was stored; what is known beside it still counts
		return identity.EK{SPKI: d.EKPublic, Issuers: d.EKIssuers, Manufacturer: d.Manufacturer}
	}
	return ek
}
