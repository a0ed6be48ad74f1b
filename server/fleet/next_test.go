package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
)

var (
	now   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	terms = fleet.Terms{Lease: 2 * time.Hour, Grace: 24 * time.Hour}
)

// proven is an active device that runs lamp/1 (counter 1) and has half of its lease left.
func proven() fleet.Device {
	return fleet.Device{
		ID: "d", Product: "lamp", HardwareID: "rev-a", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production,
		Proven: "lamp/1", ProvenCounter: 1, HighCounter: 1, Accepted: &attestation.Accepted{Clock: quote.Clock{Clock: 5}},
		LeaseUntil: now.Add(time.Hour), LastPoll: digest.Of([]byte("poll")), LastAnswer: []byte("answer"),
	}
}

func offered() fleet.Device {
	return fleet.Offer(proven(), "lamp/2", 2, now.Add(-time.Hour), now.Add(time.Hour)).Device
}

func pass(release string, counter uint64, challenge bool) fleet.Proof {
	return fleet.Proof{
		At: now, Challenge: challenge, Issued: now.Add(-time.Minute), Counter: counter, Appraisal: digest.Of([]byte("appraisal")),
		Verdict: attestation.Verdict{Outcome: attestation.Affirmed, Release: release, Accepted: &attestation.Accepted{Clock: quote.Clock{Clock: 9}}},
	}
}

func fail(reasons ...reason.Reason) fleet.Proof {
	p := fleet.Proof{At: now, Challenge: true, Issued: now, Appraisal: digest.Of([]byte("appraisal")), Verdict: attestation.Verdict{Outcome: attestation.Refused}}
	for _, r := range reasons {
		p.Verdict.Findings = append(p.Verdict.Findings, attestation.Finding{Reason: r, Detail: "detail of " + string(r)})
	}
	return p
}

func facts(s fleet.Step) []string {
	var out []string
	for _, f := range s.Facts {
		out = append(out, f.Type)
	}
	return out
}

func wantFacts(t *testing.T, s fleet.Step, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, facts(s)); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func quarantined(t *testing.T) (fleet.Device, *fleet.Quarantine) {
	t.Helper()
	s := fleet.Prove(proven(), nil, fail(reason.PCRMismatch), terms)
	if s.Quarantine == nil {
		t.Fatal("a proven wrong state did not quarantine")
	}
	return s.Device, s.Quarantine
}

func TestProveRenewsTheLeaseFromTheIssueTime(t *testing.T) {
	t.Parallel()
	for name, challenge := range map[string]bool{"beacon": false, "challenge": true} {
		s := fleet.Prove(proven(), nil, pass("lamp/1", 1, challenge), terms)
		if want := now.Add(-time.Minute).Add(terms.Lease); !s.Device.LeaseUntil.Equal(want) || s.Device.Standing != fleet.Affirmed {
			t.Errorf("%s: got %s until %s, want affirmed until %s", name, s.Device.Standing, s.Device.LeaseUntil, want)
		}
		if got := !s.Device.ChallengedAt.IsZero(); got != challenge {
			t.Errorf("%s: ChallengedAt set: got %t", name, got)
		}
		wantFacts(t, s)
	}
	old := pass("lamp/1", 1, false)
	old.Issued = now.Add(-90 * time.Minute)
	if got := fleet.Prove(proven(), nil, old, terms).Device.LeaseUntil; !got.Equal(now.Add(time.Hour)) {
		t.Errorf("an older beacon shortened the lease to %s", got)
	}
}

func TestNewThingsNeedAChallenge(t *testing.T) {
	t.Parallel()
	boot := pass("lamp/1", 1, false)
	boot.Verdict.NewBoot = true
	unproven := proven()
	unproven.Accepted = nil
	_, q := quarantined(t)
	tests := map[string]struct {
		d fleet.Device
		q *fleet.Quarantine
		p fleet.Proof
	}{
		"new boot":             {proven(), nil, boot},
		"new release":          {offered(), nil, pass("lamp/2", 2, false)},
		"first quote":          {unproven, nil, pass("lamp/1", 1, false)},
		"way out of isolation": {proven(), q, pass("lamp/1", 1, false)},
	}
	for name, test := range tests {
		s := fleet.Prove(test.d, test.q, test.p, terms)
		if !s.NeedsChallenge {
			t.Errorf("%s: counted over a beacon", name)
		}
		if diff := cmp.Diff(test.d, s.Device); diff != "" || s.Quarantine != nil || len(s.Facts) > 0 {
			t.Errorf("%s: something changed (-want +got):\n%s", name, diff)
		}
		test.p.Challenge = true
		if s := fleet.Prove(test.d, test.q, test.p, terms); s.NeedsChallenge {
			t.Errorf("%s: a challenge is not enough", name)
		}
	}
}

func TestOfferedReleaseIsProven(t *testing.T) {
	t.Parallel()
	s := fleet.Prove(offered(), nil, pass("lamp/2", 2, true), terms)
	wantFacts(t, s, "verdict.affirmed", "update.proven")
	d := s.Device
	if d.Proven != "lamp/2" || d.HighCounter != 2 || d.Offered != "" || d.OfferedCounter != 0 || !d.Deadline.IsZero() || s.Update != "proven" {
		t.Errorf("got %+v, update %q", d, s.Update)
	}
	if d.MayBoot(1) {
		t.Error("the release that was left may still boot")
	}
}

func TestRecoveryDoesNotRaiseTheCounter(t *testing.T) {
	t.Parallel()
	p := pass("lamp/9", 9, true)
	p.Verdict.Recovery = true
	if d := fleet.Prove(proven(), nil, p, terms).Device; d.HighCounter != 1 || d.ProvenCounter != 9 {
		t.Errorf("got high %d, proven %d, want 1, 9", d.HighCounter, d.ProvenCounter)
	}
}

// A closed offer is not forgotten: the device may have installed it, and booting it must not look like a wrong state.
func TestWithdrawAndSupersede(t *testing.T) {
	t.Parallel()
	held := fleet.Withdraw(offered())
	if d := held.Device; d.Offered != "" || !d.Deadline.IsZero() || held.Update != "superseded" || !d.MayBoot(2) || d.MayBoot(3) {
		t.Errorf("withdrawn: got %+v, update %q", d, held.Update)
	}
	if s := fleet.Withdraw(held.Device); s.Update != "" {
		t.Errorf("withdrawn twice: got update %q", s.Update)
	}
	s := fleet.Offer(offered(), "lamp/3", 3, now, now.Add(time.Hour))
	if s.Update != "superseded" || s.Device.Offered != "lamp/3" || !s.Device.MayBoot(2) || !s.Device.MayBoot(3) || s.Device.MayBoot(0) {
		t.Errorf("superseded: got %+v, update %q", s.Device, s.Update)
	}
	older := fleet.Offer(fleet.Withdraw(s.Device).Device, "lamp/2", 2, now, now.Add(time.Hour)).Device
	if older.Offered != "lamp/2" || !older.MayBoot(3) {
		t.Errorf("an older one after a hold: got %+v", older)
	}
	again := fleet.Offer(offered(), "lamp/2", 2, now, now.Add(9*time.Hour))
	if diff := cmp.Diff(offered(), again.Device); diff != "" || len(again.Facts) > 0 {
		t.Errorf("the same offer again changed something (-want +got):\n%s", diff)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	d := offered()
	if _, changed := fleet.Expire(d, now.Add(time.Hour-time.Microsecond)); changed {
		t.Error("changed before lease and deadline")
	}
	s, changed := fleet.Expire(d, now.Add(time.Hour))
	wantFacts(t, s, "device.stale", "update.overdue")
	if !changed || s.Device.Standing != fleet.Stale || !s.Device.StaleSince.Equal(d.LeaseUntil) || s.Update != "overdue" || s.Device.Offered != "" {
		t.Errorf("got %+v", s)
	}
	if !slices.Contains(s.Reasons, reason.UpdateOverdue) || !s.Device.MayBoot(2) {
		t.Errorf("overdue: got reasons %v, may boot %t", s.Reasons, s.Device.MayBoot(2))
	}
	if _, changed := fleet.Expire(s.Device, now.Add(9*time.Hour)); changed {
		t.Error("expired twice")
	}
	for _, l := range []fleet.Lifecycle{fleet.Pending, fleet.Retired} {
		d.Lifecycle = l
		if _, changed := fleet.Expire(d, now.Add(9*time.Hour)); changed {
			t.Errorf("%s: expired", l)
		}
	}
	refused, _ := quarantined(t)
	if s, changed := fleet.Expire(refused, now.Add(9*time.Hour)); changed || s.Device.Standing != fleet.Refused {
		t.Error("a quarantined device became stale")
	}
}

func TestWrongStateQuarantines(t *testing.T) {
	t.Parallel()
	s := fleet.Prove(offered(), nil, fail(reason.NonceReused, reason.PCRMismatch), terms)
	wantFacts(t, s, "verdict.refused", "quarantine.opened")
	d, q := s.Device, s.Quarantine
	if d.Standing != fleet.Refused || !d.LeaseUntil.IsZero() || d.Offered != "" || s.Update != "superseded" || d.LastAnswer != nil || !d.LastPoll.IsZero() {
		t.Errorf("got %+v", d)
	}
	if q.By != "verifier" || q.Detail != "detail of pcr_mismatch" || q.Device != "d" || !q.Since.Equal(now) || len(q.Causes) != 2 {
		t.Errorf("got %+v", q)
	}
	again := fleet.Prove(d, q, fail(reason.EventlogMismatch), terms)
	if again.Quarantine != nil {
		t.Error("a second quarantine was opened beside the first")
	}
}

// No sequence of verdicts whose effects are retry and hold, passes and time ever quarantines (an error of ours, a TPM in
// lockout, a lost network), and nothing but End ends a quarantine.
func TestOnlyProvenWrongStatesQuarantineAndItSticks(t *testing.T) {
	t.Parallel()
	var mild, severe []reason.Reason
	for _, row := range reason.All() {
		if row.Effect == reason.Quarantine {
			severe = append(severe, row.Reason)
			continue
		}
		mild = append(mild, row.Reason)
	}
	mild = append(mild, "a reason of a newer build")
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		d, q, at := proven(), (*fleet.Quarantine)(nil), now
		wrong := seed%2 == 1 // these runs start from a quarantine
		if wrong {
			s := fleet.Prove(d, nil, fail(severe[random.IntN(len(severe))]), terms)
			d, q = s.Device, s.Quarantine
		}
		for range 60 {
			at = at.Add(time.Duration(random.IntN(180)) * time.Minute)
			s := randomStep(random, d, q, at, mild)
			d = s.Device
			if s.Quarantine != nil {
				q = s.Quarantine
			}
			switch {
			case !wrong && (q != nil || d.Standing == fleet.Refused):
				t.Fatalf("seed %d: %s quarantined by mild verdicts", seed, d.Standing)
			case wrong && (!q.EndedAt.IsZero() || d.Standing != fleet.Refused || d.Offered != "" || !d.LeaseUntil.IsZero()):
				t.Fatalf("seed %d: the quarantine ended by itself: %+v", seed, d)
			case wrong && fleet.SegmentOf(d, q, at, terms) != fleet.Restricted:
				t.Fatalf("seed %d: quarantined and in production", seed)
			}
			d.Segment = fleet.SegmentOf(d, q, at, terms)
		}
	}
}

func randomStep(random *rand.Rand, d fleet.Device, q *fleet.Quarantine, at time.Time, mild []reason.Reason) fleet.Step {
	switch n := random.IntN(10); {
	case n < 4:
		p := fail()
		for range random.IntN(3) {
			p.Verdict.Findings = append(p.Verdict.Findings, attestation.Finding{Reason: mild[random.IntN(len(mild))]})
		}
		p.At, p.Challenge = at, random.IntN(2) == 0
		return fleet.Prove(d, q, p, terms)
	case n < 7:
		p := pass([]string{"lamp/1", "lamp/2"}[random.IntN(2)], 1, random.IntN(2) == 0)
		p.At, p.Issued, p.Verdict.NewBoot = at, at, random.IntN(2) == 0
		return fleet.Prove(d, q, p, terms)
	case n < 8 && q == nil:
		return fleet.Offer(d, "lamp/2", 2, at, at.Add(time.Hour))
	case n < 9:
		return fleet.Withdraw(d)
	}
	s, _ := fleet.Expire(d, at)
	return s
}

func TestRefusalWithoutAReasonHolds(t *testing.T) {
	t.Parallel()
	s := fleet.Prove(proven(), nil, fail(), terms)
	if s.Quarantine != nil || s.Device.Standing != fleet.Affirmed || !s.Device.LeaseUntil.Equal(proven().LeaseUntil) || len(s.Reasons) == 0 {
		t.Errorf("got %+v", s)
	}
}

func TestLooseningNeedsTwoPeopleAndARecovery(t *testing.T) {
	t.Parallel()
	d, q := quarantined(t)
	early := approvals(*q, "ann", "bob")
	if got := fleet.Loosen(*q, early); !slices.Contains(got, reason.DeviceUnproven) {
		t.Errorf("without recovery: got %v", got)
	}
	s := fleet.Prove(d, q, pass("lamp/1", 1, true), terms)
	wantFacts(t, s, "verdict.affirmed", "quarantine.recovered")
	recovered := *s.Quarantine
	if s.Device.Standing != fleet.Refused || !s.Device.LeaseUntil.IsZero() {
		t.Errorf("recovered: got %s with a lease until %s", s.Device.Standing, s.Device.LeaseUntil)
	}
	isolated := recovered
	isolated.By = "ann"
	closed := recovered
	closed.EndedAt = now
	tests := map[string]struct {
		q         fleet.Quarantine
		approvals []fleet.Approval
		want      []reason.Reason
	}{
		"nobody":                   {recovered, nil, []reason.Reason{reason.ApprovalRequired}},
		"one":                      {recovered, approvals(recovered, "ann"), []reason.Reason{reason.ApprovalRequired}},
		"one, twice":               {recovered, approvals(recovered, "ann", "ann"), []reason.Reason{reason.ApprovalRequired}},
		"two":                      {recovered, approvals(recovered, "ann", "bob"), nil},
		"before the recovery":      {recovered, early, []reason.Reason{reason.ApprovalRequired}},
		"of another subject":       {recovered, []fleet.Approval{{Subject: "release:x", Person: "ann"}, {Subject: "release:x", Person: "bob"}}, []reason.Reason{reason.ApprovalRequired}},
		"who isolated it and one":  {isolated, approvals(isolated, "ann", "bob"), []reason.Reason{reason.ApprovalRequired}},
		"who isolated it and two":  {isolated, approvals(isolated, "ann", "bob", "cid"), nil},
		"nameless":                 {recovered, approvals(recovered, "ann", ""), []reason.Reason{reason.ApprovalRequired}},
		"ended already":            {closed, approvals(closed, "ann", "bob"), []reason.Reason{reason.Conflict}},
		"not recovered and nobody": {*q, nil, []reason.Reason{reason.DeviceUnproven, reason.ApprovalRequired}},
	}
	for name, test := range tests {
		if diff := cmp.Diff(test.want, fleet.Loosen(test.q, test.approvals)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func approvals(q fleet.Quarantine, people ...string) []fleet.Approval {
	var out []fleet.Approval
	for _, p := range people {
		out = append(out, fleet.Approval{Subject: q.ApprovalSubject(), Person: p, At: now})
	}
	return out
}

func TestFailingAgainVoidsApprovals(t *testing.T) {
	t.Parallel()
	d, q := quarantined(t)
	s := fleet.Prove(d, q, pass("lamp/1", 1, true), terms)
	given := approvals(*s.Quarantine, "ann", "bob")
	s = fleet.Prove(s.Device, s.Quarantine, fail(reason.PCRMismatch), terms)
	if s.Quarantine == nil || !s.Quarantine.RecoveredAt.IsZero() {
		t.Fatalf("still recovered: %+v", s.Quarantine)
	}
	later := pass("lamp/1", 1, true)
	later.At = now.Add(time.Minute)
	s = fleet.Prove(s.Device, s.Quarantine, later, terms)
	if got := fleet.Loosen(*s.Quarantine, given); !slices.Contains(got, reason.ApprovalRequired) {
		t.Errorf("approvals of the first recovery count for the second: got %v", got)
	}
	mild := fleet.Prove(s.Device, s.Quarantine, fail(reason.NonceReused), terms)
	if mild.Quarantine != nil {
		t.Error("a mild refusal voided the recovery")
	}
}

func TestEndLeavesTheDeviceRestrictedUntilAFreshPass(t *testing.T) {
	t.Parallel()
	d, q := quarantined(t)
	d.Segment = fleet.Restricted
	s := fleet.End(d, *q, now)
	wantFacts(t, s, "quarantine.ended")
	if s.Quarantine.EndedAt.IsZero() || s.Device.Standing != fleet.Stale || fleet.SegmentOf(s.Device, nil, now, terms) != fleet.Restricted {
		t.Errorf("got %+v, %+v", s.Device, s.Quarantine)
	}
	back := fleet.Prove(s.Device, nil, pass("lamp/1", 1, true), terms).Device
	if back.Standing != fleet.Affirmed || fleet.SegmentOf(back, nil, now, terms) != fleet.Production {
		t.Errorf("after a fresh pass: got %+v", back)
	}
}

func TestIsolateIsOnePersonsWord(t *testing.T) {
	t.Parallel()
	s := fleet.Isolate(offered(), nil, "ann", "looks odd", now)
	if s.Quarantine == nil || s.Quarantine.By != "ann" || s.Device.Standing != fleet.Refused || s.Device.Offered != "" || s.Device.LastAnswer != nil {
		t.Errorf("got %+v, %+v", s.Device, s.Quarantine)
	}
	if again := fleet.Isolate(s.Device, s.Quarantine, "bob", "", now); again.Quarantine != nil {
		t.Error("isolated twice")
	}
	for _, l := range []fleet.Lifecycle{fleet.Pending, fleet.Retired} {
		d := proven()
		d.Lifecycle = l
		if fleet.Isolate(d, nil, "ann", "", now).Quarantine != nil {
			t.Errorf("%s: isolated", l)
		}
	}
}

func TestClaimAndRetire(t *testing.T) {
	t.Parallel()
	a := fleet.Admission{Product: "lamp", HardwareID: "rev-a", Profile: "p", By: "token", Tier: fleet.TierClaimed}
	s := fleet.Claim(fleet.Device{ID: "d", Lifecycle: fleet.Pending, HardwareID: "what it said"}, a)
	wantFacts(t, s, "device.claimed")
	if d := s.Device; d.Lifecycle != fleet.Active || d.HardwareID != "rev-a" || d.Tier != fleet.TierClaimed || d.Product != "lamp" {
		t.Errorf("got %+v", d)
	}
	a.Product = "boiler"
	if got := fleet.Claim(s.Device, a); got.Device.Product != "lamp" || len(got.Facts) > 0 {
		t.Errorf("claimed twice: got %+v", got)
	}
	r := fleet.Retire(offered(), "ann")
	wantFacts(t, r, "device.retired")
	if r.Device.Lifecycle != fleet.Retired || r.Device.Offered != "" || !r.Device.LeaseUntil.IsZero() || r.Device.LastAnswer != nil || r.Update != "superseded" {
		t.Errorf("got %+v", r)
	}
	if got := fleet.Claim(r.Device, a); got.Device.Lifecycle != fleet.Retired {
		t.Error("a retired device was claimed")
	}
	if got := fleet.Retire(r.Device, "bob"); len(got.Facts) > 0 {
		t.Error("retired twice")
	}
}

func TestSegmentOf(t *testing.T) {
	t.Parallel()
	_, q := quarantined(t)
	ended := *q
	ended.EndedAt = now
	stale := func(segment fleet.Segment, since time.Time) fleet.Device {
		d := proven()
		d.Standing, d.StaleSince, d.Segment = fleet.Stale, since, segment
		return d
	}
	with := func(change func(*fleet.Device)) fleet.Device { d := proven(); change(&d); return d }
	tests := map[string]struct {
		d    fleet.Device
		q    *fleet.Quarantine
		want fleet.Segment
	}{
		"affirmed":                     {proven(), nil, fleet.Production},
		"affirmed, in quarantine":      {proven(), q, fleet.Restricted},
		"affirmed, quarantine ended":   {proven(), &ended, fleet.Production},
		"pending":                      {with(func(d *fleet.Device) { d.Lifecycle = fleet.Pending }), nil, fleet.Restricted},
		"retired":                      {with(func(d *fleet.Device) { d.Lifecycle = fleet.Retired }), nil, fleet.Restricted},
		"unproven":                     {with(func(d *fleet.Device) { d.Standing = fleet.Unproven }), nil, fleet.Restricted},
		"refused":                      {with(func(d *fleet.Device) { d.Standing = fleet.Refused }), nil, fleet.Restricted},
		"unknown standing":             {with(func(d *fleet.Device) { d.Standing = "" }), nil, fleet.Restricted},
		"unswept, within grace":        {with(func(d *fleet.Device) { d.LeaseUntil = now.Add(-terms.Grace + 1) }), nil, fleet.Production},
		"unswept, beyond grace":        {with(func(d *fleet.Device) { d.LeaseUntil = now.Add(-terms.Grace) }), nil, fleet.Restricted},
		"stale within grace":           {stale(fleet.Production, now.Add(-terms.Grace+1)), nil, fleet.Production},
		"stale beyond grace":           {stale(fleet.Production, now.Add(-terms.Grace)), nil, fleet.Restricted},
		"stale that was restricted":    {stale(fleet.Restricted, now), nil, fleet.Restricted},
		"stale within grace, isolated": {stale(fleet.Production, now), q, fleet.Restricted},
	}
	for name, test := range tests {
		if got := fleet.SegmentOf(test.d, test.q, now, terms); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func TestQuarantineIDsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i := range 10 {
		d := proven()
		d.ID = fmt.Sprintf("d%d", i%5)
		id := fleet.Isolate(d, nil, "ann", "", now.Add(time.Duration(i)*time.Microsecond)).Quarantine.ID
		if seen[id] {
			t.Errorf("%s twice", id)
		}
		seen[id] = true
	}
}
