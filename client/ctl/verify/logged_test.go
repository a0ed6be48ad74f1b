package verify_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// A server that hides what it did: the log and its witnesses hold the event, the lists of the report lack what it is about.
func TestFindsWhatTheLogTellsAndTheReportLeavesOut(t *testing.T) {
	t.Parallel()
	missing := digest.Of([]byte("an appraisal that the server hides"))
	event := func(kind, data string) func(*api.Report) {
		return func(r *api.Report) {
			e := r.Events[1]
			r.Events[1] = verifytest.Event(e.Number, e.At, kind, "verifier", r.Quarantines[0].Device, data)
		}
	}
	quarantine := `{"quarantine":"q-hidden","by":"verifier"}`
	verdict := fmt.Sprintf(`{"appraisal":%q}`, missing)
	for _, c := range []struct {
		name   string
		change func(*api.Report)
		want   verify.Outcome
		says   string
	}{
		{"a refused verdict", event("verdict.refused", verdict), verify.Failed, "tells about appraisal " + missing.String()},
		{"an affirmed verdict", event("verdict.affirmed", verdict), verify.Failed, "tells about appraisal " + missing.String()},
		{"a quarantine", event("quarantine.opened", quarantine), verify.Failed, "tells about quarantine q-hidden"},
		{"a verdict that is there", func(r *api.Report) {
			event("verdict.refused", fmt.Sprintf(`{"appraisal":%q}`, verifytest.AppraisalID(r.Appraisals[3])))(r)
		}, verify.Verified, ""},
		{"an affirmed verdict where the log has a refusal", func(r *api.Report) {
			e := r.Events[1]
			p := r.Appraisals[0]
			r.Events[1] = verifytest.Event(e.Number, e.At, "verdict.refused", "verifier", p.Device, fmt.Sprintf(`{"appraisal":%q}`, verifytest.AppraisalID(p)))
		}, verify.Failed, "the report says affirmed"},
		{"a wrong state that is called a missing log", func(r *api.Report) {
			p := &r.Appraisals[3]
			event("verdict.refused", fmt.Sprintf(`{"appraisal":%q,"reasons":["pcr_mismatch"]}`, verifytest.AppraisalID(*p)))(r)
			r.Logs = maps.Clone(r.Logs)
			delete(r.Logs, p.Input.Evidence.LogDigest.String())
			verdict, err := attestation.Appraise(p.Input)
			if err != nil {
				t.Fatal(err)
			}
			if p.Verdict, err = verdict.Marshal(); err != nil {
				t.Fatal(err)
			}
			r.Quarantines = nil
		}, verify.Failed, "gives the reasons [pcr_mismatch]"},
		{"a quarantine that is there", func(r *api.Report) {
			event("quarantine.opened", fmt.Sprintf(`{"quarantine":%q}`, r.Quarantines[0].ID))(r)
		}, verify.Verified, ""},
		{"a verdict while the report was being made", func(r *api.Report) {
			event("verdict.refused", verdict)(r)
			r.Events[2] = verifytest.Event(9, r.To.Add(-time.Second), "verdict.refused", "verifier", r.Events[1].Subject, verdict)
			r.Events[1] = verifytest.Event(8, r.Events[0].At, "timestamp.issued", "server", "", `{}`)
			r.CreatedAt = r.To
		}, verify.Verified, ""},
		{"a report that was cut", func(r *api.Report) { event("verdict.refused", verdict)(r); r.Coverage.Truncated = true }, verify.Undecided, ""},
		{"a hidden device in a report of one product", func(r *api.Report) {
			r.Product = verifytest.Product
			e := r.Events[1]
			r.Events[1] = verifytest.Event(e.Number, e.At, "verdict.refused", "verifier", "nobody", verdict)
		}, verify.Verified, "devices of other products"},
	} {
		r := copied(t)
		c.change(&r)
		shared().Relog(&r)
		got := check(shared().Sign(r))
		step, says := failing(got)
		if got.Outcome != c.want || c.want == verify.Failed && step != verify.StepDecisions || !strings.Contains(says+strings.Join(got.Trusted, "\n"), c.says) {
			t.Errorf("%s: got %s at %q: %s; want %s: %s", c.name, got.Outcome, step, says, c.want, c.says)
		}
	}
}

// Events that are missing at either end leave no gap in the numbers, so the reader is told which ones there are.
func TestSaysWhichEventsOfTheLogAreNotShown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		keep func([]api.Event) []api.Event
		says string
	}{
		{"as the server made it", func(e []api.Event) []api.Event { return e }, "the report shows events 7 to 10 of the log's 12"},
		{"the last two left out", func(e []api.Event) []api.Event { return e[:2] }, "the report shows events 7 to 8 of the log's 12"},
		{"the first left out", func(e []api.Event) []api.Event { return e[1:] }, "the report shows events 8 to 10 of the log's 12"},
		{"all left out", func([]api.Event) []api.Event { return []api.Event{} }, "the report shows none of the 12 events of the log"},
	} {
		r := copied(t)
		r.Events = c.keep(r.Events)
		r.Log = shared().Log.Prove(r.Events, shared().Log.Leaves)
		if got := check(shared().Sign(r)); !strings.Contains(strings.Join(got.Trusted, "\n"), c.says) {
			step, says := failing(got)
			t.Errorf("%s: got %s (%q: %s), believed %q; want %q", c.name, got.Outcome, step, says, got.Trusted, c.says)
		}
	}
}
