package report_test

import (
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// addBaselines puts generations of a baseline of the World's platform into the database, signed by its baseline signer.
func (s *system) addBaselines(t *testing.T, generations ...uint64) {
	t.Helper()
	for _, generation := range generations {
		set := artifacts.BaselineSet{Name: "one", Source: artifacts.BaselineVendor, PCRs: s.w.Devices[0].Scenario.Baseline.PCRs}
		statement, err := artifacts.NewBaselineStatement(artifacts.PlatformBaseline{
			Product: verifytest.Product, Profile: evidencetest.Profile, Generation: generation, Sets: []artifacts.BaselineSet{set},
		})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := statement.Encode()
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, store.AddBaseline{Baseline: store.Baseline{
			Product: verifytest.Product, Profile: evidencetest.Profile, Generation: generation, Digest: statement.Subject[0].Digest.SHA256,
			Bundles: [][]byte{verifytest.Bundle(payload, s.w.Platform)}, By: "olga", At: verifytest.Noon,
		}})
	}
}

// Old generations stay in the report: verdicts of their time were reached with them.
func TestReportCarriesEverySignedBaseline(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.addBaselines(t, 1, 2)
	made := func() *api.Report {
		t.Helper()
		got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), verifytest.Product))
		if got.Outcome == verify.Failed || got.Report == nil {
			t.Fatalf("got %s: %+v", got.Outcome, got.Steps)
		}
		return got.Report
	}
	if r := made(); len(r.Baselines) != 2 || r.Baselines[0].Generation != 2 || r.Coverage.Truncated {
		t.Errorf("baselines: %+v, truncated %t", r.Baselines, r.Coverage.Truncated)
	}
	s.cfg.Limits = report.DefaultLimits
	s.cfg.Limits.Baselines = 1
	if r := made(); len(r.Baselines) != 1 || !r.Coverage.Truncated {
		t.Errorf("at the limit: %d baselines, truncated %t", len(r.Baselines), r.Coverage.Truncated)
	}
}
