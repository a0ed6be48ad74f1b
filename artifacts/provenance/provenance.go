// Package provenance answers "who built this?": it holds the Sigstore bundles of a release against the publishers that
// the product's offline policy names.
//
// It promises that a Result without refusals comes from at least Policy.Threshold different publishers who signed the
// same statement bytes, and that the statement was decoded strictly from exactly these bytes. It refuses everything
// else with publisher_refused and a sentence that a pipeline's owner can act on; an error means that the policy or the
// trusted root cannot be used, so nothing was decided. It asks no network and no clock, and it does not ask whether the
// release is current, allowed or meant for this device.
//
// Trusted: an attacker who controls this code can pass any release off as published.
package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// Limits on what is parsed.
const (
	MaxBundles          = 16
	MaxTrustedRootBytes = 1 << 20
)

// ErrTrustedRoot is returned when Options.TrustedRootJSON is not a Sigstore trusted root.
var ErrTrustedRoot = errors.New("sigstore/trusted_root.json cannot be used")

// Options is what verification needs beside the policy.
type Options struct {
	// TrustedRootJSON is the target sigstore/trusted_root.json of the offline targets role. Optional: without it only
	// publishers with a key can be verified.
	TrustedRootJSON []byte
}

// Result is what the bundles prove. Statement and Signers count only if Refusals is empty.
type Result struct {
	Statement artifacts.Statement
	Signers   []string // names of the publishers whose signatures verified, sorted
	Refusals  []artifacts.Refusal
}

// Verify checks the document beside a release (artifacts.BundleSuffix): one bundle, or several one after the other, as
// in a JSON Lines file, where the policy asks for more than one publisher. It returns artifacts.ErrPolicy or
// ErrTrustedRoot if nothing can be decided.
func Verify(bundleJSON []byte, policy artifacts.Policy, opts Options) (Result, error) {
	if err := policy.Validate(); err != nil {
		return Result{}, err
	}
	bundles, err := Split(bundleJSON)
	if err != nil {
		return Result{Refusals: []artifacts.Refusal{refusal("the bundle document cannot be read: %v", err)}}, nil
	}
	return VerifyAll(bundles, policy, opts)
}

// VerifyAll is Verify for bundles that are apart already. Every bundle must verify, and all must sign the same bytes.
func VerifyAll(bundles [][]byte, policy artifacts.Policy, opts Options) (Result, error) {
	v, err := newVerifier(policy, publishers, readRelease, opts)
	if err != nil {
		return Result{}, err
	}
	payload, signers, refusals := v.all(bundles, policy.Threshold)
	res := Result{Signers: signers, Refusals: refusals}
	if len(refusals) > 0 {
		return res, nil // nobody must act on the statement
	}
	if res.Statement, err = artifacts.DecodeStatement(payload); err != nil {
		return Result{}, err
	}
	return res, nil
}

// all holds every bundle against the policy: each must verify, all must sign the same bytes, and threshold different
// publishers must be among them. The payload counts only without refusals.
func (v *verifier) all(bundles [][]byte, threshold int) (payload []byte, signers []string, refusals []artifacts.Refusal) {
	if len(bundles) < 1 || len(bundles) > MaxBundles {
		return nil, nil, []artifacts.Refusal{refusal("there are %d bundles, want 1 to %d: sign it with a %s of the policy", len(bundles), MaxBundles, v.role.who)}
	}
	for i, b := range bundles {
		signed, err := v.verify(b)
		if err != nil {
			refusals = append(refusals, refusal("bundle %d of %d: %v", i+1, len(bundles), err))
			continue
		}
		if payload == nil {
			payload = signed.payload
		} else if !bytes.Equal(payload, signed.payload) {
			refusals = append(refusals, refusal("bundle %d of %d signs other bytes than the first: the builds are not the same, rebuild them from the same commit", i+1, len(bundles)))
			continue
		}
		if !slices.Contains(signers, signed.publisher) {
			signers = append(signers, signed.publisher)
		}
	}
	slices.Sort(signers)
	if len(signers) < threshold {
		refusals = append(refusals, refusal("%d of the %d different %ss that the policy asks for have signed %q: add the bundles of others", len(signers), threshold, v.role.who, signers))
	}
	return payload, signers, refusals
}

// Split cuts a document into its top-level JSON values, at most MaxBundles of them.
func Split(document []byte) ([][]byte, error) {
	if len(document) > artifacts.MaxBundleBytes {
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(document), artifacts.MaxBundleBytes)
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(document))
	var out [][]byte
	for {
		value, err := d.ReadValue()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(out) == MaxBundles {
			return nil, fmt.Errorf("it has more than %d bundles", MaxBundles)
		}
		out = append(out, bytes.Clone(value))
	}
}

func refusal(format string, args ...any) artifacts.Refusal {
	detail := fmt.Sprintf(format, args...)
	if len(detail) > maxDetail {
		what, next, _ := strings.Cut(detail, NextMark) // what to do is worth more than all of what was seen
		next = next[:min(len(next), maxDetail/2)]
		detail = what[:min(len(what), maxDetail-len(next))] + "..."
		if next != "" {
			detail += NextMark + next
		}
	}
	return artifacts.Refusal{Reason: reason.PublisherRefused, Detail: detail}
}

// maxDetail bounds a refusal's text: parts of it come from the bundle.
const maxDetail = 960

// parseTrustedRoot reads the trusted root; nil bytes give nil.
func parseTrustedRoot(b []byte) (tr *root.TrustedRoot, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > MaxTrustedRootBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrTrustedRoot, len(b), MaxTrustedRootBytes)
	}
	defer func() {
		if p := recover(); p != nil {
			tr, err = nil, fmt.Errorf("%w: the parser crashed: %v", ErrTrustedRoot, p)
		}
	}()
	tr, err = root.NewTrustedRootFromJSON(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrustedRoot, err)
	}
	return tr, nil
}
