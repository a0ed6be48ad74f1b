package fleet_test

import (
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
)

func denial(n identity.Denial) fleet.Denial {
	n.Why = "a hole"
	return fleet.Denial{ID: "d-1", Denial: n, By: "ann", At: now}
}

// inRange names proven() once it has an accepted quote.
func inRange() fleet.Denial {
	return denial(identity.Denial{Manufacturer: "id:49465800", FirmwareFrom: 1, FirmwareTo: 9})
}

func TestDeniedByFirmwareOnlyOnceItIsKnown(t *testing.T) {
	t.Parallel()
	d := proven()
	d.EKCertificate, d.Manufacturer = []byte("no longer readable"), "id:49465800"
	list := []fleet.Denial{inRange()}
	for firmware, want := range map[uint64]bool{0: false, 1: true, 9: true, 10: false} {
		d.Accepted = &attestation.Accepted{Firmware: firmware}
		if _, got := fleet.Denied(d, list); got != want {
			t.Errorf("firmware %d: got %v, want %v", firmware, got, want)
		}
		if _, got := fleet.DeniedForGood(d, list); got {
			t.Errorf("firmware %d: a range of firmware holds for good", firmware)
		}
	}
	d.Accepted = nil
	if _, got := fleet.Denied(d, list); got {
		t.Error("no quote yet: denied")
	}
	d.Accepted = &attestation.Accepted{Firmware: 5}
	list[0].LiftedAt = now
	if _, got := fleet.Denied(d, list); got {
		t.Error("a lifted denial holds")
	}
}

func TestDenyIsStickyAndSaysNothingTwice(t *testing.T) {
	t.Parallel()
	s, changed := fleet.Deny(offered(), nil, inRange(), now)
	if !changed || s.Device.Standing != fleet.Refused || !s.Device.LeaseUntil.IsZero() || s.Device.Offered != "" || s.Device.LastAnswer != nil {
		t.Errorf("got %+v", s.Device)
	}
	wantFacts(t, s, "quarantine.opened")
	if s.Quarantine == nil || s.Quarantine.By != "ann" || !slices.Equal(s.Quarantine.Causes, []reason.Reason{reason.EKRevoked}) {
		t.Fatalf("got %+v", s.Quarantine)
	}
	if again, changed := fleet.Deny(s.Device, s.Quarantine, inRange(), now); changed || again.Quarantine != nil || len(again.Facts) > 0 {
		t.Errorf("again: got %+v", again)
	}
	recovered := *s.Quarantine
	recovered.RecoveredAt = now
	if again, changed := fleet.Deny(s.Device, &recovered, inRange(), now); !changed || again.Quarantine == nil || !again.Quarantine.RecoveredAt.IsZero() {
		t.Errorf("recovered before: got %+v; approvals of that recovery must not count", again.Quarantine)
	}
	for _, lifecycle := range []fleet.Lifecycle{fleet.Pending, fleet.Retired} {
		d := proven()
		d.Lifecycle = lifecycle
		if s, changed := fleet.Deny(d, nil, inRange(), now); changed || s.Quarantine != nil {
			t.Errorf("%s: got %+v", lifecycle, s)
		}
	}
}

func TestLiftingNeedsTwoOthers(t *testing.T) {
	t.Parallel()
	n := inRange()
	yes := func(subject string, people ...string) (out []fleet.Approval) {
		for _, p := range people {
			out = append(out, fleet.Approval{Subject: subject, Person: p, At: now})
		}
		return out
	}
	for name, test := range map[string]struct {
		approvals []fleet.Approval
		lifts     bool
	}{
		"nobody":                   {nil, false},
		"one":                      {yes(n.ApprovalSubject(), "bob"), false},
		"one, twice":               {yes(n.ApprovalSubject(), "bob", "bob"), false},
		"who denied, and another":  {yes(n.ApprovalSubject(), "ann", "bob"), false},
		"two for something else":   {yes("denial:d-2", "bob", "cid"), false},
		"two":                      {yes(n.ApprovalSubject(), "bob", "cid"), true},
		"who denied, and two more": {yes(n.ApprovalSubject(), "ann", "bob", "cid"), true},
	} {
		if missing := fleet.Lift(n, test.approvals); (len(missing) == 0) != test.lifts {
			t.Errorf("%s: missing %v", name, missing)
		}
	}
	n.LiftedAt = now
	if missing := fleet.Lift(n, yes(n.ApprovalSubject(), "bob", "cid")); len(missing) == 0 {
		t.Error("lifted twice")
	}
}

func TestVouchIsForDevicesWithoutACertificate(t *testing.T) {
	t.Parallel()
	a := fleet.Admission{Product: "lamp", HardwareID: "rev-a", Profile: "p", By: fleet.ByToken, Tier: fleet.TierBare}
	bare := fleet.Device{ID: "d", Lifecycle: fleet.Pending}
	if s := fleet.Vouch(bare, a); s.Device.Lifecycle != fleet.Pending || s.Device.Tier != 0 || !fleet.Approvable(s.Device, "lamp") || len(s.Facts) != 1 {
		t.Errorf("got %+v", s)
	}
	if fleet.Approvable(bare, "lamp") {
		t.Error("a person alone admits it")
	}
	for name, d := range map[string]fleet.Device{
		"certified": {ID: "d", Lifecycle: fleet.Pending, EKCertificate: []byte{1}}, "active": {ID: "d", Lifecycle: fleet.Active},
	} {
		if s := fleet.Vouch(d, a); s.Device.AdmittedBy != "" || len(s.Facts) > 0 {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}
