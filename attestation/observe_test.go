package attestation_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// Observe asks all that Appraise asks, but for the platform's own registers: over every negative case it finds what
// Appraise finds, except what the baseline says.
func TestObserveLeavesOutTheBaselineOnly(t *testing.T) {
	t.Parallel()
	platform := func(f attestation.Finding) bool {
		return strings.HasPrefix(f.Detail, "the firmware is not that of platform")
	}
	sound := 0
	for _, c := range evidencetest.Cases() {
		if c.Stage == evidencetest.StageDocument || c.Large {
			continue
		}
		in := c.Input()
		v, err := attestation.Appraise(in)
		seen, seenErr := attestation.Observe(in)
		if c.Stage == evidencetest.StageInput && in.Baseline != nil && len(in.Baseline.PCRs) == 4 {
			if !errors.Is(seenErr, attestation.ErrUndecidable) || seen.Sound() {
				t.Errorf("%s: got %+v, %v, want ErrUndecidable", title(c), seen, seenErr)
			}
			continue
		}
		if err != nil {
			continue // the baseline was what is missing
		}
		var rest []attestation.Finding
		for _, f := range v.Findings {
			if !platform(f) {
				rest = append(rest, f)
			}
		}
		if seenErr != nil || cmp.Diff(rest, seen.Findings) != "" {
			t.Errorf("%s: %v, findings (-Appraise +Observe):\n%s", title(c), seenErr, cmp.Diff(rest, seen.Findings))
		}
		if got := seen.Sound(); got != (len(rest) == 0) {
			t.Errorf("%s: sound is %t with %d findings beside the platform", title(c), got, len(rest))
		}
		if seen.Evidence != v.Evidence {
			t.Errorf("%s: another Evidence digest", title(c))
		}
		if seen.Sound() {
			sound++
		}
	}
	if sound == 0 {
		t.Error("no case is sound: the test shows nothing")
	}
}

// A platform that nobody has described yet is what it is for; its registers have to be quoted all the same.
func TestObserveNeedsNoBaseline(t *testing.T) {
	t.Parallel()
	s := evidencetest.NewScenario("observe", evidencetest.Current)
	s.Baseline = nil
	if seen, err := attestation.Observe(s.Input()); err != nil || !seen.Sound() || seen.Release != evidencetest.Current {
		t.Errorf("got %+v, %v", seen, err)
	}
	s.Quoted = []int{0, 2, 3, 4, 9, 11, 12}
	s.Policy.RequiredPCRs = []int{4}
	if seen, err := attestation.Observe(s.Input()); err != nil || seen.Sound() {
		t.Errorf("without PCR 7: got %+v, %v", seen, err)
	}
	s.Expected = nil
	if _, err := attestation.Observe(s.Input()); !errors.Is(err, attestation.ErrUndecidable) {
		t.Errorf("without a release: %v", err)
	}
}
