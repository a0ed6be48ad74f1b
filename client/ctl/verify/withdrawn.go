package verify

import (
	"maps"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// A withdrawal takes a release out of the product's signed metadata. Devices proved it before, and one that boots it
// again is refused for it: the report must still explain both. That the release is gone from the metadata is right
// exactly when a policy that the offline role signed withdraws one of its images; everything else about it is checked as
// ever. The server cannot make such a policy, so it cannot bring in a release this way that nobody withdrew.

// gone reports whether the signed metadata has no part of a release because the offline role withdrew it.
func (v *verification) gone(r artifacts.Release) bool {
	for _, c := range r.Components {
		if _, _, there := v.image.Target(artifacts.TargetPath(r.Product, r.Version, c.Name)); there {
			return false // the server signs all of a release or nothing
		}
	}
	return v.withdrawnBy(r, func(signedPolicy) bool { return true })
}

// withdrawnNow reports whether a current policy withdraws a release.
func (v *verification) withdrawnNow(r artifacts.Release) bool {
	return v.withdrawnBy(r, func(p signedPolicy) bool { return !p.past })
}

// withdrawnBy reports whether one of the signed policies of the release's product that count withdraws one of its images.
func (v *verification) withdrawnBy(r artifacts.Release, counts func(signedPolicy) bool) bool {
	for _, policy := range v.policies {
		if policy.Product == r.Product && counts(policy) && withdraws(policy.Policy, r) {
			return true
		}
	}
	return false
}

func withdraws(p artifacts.Policy, r artifacts.Release) bool {
	return slices.ContainsFunc(r.Components, func(c artifacts.Component) bool { return slices.Contains(p.Withdrawn, c.SHA256) })
}

// withdrawn lists the verified releases that the offline role withdrew.
func (v *verification) withdrawn() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(v.proven)) {
		if v.proven[name].withdrawn {
			out = append(out, name)
		}
	}
	return out
}

// expects reports whether the verifier took a release for a state that the device could be in.
func expects(p api.Appraisal, name string) bool {
	for _, x := range slices.Concat(p.Input.Expected, p.Input.Superseded) {
		if x.Release == name {
			return true
		}
	}
	return false
}

// takes reports whether the verifier would have affirmed these very values of a release.
func takes(p api.Appraisal, name string, values reference.Values) bool {
	return slices.ContainsFunc(p.Input.Expected, func(x attestation.Expectation) bool {
		return x.Release == name && sameJSON(x.Values, values)
	})
}
