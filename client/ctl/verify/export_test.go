package verify

import (
	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// Revoked is what is wrong with what an appraisal under the policy took for withdrawn, of one verified release.
func Revoked(policy artifacts.Policy, r artifacts.Release, values map[string]reference.Values, p api.Appraisal) []error {
	name := artifacts.ReleaseName(r.Product, r.Version)
	v := verification{state: state{proven: map[string]provenRelease{name: {record: api.ReleaseRecord{Release: r}, values: values}}}}
	return v.revoked(signedPolicy{Policy: policy}, p)
}
