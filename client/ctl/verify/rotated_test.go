package verify_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
)

// rotatedBy is the rotation from one attestation key to the next, certified by signer.
func rotatedBy(signer, before, after evidencetest.AK) api.Succession {
	s := api.Succession{Before: before.Public, After: after.Public, Transcript: digest.Of([]byte("enrollment"))}
	s.Certify, s.CertifySignature = signer.Certify(evidencetest.CertifySpec{ExtraData: s.Transcript[:], Name: after.Name()})
	return s
}

// Appraisals from before a rotation are under the old key; the report shows that this key vouched for the next one.
func TestAppraisalsOfARotatedKeyAreVerified(t *testing.T) {
	t.Parallel()
	first := shared().Devices[0].Scenario.AK
	second, third := evidencetest.NewAK(evidencetest.Seed("second ak")), evidencetest.NewAK(evidencetest.Seed("third ak"))
	for name, test := range map[string]struct {
		chain []api.Succession
		step  string
		says  string
	}{
		"twice":                {[]api.Succession{rotatedBy(first, first, second), rotatedBy(second, second, third)}, "", ""},
		"without a word of it": {nil, verify.StepAppraisals, "another attestation key than the registered one"},
		"the first left out":   {[]api.Succession{rotatedBy(second, second, third)}, verify.StepAppraisals, "another attestation key"},
		"the last left out":    {[]api.Succession{rotatedBy(first, first, second)}, verify.StepDevices, "does not lead to the next one"},
		"certified by the new": {[]api.Succession{rotatedBy(first, first, second), rotatedBy(third, second, third)}, verify.StepDevices, "is not certified"},
		"another certified":    {[]api.Succession{rotatedBy(first, first, second), {Before: second.Public, After: third.Public}}, verify.StepDevices, "is not certified"},
	} {
		r := copied(t)
		r.Devices[0].AKPublic, r.Devices[0].Successions = third.Public, test.chain
		got := check(shared().Sign(r))
		if step, says := failing(got); step != test.step || !strings.Contains(says, test.says) {
			t.Errorf("%s: %s at %q: %s", name, got.Outcome, step, says)
		}
	}
}

// A device without an endorsement certificate is of a low tier, and the auditor hears whose word it rests on.
func TestBareDeviceRestsOnTheWordOfPeople(t *testing.T) {
	t.Parallel()
	bare := func(tier int) verify.Result {
		r := copied(t)
		d := &r.Devices[0]
		d.EKCertificate, d.EKPublic, d.Device.Tier = nil, shared().Devices[0].EK.SPKI, tier
		return check(shared().Sign(r))
	}
	got := bare(2)
	if got.Outcome != verify.Verified || !strings.Contains(strings.Join(got.Trusted, "\n"), "without an endorsement certificate") {
		step, says := failing(got)
		t.Errorf("tier 2: %s at %q: %s; trusted %q", got.Outcome, step, says, got.Trusted)
	}
	got = bare(4)
	if step, says := failing(got); step != verify.StepDevices || !strings.Contains(says, "is of tier 4") {
		t.Errorf("tier 4: %s at %q: %s", got.Outcome, step, says)
	}
}
