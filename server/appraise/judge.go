package appraise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// judge appraises the Evidence of the poll and applies what fleet makes of it.
func (t *turn) judge(ctx context.Context) error {
	evidence, err := attestation.DecodeEvidence(t.request.Evidence)
	if errors.Is(err, attestation.ErrTooLarge) {
		return problem.TooLarge(attestation.MaxEvidenceBytes)
	}
	if err != nil {
		return problem.Malformed("the Evidence cannot be read: %v", err)
	}
	fresh, why, err := t.freshness(ctx)
	if err != nil {
		return err
	}
	if why != "" {
		t.refuse(why)
		t.want(wire.WantQuote)
		return nil
	}
	if t.lost() {
		t.refuse(reason.ReleaseLost)
		t.stuck = true
		return nil
	}
	baseline, ok := t.product.Baselines[t.d.Profile]
	in := t.input(evidence, fresh, &baseline.Value)
	if !ok || len(in.Expected) == 0 {
		t.refuse(reason.PolicyMissing)
		t.stuck = true
		t.s.log.WarnContext(ctx, "no signed baseline for the platform or no published release to expect", "device", t.d.ID, "product", t.product.Name, "profile", t.d.Profile)
		if len(in.Expected) == 0 {
			return nil
		}
		return t.observe(ctx, in)
	}
	in, verdict, err := t.appraise(ctx, in)
	if err != nil {
		return err
	}
	if onlyLogMissing(verdict) {
		t.want(wire.WantLog)
		return nil
	}
	if verdict.Outcome == attestation.Affirmed && !fresh.challenge && t.unknownSinceRestore() {
		t.want(wire.WantQuote) // what was known of the device may be out of date: it begins again over a challenge
		return nil
	}
	if verdict.Outcome == attestation.Affirmed && !fresh.challenge && t.claims.Boot != nil && t.claims.Boot.Result == "ok" {
		t.want(wire.WantQuote) // a trial boot is proven over a challenge only
		return nil
	}
	return t.conclude(in, verdict, fresh)
}

// appraise asks the verifier. Evidence that matches nothing expected is asked about once more, with the releases that
// the device may have been offered before and with those that it has left: only then do they make the record larger.
func (t *turn) appraise(ctx context.Context, in attestation.Input) (attestation.Input, attestation.Verdict, error) {
	in, verdict, err := t.ask(ctx, in)
	if err == nil && slices.Contains(verdict.Reasons(), reason.PCRMismatch) {
		if wide, more := t.widen(in); more {
			in, verdict, err = t.askAnew(ctx, wide)
		}
	}
	if err != nil {
		return in, attestation.Verdict{}, fmt.Errorf("cannot appraise the Evidence: %w", err)
	}
	return in, verdict, nil
}

// conclude lets fleet decide, keeps the appraisal for good, and says what the device is told.
func (t *turn) conclude(in attestation.Input, verdict attestation.Verdict, fresh freshness) error {
	appraisal, err := t.s.record(t.product, t.d, in, verdict, t.now)
	if err != nil {
		return err
	}
	var counter uint64
	if release, ok := t.product.Release(verdict.Release); ok {
		counter = release.Statement.Predicate.Counter
	}
	step := fleet.Prove(t.d, t.q, fleet.Proof{
		At: t.now, Verdict: verdict, Appraisal: appraisal.ID, Challenge: fresh.challenge, Issued: fresh.issued,
		Counter: counter, LogDigest: in.Evidence.LogDigest, Grounds: t.product.Grounds(t.d.Profile), Basis: basisOf(appraisal),
	}, t.s.set.Terms)
	if step.NeedsChallenge {
		t.refuse(step.Reasons...)
		t.want(wire.WantQuote)
		return nil
	}
	if denial, denied := fleet.Denied(step.Device, t.denials); denied && verdict.Outcome == attestation.Affirmed {
		t.applyDenied(step, denial)
		t.change.Writes = append(t.change.Writes, store.AddAppraisal{Appraisal: appraisal})
		return nil
	}
	if err := t.observeDifference(in, verdict); err != nil {
		return err
	}
	t.apply(step)
	t.compare(verdict, appraisal)
	t.change.Writes = append(t.change.Writes, store.AddAppraisal{Appraisal: appraisal})
	if len(t.sentLog) > 0 && authentic(verdict) && digest.Of(t.sentLog) == in.Evidence.LogDigest {
		t.change.Writes = append(t.change.Writes, store.AddLog{Digest: in.Evidence.LogDigest, Bytes: t.sentLog})
	}
	t.answer.Verdict, t.answer.Release = string(verdict.Outcome), verdict.Release
	if t.d.Standing == fleet.Affirmed && verdict.Outcome == attestation.Affirmed {
		t.answer.LeaseUntil = t.d.LeaseUntil.Unix()
	}
	effect, refused := reason.Strongest(verdict.Reasons())
	t.accepted = !refused || effect == reason.Quarantine
	t.stuck = refused && effect != reason.Quarantine && fresh.challenge // a challenge quote failed: the next poll tries again
	t.challenged = verdict.Outcome == attestation.Affirmed && fresh.challenge
	return nil
}

// applyDenied takes over what a good quote of a denied TPM shows of its clock and firmware, and nothing of what it would
// be worth: the device hears no verdict, gets no lease and does not recover.
func (t *turn) applyDenied(proven fleet.Step, denial fleet.Denial) {
	d := t.d
	d.Accepted, d.LastEvidence, d.LogDigest = proven.Device.Accepted, proven.Device.LastEvidence, proven.Device.LogDigest
	step, _ := fleet.Deny(d, t.q, denial, t.now)
	t.apply(step)
	t.accepted = true
}

// authentic says that the quote was signed by the device's key over this very poll: what it commits to is the
// device's own. Nothing that anybody could send is kept under a digest that others rely on.
func authentic(v attestation.Verdict) bool {
	return !slices.ContainsFunc(v.Reasons(), func(r reason.Reason) bool {
		switch r {
		case reason.QuoteMalformed, reason.QuoteSignatureInvalid, reason.AKUnknown, reason.AKNotBound,
			reason.NonceUnknown, reason.NonceReused, reason.NonceExpired, reason.EventlogMissing:
			return true
		}
		return false
	})
}

// freshness is what the quote was fresh against.
type freshness struct {
	nonce     []byte
	challenge bool
	issued    time.Time
}

func (t *turn) freshness(ctx context.Context) (freshness, reason.Reason, error) {
	if len(t.claims.Challenge) > 0 {
		issued, why := t.s.challenges.Check(t.claims.Challenge, attestation.PurposePoll, t.d.ID, t.now)
		return freshness{nonce: t.claims.Challenge, challenge: true, issued: issued}, why, nil
	}
	beacon, err := t.s.store.Beacon(ctx, t.claims.Timestamp)
	if errors.Is(err, store.ErrNotFound) {
		return freshness{}, reason.NonceUnknown, nil
	}
	if err != nil {
		return freshness{}, "", fmt.Errorf("cannot look the beacon up: %w", err)
	}
	if beacon.Version <= t.s.set.Floor {
		return freshness{}, reason.NonceUnknown, nil // a quote over it may have been recorded before the restore
	}
	if t.now.Sub(beacon.IssuedAt) > t.s.set.BeaconWindow {
		return freshness{}, reason.NonceExpired, nil
	}
	return freshness{nonce: t.claims.Timestamp[:], issued: beacon.IssuedAt}, "", nil
}

// Bounds of what widen adds: the nearest ones count.
const (
	maxOffered    = 8
	maxSuperseded = 16
)

func (t *turn) input(e attestation.Evidence, f freshness, baseline *reference.Baseline) attestation.Input {
	in := attestation.Input{
		Evidence: e,
		AK:       attestation.AK{Public: t.d.AKPublic, QualifiedSigner: t.d.AKQualifiedSigner},
		Binding: attestation.Binding{
			Purpose: attestation.PurposePoll, Nonce: f.nonce, Device: t.d.ID, Exporter: t.exporter,
			LogDigests: []digest.SHA256{e.LogDigest}, Claims: digest.Of(t.request.Claims),
		},
		Challenge: f.challenge, Last: t.d.Accepted, Baseline: baseline, Policy: t.product.VerdictPolicy(),
	}
	in.Evidence.Log, t.sentLog = nil, e.Log
	for _, r := range t.product.Releases {
		if x, ok := t.product.Expectation(r, t.d.HardwareID); ok && t.expected(r) {
			in.Expected = append(in.Expected, x)
		}
	}
	return in
}

// expected says that the device may have booted the release.
func (t *turn) expected(r *repository.Release) bool {
	if t.unknownSinceRestore() && !r.Statement.Predicate.Recovery && r.Statement.Predicate.Counter >= t.d.HighCounter {
		return true // it may have been offered in the history that was lost
	}
	return t.product.Expects(t.d, r)
}

// widen adds the releases that the device may have installed from an offer that is closed by now, and those that it has
// left; more is false when there are none.
func (t *turn) widen(in attestation.Input) (wide attestation.Input, more bool) {
	in.Expected = slices.Clone(in.Expected)
	offered := 0
	for _, r := range t.product.Releases {
		x, ok := t.product.Expectation(r, t.d.HardwareID)
		if !ok || t.expected(r) {
			continue
		}
		counter := r.Statement.Predicate.Counter
		switch {
		case t.d.MayBoot(counter) && !r.Statement.Predicate.Recovery && offered < maxOffered:
			offered++
			in.Expected = append(in.Expected, x)
		case counter < t.d.HighCounter && len(in.Superseded) < maxSuperseded:
			in.Superseded = append(in.Superseded, x)
		}
	}
	return in, offered+len(in.Superseded) > 0
}

// eventLog finds the log that the quote commits to: sent now, or kept from before. nil when neither has it.
func (t *turn) eventLog(ctx context.Context, e attestation.Evidence) ([]byte, error) {
	if len(t.sentLog) > 0 {
		return t.sentLog, nil
	}
	b, err := t.s.store.Log(ctx, e.LogDigest)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load the event log: %w", err)
	}
	return b, nil
}

func onlyLogMissing(v attestation.Verdict) bool {
	rs := v.Reasons()
	return len(rs) == 1 && rs[0] == reason.EventlogMissing
}
