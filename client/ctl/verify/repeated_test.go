package verify_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// repeat adds an appraisal of the Evidence of appraisal i (from 0), as a server does when a policy has changed, and returns
// where it is.
func repeat(t *testing.T, r *api.Report, i int, change func(*api.Appraisal)) int {
	t.Helper()
	of := r.Appraisals[i]
	p := of
	p.Number, p.At, p.Repeats = r.Appraisals[len(r.Appraisals)-1].Number+1, r.To.Add(-time.Hour), verifytest.AppraisalID(of)
	p.Input.Expected = p.Input.Expected[:0:0]
	for _, x := range of.Input.Expected {
		if strings.Contains(string(of.Verdict), `"release":"`+x.Release+`"`) {
			p.Input.Expected = append(p.Input.Expected, x)
		}
	}
	if len(p.Input.Expected) == 0 { // it was refused
		p.Input.Expected = of.Input.Expected
	}
	if change != nil {
		change(&p)
	}
	r.Appraisals = append(r.Appraisals, p)
	last := len(r.Appraisals) - 1
	reappraise(t, r, last, func(*attestation.Input) {})
	return last
}

func TestRepetitionsAreToldFromNewProofs(t *testing.T) {
	t.Parallel()
	r := copied(t)
	repeat(t, &r, 2, nil)
	if got := check(shared().Sign(r)); got.Outcome != verify.Verified {
		t.Errorf("an honest repetition: %s %+v", got.Outcome, got.Steps)
	}
	for name, test := range map[string]struct {
		of     int
		change func(*api.Report, *api.Appraisal)
		says   string
	}{
		"a quote shown twice as new":   {2, func(_ *api.Report, p *api.Appraisal) { p.Repeats = digest.SHA256{} }, "does not continue from appraisal"},
		"of nothing in the report":     {2, func(_ *api.Report, p *api.Appraisal) { p.Repeats[0] ^= 1 }, "is not before it in the report"},
		"with other Evidence":          {0, func(r *api.Report, p *api.Appraisal) { p.Repeats = verifytest.AppraisalID(r.Appraisals[2]) }, "with other Evidence"},
		"of what was refused":          {3, func(*api.Report, *api.Appraisal) {}, "and says refused"},
		"with another release allowed": {2, func(r *api.Report, p *api.Appraisal) { p.Input.Expected = r.Appraisals[2].Input.Expected }, "expects another release"},
	} {
		r := copied(t)
		repeat(t, &r, test.of, func(p *api.Appraisal) { test.change(&r, p) })
		if step, says := failing(check(shared().Sign(r))); step != verify.StepAppraisals || !strings.Contains(says, test.says) {
			t.Errorf("%s: step %q says %q, want %q", name, step, says, test.says)
		}
	}
}

// A repetition shows nothing new, so a device that was silent for the whole period is not proven in it.
func TestRepetitionIsNoProofOfItsPeriod(t *testing.T) {
	t.Parallel()
	r := copied(t)
	last := repeat(t, &r, 2, nil)
	r.From = r.Appraisals[last].At.Add(-time.Minute)
	if r.Coverage.Proven != 1 {
		t.Fatalf("coverage: %+v", r.Coverage)
	}
	if step, says := failing(check(shared().Sign(r))); step != verify.StepDecisions || !strings.Contains(says, "counted are 2, 0, 1, 1") {
		t.Errorf("step %q says %q", step, says)
	}
}
