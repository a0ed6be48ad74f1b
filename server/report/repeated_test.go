package report_test

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// Evidence of yesterday that was appraised again today comes with the appraisal that it repeats, and the device was not
// proven today.
func TestRepetitionsComeWithWhatTheyRepeat(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	of := s.w.Appraisals[2]
	p := of
	p.At, p.Repeats = verifytest.Noon.Add(12*time.Hour), verifytest.AppraisalID(of)
	p.Input.Expected = p.Input.Expected[:1] // the release that it proved comes first
	in := p.Input
	in.Log = s.w.Logs[in.Evidence.LogDigest.String()]
	verdict, err := attestation.Appraise(in)
	if err != nil || verdict.Outcome != attestation.Affirmed {
		t.Fatalf("got %+v, %v", verdict, err)
	}
	input, err := json.Marshal(p.Input, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	row := store.Appraisal{
		ID: verifytest.AppraisalID(p), Device: p.Device, Product: verifytest.Product, At: p.At, Outcome: string(verdict.Outcome), Release: verdict.Release,
		Input: input, Verifier: p.Verifier, Policy: p.PolicySHA256, Baseline: p.BaselineSHA256, Repeats: p.Repeats,
	}
	if row.Verdict, err = verdict.Marshal(); err != nil {
		t.Fatal(err)
	}
	s.commit(t, store.Change{Writes: []store.Write{store.AddAppraisal{Appraisal: row}}, Events: []store.Event{{
		At: p.At, Type: audit.AppraisalRepeated, Actor: "sweeper", Subject: p.Device, Data: map[string]any{"appraisal": row.ID.String(), "outcome": "affirmed"},
	}}})
	got := s.verify(s.make(t, verifytest.Noon.Add(10*time.Hour), verifytest.Noon.Add(24*time.Hour), ""))
	wantOutcome(t, got, verify.Verified)
	if diff := cmp.Diff(api.Coverage{InScope: 2, Stale: 1, Never: 1}, got.Coverage); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
	var numbers []int64
	for _, p := range got.Report.Appraisals {
		numbers = append(numbers, p.Number)
	}
	if diff := cmp.Diff([]int64{3, 4, 5}, numbers); diff != "" { // 4 is cited by a quarantine
		t.Errorf("appraisals (-want +got):\n%s", diff)
	}
}
