package report_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// rotate gives the first device another attestation key, n times.
func (s *system) rotate(t *testing.T, n int) {
	t.Helper()
	d := s.w.Devices[0]
	row, err := s.store.Device(t.Context(), d.Record.Device.ID)
	if err != nil {
		t.Fatal(err)
	}
	before := d.Scenario.AK
	for i := range n {
		after := evidencetest.NewAK(evidencetest.Seed("next ak " + string(rune('a'+i))))
		succession := api.Succession{Before: before.Public, After: after.Public, Transcript: digest.Of([]byte("enrollment"))}
		succession.Certify, succession.CertifySignature = before.Certify(evidencetest.CertifySpec{ExtraData: succession.Transcript[:], Name: after.Name()})
		s.event(t, verifytest.Noon.Add(5*time.Hour), audit.DeviceAKRotated, row.ID, succession)
		before = after
	}
	row.AKPublic = before.Public
	s.write(t, store.PutDevice{Device: row})
}

// counting counts the queries about the ends of attestation keys.
type counting struct {
	*store.Store
	n *int
}

func (c counting) Events(ctx context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error) {
	if len(f.Types) > 0 {
		*c.n++
	}
	return c.Store.Events(ctx, f, after, limit)
}

func TestSuccessionsOfAllDevicesTakeOneQuery(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.rotate(t, 2)
	n := 0
	s.cfg.Store = counting{s.store, &n}
	got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
	wantOutcome(t, got, verify.Verified)
	if n != 1 {
		t.Errorf("%d queries for %d devices, want 1", n, len(got.Report.Devices))
	}
	for _, d := range got.Report.Devices {
		want := 0
		if d.Device.ID == s.w.Devices[0].Record.Device.ID {
			want = 2
		}
		if len(d.Successions) != want {
			t.Errorf("device %s has %d successions, want %d", d.Device.ID, len(d.Successions), want)
		}
	}
}

// Without the keys of before, appraisals under them show nothing: they go too, and what is left still verifies.
func TestSuccessionsThatDoNotFitAreCutAndSaidSo(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.rotate(t, 2)
	for limit, want := range map[int]bool{2: false, 1: true, 0: true} {
		cut := *s
		cut.cfg.Limits = report.DefaultLimits
		cut.cfg.Limits.Successions = limit
		got := cut.verify(cut.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
		if got.Coverage.Truncated != want {
			t.Errorf("limit %d: truncated %t, want %t", limit, got.Coverage.Truncated, want)
		}
		if !want {
			continue
		}
		wantOutcome(t, got, verify.Undecided)
		var devices []string
		for _, p := range got.Report.Appraisals {
			devices = append(devices, p.Device)
		}
		if diff := cmp.Diff([]string{s.w.Devices[1].Record.Device.ID}, devices); diff != "" {
			t.Errorf("limit %d: appraisals of (-want +got):\n%s", limit, diff)
		}
	}
}

// Wherever the budget ends, what is left holds together.
func TestReportThatIsCutAnywhereVerifies(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.rotate(t, 8)
	parts := 0
	for budget := 40_000; ; budget += 2_000 {
		cut := *s
		cut.cfg.Limits = report.DefaultLimits
		cut.cfg.Limits.Bytes = budget
		got := cut.verify(cut.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
		if got.Outcome == verify.Verified {
			break
		}
		wantOutcome(t, got, verify.Undecided)
		if len(got.Report.Appraisals) > 0 && len(got.Report.Devices[0].Successions) == 0 && len(got.Report.Devices[1].Successions) == 0 {
			parts++
		}
	}
	if parts == 0 {
		t.Error("no budget ended among the successions: the test sees nothing")
	}
}
