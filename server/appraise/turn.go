package appraise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/deviceca"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/rollout"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// turn is one poll being decided. Only its own goroutine touches it.
type turn struct {
	s        *Service
	catalog  *repository.Catalog
	product  *repository.Product // nil while pending, or when no policy is signed
	now      time.Time
	exporter []byte
	request  wire.PollRequest
	claims   wire.Claims

	before  fleet.Device
	d       fleet.Device
	q       *fleet.Quarantine // the open one
	denials []fleet.Denial    // in force
	changed bool
	// challenged: this poll carried an affirmed quote over a challenge. accepted: Evidence was judged and counts.
	challenged, accepted bool
	// told: the device says something new about itself that is kept.
	told bool
	// stuck: another quote would not help now. Either the cause is on our side, or the challenge quote itself was refused
	// and the next poll tries again.
	stuck bool
	// disputed: what the device claims to run is not what this poll's quote proves.
	disputed bool
	sentLog  []byte // the event log, if it came with the Evidence

	answer   wire.PollAnswer
	reasons  []reason.Reason
	decision rollout.Decision
	change   store.Change
}

const (
	maxListed = 64 // components, events and strings in claims
	maxText   = 1024
	maxName   = 128 // reasons and release names in claims
)

func (s *Service) newTurn(ctx context.Context, catalog *repository.Catalog, d fleet.Device, exporter, body []byte, now time.Time) (*turn, error) {
	t := &turn{s: s, catalog: catalog, now: now, exporter: exporter, before: d, d: d}
	if err := json.Unmarshal(body, &t.request); err != nil {
		return nil, problem.Malformed("the poll is not valid JSON of the device API: %v", err)
	}
	if len(t.request.Claims) > wire.MaxClaimsBytes {
		return nil, problem.TooLarge(wire.MaxClaimsBytes)
	}
	if err := json.Unmarshal(t.request.Claims, &t.claims); err != nil {
		return nil, problem.Malformed("the claims are not valid JSON: %v", err)
	}
	if err := checkClaims(t.claims); err != nil {
		return nil, err
	}
	var err error
	t.q, err = store.QuarantineOf(ctx, s.store, d.ID)
	return t, err
}

func checkClaims(c wire.Claims) error {
	switch {
	case c.Version != wire.ClaimsVersion:
		return problem.Malformed("claims version %d is not known, this server reads %d", c.Version, wire.ClaimsVersion)
	case len(c.Components) > maxListed || len(c.Events) > maxListed:
		return problem.Malformed("claims list more than %d entries", maxListed)
	case len(c.Challenge) > 1024 || len(c.Agent) > maxText:
		return problem.Malformed("a field of the claims is too long")
	case c.DirectorVersion < 0 || c.ImageRoot < 0 || c.DirectorRoot < 0 || c.DirectorVersion > 1<<53:
		return problem.Malformed("a version in the claims is out of range")
	}
	if b := c.Boot; b != nil && (len(b.Result) > maxName || len(b.Version) > maxName || len(b.Detail) > maxText) {
		return problem.Malformed("a field of the boot report is too long")
	}
	for _, e := range c.Events {
		if len(e.Reason) > maxName || len(e.Detail) > maxText {
			return problem.Malformed("a field of an event is too long")
		}
	}
	return nil
}

func (t *turn) run(ctx context.Context) error {
	t.metadata()
	t.deny()
	if t.d.Lifecycle == fleet.Pending {
		if slices.Contains(t.reasons, reason.EKRevoked) {
			return nil
		}
		if claimed, err := t.claim(ctx); err != nil || !claimed {
			return err
		}
	}
	t.product = t.catalog.Products[t.d.Product]
	if t.product == nil {
		t.refuse(reason.PolicyMissing)
		return nil
	}
	if step, changed := fleet.Expire(t.d, t.now); changed {
		t.apply(step)
	}
	t.report()
	if len(t.request.Evidence) > 0 && !t.stuck {
		if err := t.judge(ctx); err != nil {
			return err
		}
		if t.answer.EvidenceWanted != "" {
			return nil // nothing more is said before the log or a challenge quote is here
		}
	}
	if err := t.renew(ctx); err != nil {
		return err
	}
	if err := t.offer(ctx); err != nil {
		return err
	}
	return t.certificate(ctx)
}

// deny holds the device against the deny list of endorsement keys, so that nobody depends on the sweeper: from the commit
// of a denial on, no poll gets a lease, an offer or a certificate. Only a TPM whose firmware is denied is listened to: it
// may have been updated since.
func (t *turn) deny() {
	denial, denied := fleet.Denied(t.d, t.denials)
	if !denied {
		return
	}
	t.refuse(reason.EKRevoked)
	if step, changed := fleet.Deny(t.d, t.q, denial, t.now); changed {
		t.apply(step)
	}
	_, t.stuck = fleet.DeniedForGood(t.d, t.denials)
}

// metadata adds roots and the timestamp that the device does not have yet.
func (t *turn) metadata() {
	t.answer.Roots = newer(t.catalog.ImageRoots, t.claims.ImageRoot)
	t.answer.DirectorRoots = newer(t.catalog.DirectorRoots, t.claims.DirectorRoot)
	if t.claims.Timestamp != t.catalog.Beacon {
		t.answer.Timestamp = t.catalog.Timestamp
	}
}

func newer(roots [][]byte, have int64) [][]byte {
	if have <= 0 || have >= int64(len(roots)) {
		return nil
	}
	return roots[have:min(int64(len(roots)), have+wire.MaxRoots)]
}

// claim takes a pending device into the fleet when the inventory lists it by now.
func (t *turn) claim(ctx context.Context) (bool, error) {
	entry, err := t.s.store.Inventory(ctx, t.d.ID)
	if errors.Is(err, store.ErrNotFound) {
		t.refuse(reason.DevicePending)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the inventory: %w", err)
	}
	t.apply(fleet.Claim(t.d, fleet.Admission{
		Product: entry.Product, HardwareID: entry.HardwareID, Profile: entry.Profile, By: fleet.ByInventory, Tier: fleet.TierOf(t.d, fleet.ByInventory),
	}))
	return true, nil
}

// report keeps what the device says about itself: its counter, and what it refused.
func (t *turn) report() {
	var counter *uint64
	if t.claims.Counter != nil {
		counter = &t.claims.Counter.Value
	} else {
		t.refuse(reason.CounterMissing)
	}
	if !equal(counter, t.d.Counter) {
		t.d.Counter, t.changed, t.told = counter, true, true
	}
	for _, e := range t.claims.Events {
		t.event(audit.ClientEvent, t.d.ID, map[string]any{"reason": e.Reason, "detail": e.Detail, "device_time": e.Time})
	}
}

func equal(a, b *uint64) bool { return a == b || a != nil && b != nil && *a == *b }

// offer decides what the device may have and puts it into director metadata. Anything new needs a challenge quote in
// this very poll; the recovery release does not.
func (t *turn) offer(ctx context.Context) error {
	t.choose()
	t.refuse(t.decision.Reasons...)
	if t.wantsProof() {
		t.want(wire.WantQuote)
		if t.q == nil && t.d.Standing != fleet.Affirmed {
			return nil // nothing more is said before the proof is here
		}
	}
	if t.d.Offered != "" && t.decision.Release != t.d.Offered {
		t.apply(fleet.Withdraw(t.d)) // held, withdrawn or superseded: the offer ends
	}
	isNew := t.decision.Release != "" && t.decision.Release != t.d.Proven && t.decision.Release != t.d.Offered && !t.decision.Recovery
	switch {
	case isNew && t.challenged:
		release, _ := t.product.Release(t.decision.Release)
		t.apply(fleet.Offer(t.d, t.decision.Release, release.Statement.Predicate.Counter, t.now, t.now.Add(t.s.set.UpdateDeadline)))
	case isNew && !t.stuck && t.answer.EvidenceWanted == "":
		t.want(wire.WantQuote)
	}
	return t.direct(ctx)
}

// wantsProof says that the device should quote now: it stands without a fresh proof, or its lease is half over.
func (t *turn) wantsProof() bool {
	if t.accepted || t.stuck {
		return false
	}
	if t.q != nil {
		return t.q.RecoveredAt.IsZero()
	}
	return t.d.Standing != fleet.Affirmed || t.d.LeaseUntil.Sub(t.now) < t.s.set.Terms.Lease/2
}

func (t *turn) want(kind string) {
	t.answer.EvidenceWanted = kind
	t.answer.Challenge = t.s.challenges.Mint(attestation.PurposePoll, t.d.ID, t.now)
}

// direct brings the director metadata up to date and adds it when the device has an older one.
func (t *turn) direct(ctx context.Context) error {
	release := t.entitled()
	prev, err := t.s.store.Director(ctx, t.d.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("cannot load director metadata: %w", err)
	}
	var stored *store.Director
	if err == nil {
		stored = &prev
	}
	docs, changed, err := t.s.director.Next(t.d, release, stored, t.claims.DirectorVersion, t.now)
	if err != nil {
		return err
	}
	if changed {
		t.change.Expect = append(t.change.Expect, store.Expect{Table: store.Directors, Key: t.d.ID, Version: prev.Version})
		t.change.Writes = append(t.change.Writes, store.PutDirector{Director: docs})
	}
	if t.claims.DirectorVersion < docs.Number {
		t.answer.Director = &wire.Director{Timestamp: docs.Timestamp, Snapshot: docs.Snapshot, Targets: docs.Targets}
	}
	return nil
}

// entitled is the release that director metadata may name now; nil for none. A new one that waits for its challenge
// quote leaves the one that the device runs in place.
func (t *turn) entitled() *artifacts.Release {
	name := t.decision.Release
	waits := name != "" && name != t.d.Offered && name != t.d.Proven && !t.decision.Recovery
	if waits {
		name = t.d.Proven
	}
	release, ok := t.product.Release(name)
	if !ok {
		return nil
	}
	c := rollout.Candidate{Name: release.Name, Release: release.Statement.Predicate, Hold: release.Hold}
	if waits && rollout.Fits(t.d, t.product.Policy, c) != "" {
		return nil
	}
	return &release.Statement.Predicate
}

// certificate issues the short-lived SPIFFE certificate after an affirmed challenge quote. A device on its recovery
// release gets none: that release is there to fetch another, not to work.
func (t *turn) certificate(ctx context.Context) error {
	if !t.challenged || t.q != nil || t.d.Standing != fleet.Affirmed || t.recovering() {
		return nil
	}
	chain, serial, err := t.s.ca.Issue(t.d.ID, t.d.TLSPublic, t.now, t.d.LeaseUntil)
	if errors.Is(err, deviceca.ErrLifetime) { // the CA has ended: updates go on without certificates
		t.s.log.ErrorContext(ctx, "cannot issue a device certificate", "device", t.d.ID, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot issue a certificate: %w", err)
	}
	t.answer.Certificate = chain
	t.event(audit.CertificateIssued, t.d.ID, map[string]any{"serial": serial, "not_after": t.d.LeaseUntil.UTC()})
	return nil
}

// recovering says that the device has proven a recovery release.
func (t *turn) recovering() bool {
	release, ok := t.product.Release(t.d.Proven)
	return ok && release.Statement.Predicate.Recovery
}

// apply takes over a decision of fleet.
func (t *turn) apply(step fleet.Step) {
	t.changed = true
	standing.Take(&t.change, &t.d, &t.q, step, t.d.ID, t.now)
	t.refuse(step.Reasons...)
}

func (t *turn) refuse(rs ...reason.Reason) {
	for _, r := range rs {
		if !slices.Contains(t.reasons, r) {
			t.reasons = append(t.reasons, r)
		}
	}
}

func (t *turn) event(kind, actor string, data map[string]any) {
	t.change.Events = append(t.change.Events, store.Event{At: t.now, Type: kind, Actor: actor, Subject: t.d.ID, Data: data})
}

// finish renders the answer and completes the change: the device row, the segment order, the stored answer.
func (t *turn) finish(body digest.SHA256) (Answer, store.Change, error) {
	t.answer.Refusal = refusals(t.reasons)
	out := Answer{Device: t.d.ID, NextPoll: t.s.nextPoll(), Time: t.now}
	if !t.nothing() {
		b, err := json.Marshal(t.answer)
		if err != nil {
			return Answer{}, store.Change{}, fmt.Errorf("cannot write the answer: %w", err)
		}
		out.Body = b
	}
	stale := t.now.Sub(t.d.SeenAt) > t.s.set.Poll/2
	if !t.changed && len(t.change.Writes) == 0 && len(t.change.Events) == 0 && !stale {
		return out, store.Change{}, nil
	}
	t.d.SeenAt = t.now
	if t.accepted || len(t.claims.Events) > 0 {
		t.d.LastPoll, t.d.LastAnswer = body, out.Body
	}
	standing.Rules{Terms: t.s.set.Terms, Points: t.s.set.Points}.Close(&t.change, &t.d, t.q, "server", t.now)
	out.Changed = &t.d
	if t.costs() {
		out.costs = t.d.ID
	}
	return out, t.change, nil
}

// costs says that the poll changes rows and proves nothing: what the device tells about itself, and Evidence that was
// refused or that it contradicts. A quarantine, opened or begun anew, is never put off.
func (t *turn) costs() bool {
	if slices.ContainsFunc(t.change.Writes, func(w store.Write) bool { _, ok := w.(store.PutQuarantine); return ok }) {
		return false
	}
	return len(t.claims.Events) > 0 || t.disputed || t.told && !t.accepted || t.answer.Verdict == string(attestation.Refused)
}

// nothing reports that a 204 says it all.
func (t *turn) nothing() bool {
	a := t.answer
	return len(a.Roots) == 0 && len(a.DirectorRoots) == 0 && a.Timestamp == nil && a.Director == nil && a.Challenge == nil &&
		a.EvidenceWanted == "" && a.Verdict == "" && len(a.Refusal) == 0 && len(a.Certificate) == 0 && len(a.Actions) == 0
}
