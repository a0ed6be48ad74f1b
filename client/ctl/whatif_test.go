package main_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
	main "github.com/cordon-ota/cordon/client/ctl"
)

// A boot chain has no measurement of its own that could be withdrawn, so the server stops to expect it. A question about another
// policy must be answered as the server would.
func TestWithdrawnBootChainsAreNotExpectedUnderAnotherPolicy(t *testing.T) {
	t.Parallel()
	image := func(name string) digest.SHA256 { return digest.Of([]byte(name)) }
	chain := func(name string) attestation.Expectation {
		return attestation.Expectation{Release: "gateway/" + name, Values: reference.Values{Version: reference.VersionShapes, Image: image(name), Boot: reference.BootChain}}
	}
	uki := attestation.Expectation{Release: "gateway/uki", Values: evidencetest.Release("gateway/uki")}
	policy := func(withdrawn ...digest.SHA256) []byte {
		b, err := artifacts.Policy{Version: artifacts.PolicyVersion, Product: "gateway", Threshold: 1, Withdrawn: withdrawn,
			Publishers: []artifacts.Publisher{{Name: "ci", Issuer: "https://ci.example", Subject: "ci"}}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	in := attestation.Input{Expected: []attestation.Expectation{chain("1"), chain("2"), uki}, Superseded: []attestation.Expectation{chain("0"), chain("1")}}
	names := func(all []attestation.Expectation) (out []string) {
		for _, x := range all {
			out = append(out, x.Release)
		}
		return out
	}
	got, err := main.Under(in, policy(image("0"), image("2"), uki.Values.Image)) // a UKI is named by its measurement
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"gateway/1", "gateway/uki"}, names(got.Expected)); diff != "" {
		t.Errorf("expected (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gateway/1"}, names(got.Superseded)); diff != "" {
		t.Errorf("superseded (-want +got):\n%s", diff)
	}
	if len(in.Expected) != 3 || names(in.Expected)[1] != "gateway/2" {
		t.Errorf("what is recorded changed: %q", names(in.Expected))
	}
	in.Expected = in.Expected[:1]
	if _, err := main.Under(in, policy(image("1"))); !errors.Is(err, main.ErrNothingExpected) {
		t.Errorf("everything withdrawn: got %v, want %v", err, main.ErrNothingExpected)
	}
}
