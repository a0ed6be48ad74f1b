package evidencetest_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// What a case sends as a device gets the outcome and the reasons of the case from a verifier that knows nothing of it.
func TestSentCasesHaveTheirOutcome(t *testing.T) {
	t.Parallel()
	asked := 0
	for _, c := range evidencetest.Cases() {
		s := evidencetest.NewScenario("another device", evidencetest.Current)
		s.Clock.ResetCount += 4
		verifier := *s
		verifier.Accept()
		sent, why := c.Send(s)
		if why != "" {
			continue
		}
		asked++
		in := verifier.Input()
		if !sent.After {
			in.Last = nil
			if sent.Beacon {
				verifier.Clock.Clock--
				verifier.Accept()
				in.Last = verifier.Last
			}
		}
		in.Challenge = !sent.Beacon
		b, err := json.Marshal(sent.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		in.Evidence, err = attestation.DecodeEvidence(b)
		if errors.Is(err, attestation.ErrMalformed) || errors.Is(err, attestation.ErrTooLarge) {
			if c.Stage == evidencetest.StageAffirmed {
				t.Errorf("%s %s: %v", c.ID, c.Name, err)
			}
			continue
		}
		in.Log, in.Evidence.Log = in.Evidence.Log, nil
		in.Binding.LogDigests = []digest.SHA256{in.Evidence.LogDigest}
		v, err := attestation.Appraise(in)
		if err != nil {
			t.Errorf("%s %s: %v", c.ID, c.Name, err)
			continue
		}
		for _, r := range c.Reasons {
			if !slices.Contains(v.Reasons(), r) {
				t.Errorf("%s %s: got %v, want %v", c.ID, c.Name, v.Reasons(), c.Reasons)
			}
		}
		if v.Outcome != c.Outcome() {
			t.Errorf("%s %s: got %s %v, want %s %v", c.ID, c.Name, v.Outcome, v.Reasons(), c.Outcome(), c.Reasons)
		}
	}
	if asked < 120 {
		t.Errorf("only %d cases can be sent", asked)
	}
}

// Cases that nobody can ask say so, and those of a document are no Evidence.
func TestSendSaysWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.CasesOf(evidencetest.StageDocument, evidencetest.StageInput) {
		if _, why := c.Send(evidencetest.NewScenario("another device", evidencetest.Current)); why == "" {
			t.Errorf("%s %s is sent", c.ID, c.Name)
		}
	}
}
