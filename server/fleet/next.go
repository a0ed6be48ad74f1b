package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Terms are how long a proof is worth something.
type Terms struct {
	Lease time.Duration // from the issue time of the beacon or challenge
	Grace time.Duration // after the lease; then the device is restricted, not sticky
	// Epoch is where the epochs of enforcement orders end that a server before a restore may have given: the network may
	// have seen any of them. 0 if this server was never restored.
	Epoch int64
}

// Proof is an appraisal together with what the quote was fresh against.
type Proof struct {
	At        time.Time
	Verdict   attestation.Verdict
	Appraisal digest.SHA256
	Challenge bool      // the nonce was a challenge
	Issued    time.Time // when the challenge or beacon was issued
	Counter   uint64    // release counter of Verdict.Release
	LogDigest digest.SHA256
	Grounds   digest.SHA256 // what the verdict depends on beside Evidence and releases
	Basis     Basis
}

// Fact is something that happened, for the audit log: one of audit's event types with its data.
type Fact struct {
	Type string
	Data map[string]any
}

// Step is what a decision changes. The caller commits all of it at once.
type Step struct {
	Device     Device
	Quarantine *Quarantine // opened, recovered or ended; nil when untouched
	Update     string      // result for the open update record: "proven", "overdue", "superseded" or ""
	Facts      []Fact
	Reasons    []reason.Reason // what the device is told
	// NeedsChallenge: the quote was good, but what it shows counts only over a challenge. Nothing else changed.
	NeedsChallenge bool
}

// Prove applies the verdict of fresh Evidence. q is the open quarantine, nil if there is none.
//
// A refusal restricts only by its strongest effect: retry and hold leave the standing alone, quarantine is sticky.
// An affirmed quote renews the lease; one that shows a new boot or a new release, or is to bring an unproven device back,
// counts only over a challenge.
func Prove(d Device, q *Quarantine, p Proof, t Terms) Step {
	if p.Verdict.Outcome != attestation.Affirmed {
		return refuse(d, q, p)
	}
	proves := p.Verdict.Release != d.Proven
	if (p.Verdict.NewBoot || proves || d.Accepted == nil || d.Standing == Unproven || q != nil) && !p.Challenge {
		return Step{Device: d, NeedsChallenge: true, Reasons: []reason.Reason{reason.DeviceUnproven}}
	}
	return affirm(d, q, p, t)
}

// told adds to the data of a verdict's event which appraisal it is and what it was reached with.
func (p Proof) told(data map[string]any) map[string]any {
	data["appraisal"], data["evidence"], data["basis"] = p.Appraisal.String(), p.Verdict.Evidence, p.Basis
	return data
}

func refuse(d Device, q *Quarantine, p Proof) Step {
	reasons := p.Verdict.Reasons()
	if len(reasons) == 0 { // a refusal without a reason is a defect of the verifier: hold, never pass
		reasons = []reason.Reason{reason.Internal}
	}
	s := Step{Device: d, Reasons: reasons}
	s.Device.LastEvidence = p.Appraisal
	s.fact("verdict.refused", p.told(map[string]any{"reasons": reasons, "finding": firstDetail(p.Verdict)}))
	effect, _ := reason.Strongest(reasons)
	if effect != reason.Quarantine || d.Lifecycle != Active {
		return s
	}
	s.Device.Standing = Refused
	s.Device.LeaseUntil = time.Time{}
	if q != nil {
		if !q.RecoveredAt.IsZero() { // it had recovered and is wrong again: the way back starts over
			again := *q
			again.RecoveredAt = time.Time{}
			s.Quarantine = &again
		}
		return s
	}
	s.open(p.At, reasons, firstDetail(p.Verdict), "verifier", p.Appraisal)
	return s
}

func affirm(d Device, q *Quarantine, p Proof, t Terms) Step {
	s := Step{Device: d}
	n := &s.Device
	n.Accepted = p.Verdict.Accepted
	n.LastEvidence = p.Appraisal
	n.LogDigest = p.LogDigest
	n.Grounds = p.Grounds
	n.ProvenAt = p.At
	if p.Challenge {
		n.ChallengedAt = p.At
	}
	if p.Verdict.Release != d.Proven {
		s.fact("verdict.affirmed", p.told(map[string]any{"release": p.Verdict.Release, "before": d.Proven}))
		n.Proven, n.ProvenCounter = p.Verdict.Release, p.Counter
		if !p.Verdict.Recovery {
			n.HighCounter = max(n.HighCounter, p.Counter)
		}
	} else if d.Standing != Affirmed {
		s.fact("verdict.affirmed", p.told(map[string]any{"release": p.Verdict.Release}))
	}
	if d.Offered != "" && p.Verdict.Release == d.Offered {
		s.fact("update.proven", map[string]any{"release": d.Offered, "appraisal": p.Appraisal.String()})
		s.Update = "proven"
		n.forgetOffers()
	}
	if q != nil {
		n.Standing = Refused
		if q.RecoveredAt.IsZero() {
			recovered := *q
			recovered.RecoveredAt = p.At
			s.Quarantine = &recovered
			s.fact("quarantine.recovered", map[string]any{"quarantine": q.ID, "release": p.Verdict.Release, "appraisal": p.Appraisal.String()})
		}
		s.Reasons = []reason.Reason{reason.DeviceQuarantined}
		return s
	}
	n.Standing = Affirmed
	n.StaleSince = time.Time{}
	if until := p.Issued.Add(t.Lease); until.After(n.LeaseUntil) {
		n.LeaseUntil = until
	}
	return s
}

// Expire makes a device stale whose lease has ended, and tells when its open update is overdue. changed is false when
// there is nothing to do.
func Expire(d Device, now time.Time) (s Step, changed bool) {
	s = Step{Device: d}
	if d.Lifecycle != Active {
		return s, false
	}
	if d.Standing == Affirmed && !now.Before(d.LeaseUntil) {
		s.Device.Standing = Stale
		s.Device.StaleSince = d.LeaseUntil
		s.fact("device.stale", map[string]any{"lease_until": d.LeaseUntil.UTC()})
		changed = true
	}
	if d.Offered != "" && !d.Deadline.IsZero() && !now.Before(d.Deadline) {
		s.fact("update.overdue", map[string]any{"release": d.Offered, "deadline": d.Deadline.UTC()})
		s.Update = "overdue"
		s.Reasons = append(s.Reasons, reason.UpdateOverdue)
		s.Device.closeOffer()
		changed = true
	}
	return s, changed
}

// Offer opens the expected set to the release.
func Offer(d Device, release string, counter uint64, now, deadline time.Time) Step {
	s := Step{Device: d}
	if d.Offered == release {
		return s
	}
	if d.Offered != "" {
		s.Update = "superseded"
	}
	s.Device.Offered, s.Device.OfferedCounter = release, max(d.OfferedCounter, counter)
	s.Device.OfferedAt, s.Device.Deadline = now, deadline
	s.fact("release.offered", map[string]any{"release": release, "deadline": deadline.UTC(), "proven": d.Proven})
	return s
}

// Withdraw closes an open offer, because the release was held or withdrawn. A device that has installed it may still
// boot it: that is no wrong state.
func Withdraw(d Device) Step {
	s := Step{Device: d}
	if d.Offered != "" {
		s.Update = "superseded"
		s.Device.closeOffer()
	}
	return s
}

// Admission takes a device out of pending.
type Admission struct {
	Product    string
	HardwareID string
	Profile    string
	By         string // "inventory", "token", "approval:<person>"
	Tier       int
}

// Claim takes a pending device into the fleet, or corrects the claim of one that has proven nothing yet. Any other device
// stays as it is: what it has proven belongs to the product that it was claimed for.
func Claim(d Device, a Admission) Step {
	s := Step{Device: d}
	if !Claimable(d) {
		return s
	}
	n := &s.Device
	n.Lifecycle, n.AdmittedBy, n.Tier = Active, a.By, a.Tier
	n.Product, n.HardwareID, n.Profile = a.Product, a.HardwareID, a.Profile
	s.fact("device.claimed", map[string]any{"product": a.Product, "hardware_id": a.HardwareID, "profile": a.Profile, "by": a.By, "tier": a.Tier})
	return s
}

// Claimable says that a device may be claimed now.
func Claimable(d Device) bool {
	return d.Lifecycle == Pending || d.Lifecycle == Active && d.Proven == "" && d.Standing == Unproven
}

// Retire ends a device for good.
func Retire(d Device, by string) Step {
	s := Step{Device: d}
	if d.Lifecycle == Retired {
		return s
	}
	if d.Offered != "" {
		s.Update = "superseded"
	}
	s.Device.Lifecycle = Retired
	s.Device.LeaseUntil = time.Time{}
	s.Device.forgetOffers()
	s.Device.forgetPoll()
	s.fact("device.retired", map[string]any{"by": by})
	return s
}

// Isolate opens a quarantine on a person's word: one person is enough to tighten.
func Isolate(d Device, q *Quarantine, person, detail string, now time.Time) Step {
	s := Step{Device: d}
	if q != nil || d.Lifecycle != Active {
		return s
	}
	s.Device.Standing = Refused
	s.Device.LeaseUntil = time.Time{}
	s.open(now, []reason.Reason{reason.DeviceQuarantined}, detail, person, digest.SHA256{})
	return s
}

// ApprovalsToLoosen is how many different people it takes to end a quarantine or to resume a held release.
const ApprovalsToLoosen = 2

// Loosen says whether the quarantine may end now: enough different people approved after the device recovered, and the
// device has shown a fresh challenge quote. The reasons say what is missing. Approvals of another subject do not count.
func Loosen(q Quarantine, approvals []Approval) []reason.Reason {
	var missing []reason.Reason
	if !q.EndedAt.IsZero() {
		missing = append(missing, reason.Conflict)
	}
	subject := q.ApprovalSubject()
	approvals = slices.DeleteFunc(slices.Clone(approvals), func(a Approval) bool { return a.Subject != subject })
	if q.RecoveredAt.IsZero() {
		missing = append(missing, reason.DeviceUnproven)
	}
	if People(approvals, q.By) < ApprovalsToLoosen {
		missing = append(missing, reason.ApprovalRequired)
	}
	return missing
}

// ApprovalSubject is what people approve to end the quarantine. It names the recovery, so approvals of an earlier one do
// not count after the device was wrong again.
func (q Quarantine) ApprovalSubject() string {
	return fmt.Sprintf("quarantine:%s:%d", q.ID, q.RecoveredAt.UnixMicro())
}

// People counts the different persons who approved; the requester does not count.
func People(approvals []Approval, requester string) int {
	var names []string
	for _, a := range approvals {
		if a.Person != "" && a.Person != requester && !slices.Contains(names, a.Person) {
			names = append(names, a.Person)
		}
	}
	return len(names)
}

// End ends a quarantine that Loosen allows. The device is stale until its next quote: a fresh pass brings it back.
func End(d Device, q Quarantine, now time.Time) Step {
	s := Step{Device: d}
	q.EndedAt = now
	s.Quarantine = &q
	s.Device.Standing = Stale
	s.Device.StaleSince = now
	s.fact("quarantine.ended", map[string]any{"quarantine": q.ID})
	return s
}

// SegmentOf derives the segment. A device that is not active, in quarantine, refused, never proven, or stale for longer
// than the grace is restricted.
func SegmentOf(d Device, q *Quarantine, now time.Time, t Terms) Segment {
	switch {
	case d.Lifecycle != Active, q != nil && q.EndedAt.IsZero():
		return Restricted
	case d.Standing == Affirmed:
		if now.Before(d.LeaseUntil.Add(t.Grace)) {
			return Production
		}
		return Restricted
	case d.Standing == Stale:
		if d.Segment == Production && now.Before(d.StaleSince.Add(t.Grace)) {
			return Production
		}
		return Restricted
	}
	return Restricted
}

func (s *Step) open(at time.Time, causes []reason.Reason, detail, by string, evidence digest.SHA256) {
	d := &s.Device
	if d.Offered != "" {
		s.Update = "superseded"
	}
	d.forgetOffers()
	d.forgetPoll()
	s.Quarantine = &Quarantine{
		ID: fmt.Sprintf("q-%s-%d", d.ID, at.UnixMicro()), Device: d.ID, Since: at,
		Causes: causes, Detail: detail, By: by, Evidence: evidence,
	}
	s.fact("quarantine.opened", map[string]any{"quarantine": s.Quarantine.ID, "causes": causes, "detail": detail, "by": by})
}

func (s *Step) fact(kind string, data map[string]any) {
	s.Facts = append(s.Facts, Fact{Type: kind, Data: data})
}

// closeOffer ends the offer; what was offered may still be booted.
func (d *Device) closeOffer() {
	d.Offered = ""
	d.OfferedAt, d.Deadline = time.Time{}, time.Time{}
}

// forgetOffers takes back that anything beside Proven may be booted.
func (d *Device) forgetOffers() {
	d.closeOffer()
	d.OfferedCounter = 0
}

// forgetPoll voids the stored answer: what it says about offers and verdict is not true any more.
func (d *Device) forgetPoll() { d.LastPoll, d.LastAnswer = digest.SHA256{}, nil }

// MayBoot says whether a release with this counter is in the expected set beyond Proven and Offered: it was
// published when something at least as new was offered, so the device may have it in a slot. It never lies below what
// the device has proven.
func (d Device) MayBoot(counter uint64) bool {
	return counter >= d.HighCounter && counter <= d.OfferedCounter
}

func firstDetail(v attestation.Verdict) string {
	worst := ""
	for _, f := range v.Findings {
		if worst == "" || reason.EffectOf(f.Reason) == reason.Quarantine {
			worst = f.Detail
		}
		if reason.EffectOf(f.Reason) == reason.Quarantine {
			break
		}
	}
	return worst
}
