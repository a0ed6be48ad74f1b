package verify_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
)

func forgottenBy(before evidencetest.AK, people ...string) api.Succession {
	return api.Succession{Before: before.Public, Forgotten: people}
}

// Appraisals under a key that people had forgotten are verified, and the auditor hears whose word the next key rests on.
func TestAppraisalsOfAForgottenKeyAreVerified(t *testing.T) {
	t.Parallel()
	first := shared().Devices[0].Scenario.AK
	second, third := evidencetest.NewAK(evidencetest.Seed("second ak")), evidencetest.NewAK(evidencetest.Seed("third ak"))
	both := forgottenBy(second, "ann", "bob")
	both.After, both.Certify = third.Public, []byte{1}
	for name, test := range map[string]struct {
		now   []byte
		chain []api.Succession
		step  string
		says  string
	}{
		"forgotten":              {third.Public, []api.Succession{forgottenBy(first, "ann", "bob")}, "", ""},
		"not enrolled since":     {nil, []api.Succession{forgottenBy(first, "ann", "bob")}, "", ""},
		"rotated and forgotten":  {third.Public, []api.Succession{rotatedBy(first, first, second), forgottenBy(second, "ann", "bob")}, "", ""},
		"twice":                  {third.Public, []api.Succession{forgottenBy(first, "ann", "bob"), forgottenBy(second, "ann", "bob")}, "", ""},
		"and rotated since":      {third.Public, []api.Succession{forgottenBy(first, "ann", "bob"), rotatedBy(second, second, third)}, "", ""},
		"no key and no word":     {nil, nil, verify.StepDevices, "nobody had one forgotten"},
		"no key after rotation":  {nil, []api.Succession{rotatedBy(first, first, second)}, verify.StepDevices, "does not lead to the next one"},
		"by one person":          {third.Public, []api.Succession{forgottenBy(first, "ann", "ann")}, verify.StepDevices, "one person alone"},
		"rotated and forgotten?": {third.Public, []api.Succession{rotatedBy(first, first, second), both}, verify.StepDevices, "both rotated and forgotten"},
		"another key forgotten":  {third.Public, []api.Succession{forgottenBy(second, "ann", "bob")}, verify.StepAppraisals, "another attestation key than the registered one"},
		"what is no key":         {third.Public, []api.Succession{{Before: []byte{1, 2}, Forgotten: []string{"ann", "bob"}}}, verify.StepDevices, "an attestation key of before"},
	} {
		r := copied(t)
		r.Devices[0].AKPublic, r.Devices[0].Successions = test.now, test.chain
		got := check(shared().Sign(r))
		if step, says := failing(got); step != test.step || !strings.Contains(says, test.says) {
			t.Errorf("%s: %s at %q: %s", name, got.Outcome, step, says)
		}
		if told := strings.Contains(strings.Join(got.Trusted, "\n"), "ann and bob had an attestation key forgotten"); test.step == "" && !told {
			t.Errorf("%s: the auditor is not told: %q", name, got.Trusted)
		}
	}
}

// Keys that are not there are not one key of two devices.
func TestTwoDevicesWithoutAKeyShareNone(t *testing.T) {
	t.Parallel()
	r := copied(t)
	for i := range r.Devices {
		d := &r.Devices[i]
		d.Successions = append(d.Successions, api.Succession{Before: d.AKPublic, Forgotten: []string{"ann", "bob"}})
		d.AKPublic = nil
	}
	if got := check(shared().Sign(r)); got.Outcome != verify.Verified {
		step, says := failing(got)
		t.Errorf("%s at %q: %s", got.Outcome, step, says)
	}
}
