package provenance

import (
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// BaselineResult is what the bundles of a baseline prove. Statement and Signers count only if Refusals is empty.
type BaselineResult struct {
	Statement artifacts.BaselineStatement
	Signers   []string // names of the baseline signers whose signatures verified, sorted
	Refusals  []artifacts.Refusal
}

// VerifyBaseline holds the bundles of a platform baseline against the baseline signers that the product's policy names,
// as VerifyAll does with a release and its publishers. A publisher is no baseline signer unless the policy says so, and
// the other way round; nor does a signed release statement pass for a baseline. It does not ask whether a newer
// generation is there. It returns artifacts.ErrPolicy or ErrTrustedRoot if nothing can be decided.
func VerifyBaseline(bundles [][]byte, policy artifacts.Policy, opts Options) (BaselineResult, error) {
	if err := policy.Validate(); err != nil {
		return BaselineResult{}, err
	}
	if policy.Baselines == nil {
		return BaselineResult{Refusals: []artifacts.Refusal{{Reason: reason.BaselineRefused,
			Detail: fmt.Sprintf("the offline policy of %q names no baseline signers, so the offline targets role alone signs baselines%slet the holders name signers: cordon-sign product set",
				policy.Product, NextMark)}}}, nil
	}
	signers := policy
	signers.Publishers, signers.Threshold = policy.Baselines.Signers, policy.Baselines.Threshold
	v, err := newVerifier(signers, baselineSigners, readBaseline, opts)
	if err != nil {
		return BaselineResult{}, err
	}
	payload, names, refusals := v.all(bundles, signers.Threshold)
	res := BaselineResult{Signers: names, Refusals: refusals}
	for i := range res.Refusals {
		res.Refusals[i].Reason = reason.BaselineRefused
	}
	if len(refusals) > 0 {
		return res, nil
	}
	if res.Statement, err = artifacts.DecodeBaselineStatement(payload); err != nil {
		return BaselineResult{}, err
	}
	return res, nil
}

// ClaimedBaseline reads the statement that a bundle claims to sign, so that the right policy can be found and people can
// look at it. Nothing is verified. It returns ErrNoStatement for a document that carries none.
func ClaimedBaseline(bundleJSON []byte) (artifacts.BaselineStatement, error) {
	if len(bundleJSON) > artifacts.MaxBundleBytes {
		return artifacts.BaselineStatement{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrNoStatement, len(bundleJSON), artifacts.MaxBundleBytes)
	}
	var b struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(bundleJSON, &b); err != nil {
		return artifacts.BaselineStatement{}, fmt.Errorf("%w: %w", ErrNoStatement, err)
	}
	statement, err := artifacts.DecodeBaselineStatement(b.Envelope.Payload)
	if err != nil {
		return artifacts.BaselineStatement{}, fmt.Errorf("%w: %w", ErrNoStatement, err)
	}
	return statement, nil
}
