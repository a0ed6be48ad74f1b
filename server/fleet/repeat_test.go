package fleet_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
)

var newer = digest.Of([]byte("newer grounds"))

func repeated(v attestation.Verdict, undecided string) fleet.Repeated {
	r := fleet.Repeated{At: now, Grounds: newer, Verdict: v, Undecided: undecided, Of: digest.Of([]byte("appraisal"))}
	if undecided == "" {
		r.Appraisal = digest.Of([]byte("repetition"))
	}
	return r
}

func TestRepeatOnlyTakesAway(t *testing.T) {
	t.Parallel()
	good, revoked, weak := pass("lamp/1", 1, true).Verdict, fail(reason.ComponentRevoked).Verdict, fail(reason.PCRBankWeak).Verdict
	stale := func(d *fleet.Device) {
		d.Standing, d.StaleSince, d.LeaseUntil = fleet.Stale, now.Add(-time.Hour), now.Add(-time.Hour)
	}
	late := func(d *fleet.Device) { d.LeaseUntil = now }
	same := func(*fleet.Device) {}
	for name, test := range map[string]struct {
		change  func(*fleet.Device)
		r       fleet.Repeated
		want    fleet.Standing
		opens   bool
		reasons []reason.Reason
	}{
		"passes":                         {same, repeated(good, ""), fleet.Affirmed, false, nil},
		"a wrong state":                  {same, repeated(revoked, ""), fleet.Refused, true, []reason.Reason{reason.ComponentRevoked}},
		"a wrong state at the lease end": {late, repeated(revoked, ""), fleet.Unproven, false, []reason.Reason{reason.ComponentRevoked}},
		"a wrong state of a silent one":  {stale, repeated(revoked, ""), fleet.Unproven, false, []reason.Reason{reason.ComponentRevoked}},
		"too little":                     {same, repeated(weak, ""), fleet.Stale, false, []reason.Reason{reason.PCRBankWeak}},
		"too little of a silent one":     {stale, repeated(weak, ""), fleet.Stale, false, []reason.Reason{reason.PCRBankWeak}},
		"a silent one passes":            {stale, repeated(good, ""), fleet.Stale, false, nil},
		"undecided":                      {same, repeated(attestation.Verdict{}, "no log"), fleet.Stale, false, []reason.Reason{reason.DeviceUnproven}},
		"another release than it runs":   {same, repeated(pass("lamp/2", 2, true).Verdict, ""), fleet.Stale, false, []reason.Reason{reason.DeviceUnproven}},
		"no verdict and no reason":       {same, repeated(attestation.Verdict{}, ""), fleet.Stale, false, []reason.Reason{reason.DeviceUnproven}},
	} {
		d := offered()
		test.change(&d)
		s := fleet.Repeat(d, nil, test.r)
		if s.Device.Standing != test.want || (s.Quarantine != nil) != test.opens || s.Device.Grounds != newer || !slices.Equal(s.Reasons, test.reasons) {
			t.Errorf("%s: got %s, quarantine %+v, reasons %v", name, s.Device.Standing, s.Quarantine, s.Reasons)
		}
		if s.Device.LeaseUntil.After(d.LeaseUntil) || s.Device.Proven != d.Proven || !s.Device.ProvenAt.Equal(d.ProvenAt) {
			t.Errorf("%s: stored Evidence gave something: %+v", name, s.Device)
		}
		if passed := test.reasons == nil; passed != (len(s.Device.LastAnswer) > 0) || !passed && !s.Device.LeaseUntil.IsZero() {
			t.Errorf("%s: the lease ends %s, and the stored answer is %q", name, s.Device.LeaseUntil, s.Device.LastAnswer)
		}
		if f := facts(s); len(f) == 0 || f[0] != "appraisal.repeated" || slices.Contains(f, "quarantine.opened") != test.opens {
			t.Errorf("%s: facts %v", name, f)
		}
	}
}

// Nothing is decided about a device that stands on nothing.
func TestRepeatLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	r := repeated(fail(reason.ComponentRevoked).Verdict, "")
	open := &fleet.Quarantine{ID: "q", Device: "d"}
	for name, change := range map[string]func(*fleet.Device){
		"retired":  func(d *fleet.Device) { d.Lifecycle = fleet.Retired },
		"pending":  func(d *fleet.Device) { d.Lifecycle = fleet.Pending },
		"unproven": func(d *fleet.Device) { d.Standing = fleet.Unproven },
		"refused":  func(d *fleet.Device) { d.Standing = fleet.Refused },
	} {
		d := proven()
		change(&d)
		if s := fleet.Repeat(d, nil, r); s.Quarantine != nil || s.Device.Standing != d.Standing || len(s.Facts) > 0 {
			t.Errorf("%s: got %+v", name, s)
		}
	}
	if s := fleet.Repeat(proven(), open, r); s.Quarantine != nil || len(s.Facts) > 0 {
		t.Errorf("in quarantine: got %+v", s)
	}
}

// A device that lost its standing to stored Evidence is restricted at once when that proves a wrong state, and within its
// grace otherwise; one fresh proof brings it back.
func TestRepeatRestrictsByWhatItFound(t *testing.T) {
	t.Parallel()
	unproven := proven()
	unproven.Standing, unproven.StaleSince, unproven.LeaseUntil = fleet.Stale, now.Add(-time.Hour), now.Add(-time.Hour)
	wrong := fleet.Repeat(unproven, nil, repeated(fail(reason.ComponentRevoked).Verdict, "")).Device
	if got := fleet.SegmentOf(wrong, nil, now, terms); got != fleet.Restricted {
		t.Errorf("silent device with a withdrawn component: %s", got)
	}
	weak := fleet.Repeat(proven(), nil, repeated(fail(reason.PCRBankWeak).Verdict, "")).Device
	if got := fleet.SegmentOf(weak, nil, now.Add(terms.Grace-1), terms); got != fleet.Production {
		t.Errorf("within its grace: %s", got)
	}
	if got := fleet.SegmentOf(weak, nil, now.Add(terms.Grace), terms); got != fleet.Restricted {
		t.Errorf("behind its grace: %s", got)
	}
	for name, d := range map[string]fleet.Device{"wrong": wrong, "weak": weak} {
		s := fleet.Prove(d, nil, pass("lamp/1", 1, true), terms)
		if s.Device.Standing != fleet.Affirmed || fleet.SegmentOf(s.Device, nil, now, terms) != fleet.Production {
			t.Errorf("%s: a fresh proof leaves it %s", name, s.Device.Standing)
		}
	}
}
