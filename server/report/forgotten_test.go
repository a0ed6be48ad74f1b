package report_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// An auditor follows the keys of a device whose key was rotated away and forgotten, before and after it is back.
func TestReportTellsWhichKeysPeopleHadForgotten(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.rotate(t, 1)
	id := s.w.Devices[0].Record.Device.ID
	row, err := s.store.Device(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var change store.Change
	var q *fleet.Quarantine
	at := verifytest.Noon.Add(6 * time.Hour)
	for _, person := range []string{"ann", "bob"} {
		step, why := fleet.ForgetKey(row, nil, fleet.KeyVoice{Person: person, Why: "rotated away", At: at})
		if why != "" {
			t.Fatal(why)
		}
		standing.Take(&change, &row, &q, step, person, at)
	}
	change.Writes = append(change.Writes, store.PutDevice{Device: row})
	s.commit(t, change)
	for what, registered := range map[string][]byte{"forgotten": nil, "enrolled again": evidencetest.NewAK(evidencetest.Seed("the one after")).Public} {
		row.AKPublic = registered
		s.write(t, store.PutDevice{Device: row})
		got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
		if wantOutcome(t, got, verify.Verified); !strings.Contains(strings.Join(got.Trusted, "\n"), "device "+id+": ann and bob had an attestation key forgotten") {
			t.Errorf("%s: the auditor is not told: %q", what, got.Trusted)
		}
		if !slices.ContainsFunc(got.Report.Events, func(e api.Event) bool { return e.Type == audit.DeviceAKForgotten }) {
			t.Errorf("%s: the report lacks the event", what)
		}
	}
	// A device without a key, whose ends do not fit, can only be left out: nothing would say that people had it forgotten.
	row.AKPublic = nil
	s.write(t, store.PutDevice{Device: row})
	s.cfg.Limits = report.DefaultLimits
	s.cfg.Limits.Successions = 1
	got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
	wantOutcome(t, got, verify.Undecided)
	if slices.ContainsFunc(got.Report.Devices, func(d api.DeviceRecord) bool { return d.Device.ID == id }) || !got.Coverage.Truncated {
		t.Errorf("cut: the report has the device, or does not say that it is cut: %+v", got.Coverage)
	}
}
