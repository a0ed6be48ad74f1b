package appraise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// A verdict is worth what it was reached by. When the offline roles withdraw an image, ask for more or sign another
// baseline, the Evidence that devices stand on is appraised again from what is stored. Until that has happened, nobody
// gets anything new on the old verdict: the poll does it first, the artifact door refuses, and a Sweeper reaches devices
// that keep silent.

// renew appraises the stored Evidence again when the device stands on older grounds and this poll has proven nothing.
func (t *turn) renew(ctx context.Context) error {
	if t.q != nil || !t.catalog.Outdated(t.d) {
		return nil
	}
	if _, signed := t.product.Baselines[t.d.Profile]; !signed { // our gap: nothing is decided, the door stays closed
		t.refuse(reason.PolicyMissing)
		t.stuck = true
		return nil
	}
	r, writes, err := t.s.again(ctx, t.product, t.d, t.now)
	if err != nil {
		return err
	}
	t.apply(fleet.Repeat(t.d, t.q, r))
	t.change.Writes = append(t.change.Writes, writes...)
	return nil
}

// again appraises the Evidence that the device was last affirmed by under the product's grounds of now. An error means
// that it could not be read at this moment; what will not get better by waiting is Repeated.Undecided.
func (s *Service) again(ctx context.Context, p *repository.Product, d fleet.Device, now time.Time) (fleet.Repeated, []store.Write, error) {
	baseline, signed := p.Baselines[d.Profile]
	r := fleet.Repeated{At: now, Grounds: p.Grounds(d.Profile), After: fleet.Basis{Verifier: s.set.Build, Policy: p.PolicyDigest, Baseline: baseline.Digest}}
	stored, err := s.store.LastAffirmed(ctx, d.ID)
	if errors.Is(err, store.ErrNotFound) {
		r.Undecided = "the Evidence that the device was affirmed by is not stored"
		return r, nil, nil
	}
	if err != nil {
		return r, nil, fmt.Errorf("cannot load the last appraisal: %w", err)
	}
	r.Of, r.Before = stored.ID, basisOf(stored)
	release, known := p.Release(d.Proven)
	var expected attestation.Expectation
	if known {
		expected, known = p.Expectation(release, d.HardwareID)
	}
	if !signed || !known {
		r.Undecided = "the release that the device has proven is not published or not expected any more, or its platform has no baseline"
		return r, nil, nil
	}
	in, why := standsOn(stored, d)
	if why != "" {
		r.Undecided = why
		return r, nil, nil
	}
	in.Policy, in.Baseline = p.VerdictPolicy(), &baseline.Value
	in.Expected, in.Superseded = []attestation.Expectation{expected}, nil
	in.Log, err = s.store.Log(ctx, in.Evidence.LogDigest)
	if errors.Is(err, store.ErrNotFound) {
		r.Undecided = "the event log is not stored any more"
		return r, nil, nil
	}
	if err != nil {
		return r, nil, fmt.Errorf("cannot load the event log: %w", err)
	}
	return s.decideAgain(p, d, stored, in, r)
}

func (s *Service) decideAgain(p *repository.Product, d fleet.Device, stored store.Appraisal, in attestation.Input, r fleet.Repeated) (fleet.Repeated, []store.Write, error) {
	verdict, err := attestation.Appraise(in)
	if errors.Is(err, attestation.ErrUndecidable) {
		r.Undecided = err.Error()
		return r, nil, nil
	}
	if err != nil {
		return r, nil, fmt.Errorf("cannot appraise the stored Evidence: %w", err)
	}
	row, err := s.record(p, d, in, verdict, r.At)
	if err != nil {
		return r, nil, err
	}
	row.Repeats = stored.ID
	r.Verdict, r.Appraisal, r.After = verdict, row.ID, basisOf(row)
	return r, []store.Write{store.AddAppraisal{Appraisal: row}}, nil
}

// standsOn reads the Input of a stored appraisal, if the device still stands on it; why says why it does not. A device
// that was activated anew has proven nothing yet with its new key.
func standsOn(stored store.Appraisal, d fleet.Device) (in attestation.Input, why string) {
	var verdict attestation.Verdict
	if json.Unmarshal(stored.Input, &in) != nil || json.Unmarshal(stored.Verdict, &verdict) != nil {
		return in, "the stored appraisal cannot be read"
	}
	if verdict.Accepted == nil || d.Accepted == nil || verdict.Accepted.Clock != d.Accepted.Clock || !bytes.Equal(in.AK.Public, d.AKPublic) {
		return in, "the stored Evidence is not what the device stands on"
	}
	return in, ""
}

// basisOf is what an appraisal was reached with.
func basisOf(a store.Appraisal) fleet.Basis {
	return fleet.Basis{Verifier: a.Verifier, Policy: a.Policy, Baseline: a.Baseline, References: a.References}
}

// record makes the stored form of an appraisal: everything that led to it, so that it can be reached again.
func (s *Service) record(p *repository.Product, d fleet.Device, in attestation.Input, v attestation.Verdict, at time.Time) (store.Appraisal, error) {
	input, err := json.Marshal(in, json.Deterministic(true))
	if err != nil {
		return store.Appraisal{}, fmt.Errorf("cannot keep the appraisal: %w", err)
	}
	verdict, err := v.Marshal()
	if err != nil {
		return store.Appraisal{}, fmt.Errorf("cannot keep the verdict: %w", err)
	}
	references := map[string]digest.SHA256{}
	for _, x := range in.Expected {
		release, ok := p.Release(x.Release)
		if !ok {
			continue
		}
		if c, ok := release.Measured(d.HardwareID); ok && !c.ReferenceValues.IsZero() {
			references[x.Release] = c.ReferenceValues
		}
	}
	id := digest.Of(fmt.Appendf(nil, "%s\n%d\n%s", d.ID, at.UnixMicro(), digest.Of(input)))
	return store.Appraisal{
		ID: id, Device: d.ID, Product: d.Product, At: at, Outcome: string(v.Outcome), Release: v.Release, Input: input, Verdict: verdict,
		Verifier: s.set.Build, Policy: p.PolicyDigest, Baseline: p.Baselines[d.Profile].Digest, References: references,
	}, nil
}
