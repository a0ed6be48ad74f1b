package storetest

import (
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// findsOutdatedDevices: those that stand, or are within their grace, on other grounds, and no others.
func findsOutdatedDevices(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for id, change := range map[string]func(*fleet.Device){
		"current":    func(d *fleet.Device) { d.Grounds = sum("now") },
		"older":      func(d *fleet.Device) { d.Grounds = digest.SHA256{1} },
		"newer":      func(d *fleet.Device) { d.Grounds = digest.SHA256{0xff, 0xff} },
		"unknown":    func(*fleet.Device) {},
		"grace":      func(d *fleet.Device) { d.Standing, d.Segment = fleet.Stale, fleet.Production },
		"restricted": func(d *fleet.Device) { d.Standing = fleet.Stale },
		"refused":    func(d *fleet.Device) { d.Standing = fleet.Refused },
		"unproven":   func(d *fleet.Device) { d.Standing = fleet.Unproven },
		"retired":    func(d *fleet.Device) { d.Lifecycle = fleet.Retired },
		"product":    func(d *fleet.Device) { d.Product = "door" },
		"profile":    func(d *fleet.Device) { d.Profile = "other" },
	} {
		d := device(id)
		d.Standing, d.Profile = fleet.Affirmed, "uefi"
		change(&d)
		write(t, s, store.PutDevice{Device: d})
	}
	found := func(limit int) []string {
		list, err := s.DevicesOutdated(ctx, "lamp", "uefi", sum("now"), limit)
		if err != nil {
			t.Fatal(err)
		}
		out := ids(list)
		slices.Sort(out)
		return out
	}
	got(found(0), nil)(t, "DevicesOutdated", []string{"grace", "newer", "older", "unknown"})
	if few := found(2); len(few) != 2 {
		t.Errorf("DevicesOutdated, two at most: got %v", few)
	}
}

// keepsRepetitions: an appraisal says whose Evidence it appraised again, and is not what a device was affirmed by.
func keepsRepetitions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.LastAffirmed(ctx, "a")
	wantError(t, "nothing affirmed", err, store.ErrNotFound)
	var all []store.Appraisal
	for i, outcome := range []string{"affirmed", "affirmed", "refused", "affirmed"} {
		a := store.Appraisal{
			ID: sum("appraisal", i), Device: "a", Product: "lamp", At: at(i), Outcome: outcome, Input: []byte(`{}`), Verdict: []byte(`{}`), Verifier: "v1",
			Policy: sum("policy"), References: map[string]digest.SHA256{"lamp/1.0": sum("values"), "lamp/1.1": sum("others")},
		}
		if i == 3 {
			a.Repeats = sum("appraisal", 1)
		}
		all = append(all, a)
		write(t, s, store.AddAppraisal{Appraisal: a})
	}
	write(t, s, store.AddAppraisal{Appraisal: store.Appraisal{ID: sum("of b"), Device: "b", At: at(9), Outcome: "affirmed"}})
	list, err := s.AppraisalsOf(ctx, "a", 0, 0)
	if err != nil || len(list) != 4 {
		t.Fatalf("AppraisalsOf: got %d, %v, want 4", len(list), err)
	}
	for i := range all {
		all[i].Number = list[3-i].Number
	}
	slices.Reverse(list)
	got(list, nil)(t, "AppraisalsOf", all)
	got(s.AppraisalsOf(ctx, "a", all[2].Number, 1))(t, "AppraisalsOf, one below", all[1:2])
	got(s.LastAffirmed(ctx, "a"))(t, "LastAffirmed", all[1])
	got(s.AppraisalNumber(ctx, all[2].Number))(t, "AppraisalNumber", all[2])
	_, err = s.AppraisalNumber(ctx, 1<<40)
	wantError(t, "unknown number", err, store.ErrNotFound)
}
