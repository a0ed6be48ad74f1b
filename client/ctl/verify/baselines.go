package verify

import (
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/client/api"
)

// signedBaselines takes the platform baselines that baseline signers signed. Each has to verify under a policy of its
// product that the offline role signed: the current one, or one that was replaced. What the report says beside the
// bundles counts for nothing.
func (v *verification) signedBaselines() {
	known := map[string]bool{}
	for _, record := range v.r.Baselines {
		v.count()
		name := fmt.Sprintf("baseline %d of %s for profile %s", record.Generation, record.Product, record.Profile)
		if known[name] {
			v.fail("%s is there twice", name)
			continue
		}
		known[name] = true
		result, past, err := v.baselineSigners(record)
		if err != nil && v.r.Coverage.Truncated && len(v.order) > 0 {
			v.cannot("%s: %v; the report was cut at its limits, so an older policy may be missing", name, err)
			continue
		}
		if err != nil {
			v.fail("%s: %v", name, err)
			continue
		}
		signed := result.Statement.Predicate
		if signed.Product != record.Product || signed.Profile != record.Profile || signed.Generation != record.Generation {
			v.fail("%s: its signers signed generation %d of %s for profile %s", name, signed.Generation, signed.Product, signed.Profile)
			continue
		}
		if past {
			v.believe("%s was signed under a policy that has been replaced since", name)
		}
		sum := result.Statement.Subject[0].Digest.SHA256
		v.baselines[sum] = append(v.baselines[sum], signedBaseline{
			Baseline: signed.Baseline(), product: signed.Product, profile: signed.Profile, generation: signed.Generation,
		})
	}
}

// baselineSigners finds a policy under which the baseline counts.
func (v *verification) baselineSigners(record api.SignedBaseline) (result provenance.BaselineResult, past bool, err error) {
	err = fmt.Errorf("there is no signed policy for product %q", record.Product)
	roots := v.sigstore
	if len(roots) == 0 {
		roots = [][]byte{nil}
	}
	first := true
	for _, sum := range v.order {
		policy := v.policies[sum]
		if policy.Product != record.Product {
			continue
		}
		for _, root := range roots {
			result, again := provenance.VerifyBaseline(record.Bundles, policy.Policy, provenance.Options{TrustedRootJSON: root})
			if again == nil && len(result.Refusals) > 0 {
				again = errors.New(result.Refusals[0].Detail)
			}
			if again == nil {
				return result, policy.past, nil
			}
			if first {
				err, first = again, false // the current policy explains best
			}
		}
	}
	return provenance.BaselineResult{}, false, err
}
