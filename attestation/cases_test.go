package attestation_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func title(c evidencetest.Case) string { return c.ID + " " + c.Name }

// Zero wrongly accepted, and each refused for the reason that is true.
func TestNegativeCases(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.Cases() {
		t.Run(title(c), func(t *testing.T) {
			t.Parallel()
			if c.Stage == evidencetest.StageDocument {
				wantNoDocument(t, c)
				return
			}
			v, err := attestation.Appraise(c.Input())
			if c.Stage == evidencetest.StageInput {
				if !errors.Is(err, attestation.ErrUndecidable) || v.Outcome != "" {
					t.Errorf("got %q, %v, want ErrUndecidable", v.Outcome, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Reasons(); v.Outcome != c.Outcome() || !slices.Equal(got, c.Reasons) {
				t.Errorf("got %s %v, want %s %v: %+v", v.Outcome, got, c.Outcome(), c.Reasons, v.Findings)
			}
			if v.Outcome == attestation.Refused && (v.Accepted != nil || v.Release != "") {
				t.Errorf("a refusal carries a result: %+v", v)
			}
		})
	}
}

func wantNoDocument(t *testing.T, c evidencetest.Case) {
	t.Helper()
	want := attestation.ErrMalformed
	if slices.Contains(c.Reasons, reason.RequestTooLarge) {
		want = attestation.ErrTooLarge
	}
	if _, err := attestation.DecodeEvidence(c.Bytes()); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// result is everything that a verifier says about a case, as one text.
func result(appraise func(attestation.Input) (attestation.Verdict, error), in attestation.Input) (said string, outcome attestation.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			said, outcome = fmt.Sprintf("panic: %v", p), "panic"
		}
	}()
	v, err := appraise(in)
	if err != nil {
		return "undecidable", evidencetest.Undecidable
	}
	b, err := v.Marshal()
	if err != nil {
		return err.Error(), "panic"
	}
	return string(b), v.Outcome
}

// Each rule is dropped in turn; a case must notice. A rule that no case notices is either untested or of no use.
func TestEveryRuleHasAKiller(t *testing.T) {
	t.Parallel()
	type known struct {
		evidencetest.Case
		in   attestation.Input
		said string
	}
	var cases []known
	for _, c := range evidencetest.CasesOf(evidencetest.StageInput, evidencetest.StageAuthentic, evidencetest.StageState, evidencetest.StageAffirmed) {
		in := c.Input()
		said, _ := result(attestation.Appraise, in)
		cases = append(cases, known{c, in, said})
	}
	for _, rule := range attestation.RuleIDs() {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			var killers, accepted []string
			for _, c := range cases {
				said, outcome := result(func(in attestation.Input) (attestation.Verdict, error) {
					return attestation.AppraiseWithout(rule, in)
				}, c.in)
				if said == c.said {
					continue
				}
				killers = append(killers, title(c.Case))
				if outcome == attestation.Affirmed && c.Outcome() != attestation.Affirmed {
					accepted = append(accepted, title(c.Case))
				}
			}
			if len(killers) == 0 {
				t.Error("no case notices that this rule is gone")
			}
			t.Logf("%d cases notice, %d are affirmed without it: %q", len(killers), len(accepted), accepted[:min(len(accepted), 3)])
		})
	}
}
