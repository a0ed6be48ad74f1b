package fleet_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
)

func voice(person string, at time.Time) fleet.KeyVoice {
	return fleet.KeyVoice{Person: person, Why: "somebody rotated it away", At: at}
}

// keyed is offered() with an attestation key.
func keyed() fleet.Device {
	d := offered()
	d.AKPublic, d.AKName, d.AKQualifiedSigner = []byte("ak"), []byte("name"), []byte("signer")
	return d
}

// forgotten is keyed() after two people have had its key forgotten.
func forgotten(t *testing.T, d fleet.Device, q *fleet.Quarantine) fleet.Step {
	t.Helper()
	first, why := fleet.ForgetKey(d, q, voice("ann", now.Add(-time.Hour)))
	if why != "" || first.Device.KeyForgotten() {
		t.Fatalf("one person: %q, %+v", why, first.Device)
	}
	second, why := fleet.ForgetKey(first.Device, q, voice("bob", now))
	if why != "" || !second.Device.KeyForgotten() {
		t.Fatalf("two people: %q, %+v", why, second.Device)
	}
	return second
}

func TestKeyIsForgottenByTwoPeople(t *testing.T) {
	t.Parallel()
	d := keyed()
	first, why := fleet.ForgetKey(d, nil, voice("ann", now))
	want := d
	want.ForgetKey = []fleet.KeyVoice{voice("ann", now)}
	if diff := cmp.Diff(want, first.Device); why != "" || diff != "" || first.Update != "" {
		t.Errorf("one person changed something: %q\n%s", why, diff)
	}
	wantFacts(t, first, "device.ak_forget_asked")
	if s, why := fleet.ForgetKey(first.Device, nil, voice("ann", now.Add(time.Hour))); why != reason.SamePerson || s.Device.KeyForgotten() {
		t.Errorf("the same person: %q", why)
	}
	second, why := fleet.ForgetKey(first.Device, nil, voice("bob", now.Add(time.Hour)))
	if why != "" || !second.Device.KeyForgotten() {
		t.Fatalf("two people: %q, %+v", why, second.Device)
	}
	wantFacts(t, second, "device.ak_forget_asked", "device.ak_forgotten")
	if diff := cmp.Diff(map[string]any{"before": []byte("ak"), "forgotten": []string{"ann", "bob"}}, second.Facts[1].Data); diff != "" {
		t.Error(diff)
	}
	if _, why := fleet.ForgetKey(second.Device, nil, voice("cid", now)); why != reason.AKUnknown {
		t.Errorf("a key that is forgotten already: %q", why)
	}
}

// What the old key proved is worth nothing; what keeps older states and other TPMs out stays to the letter.
func TestForgettingTakesThePermissionsAndKeepsTheMemory(t *testing.T) {
	t.Parallel()
	d := keyed()
	d.EKCertificate, d.AdmittedBy, d.Tier, d.CounterBase, d.TLSPublic = []byte("ek"), "inventory", 5, 7, []byte("tls")
	s := forgotten(t, d, nil)
	want := d
	want.AKPublic, want.AKName, want.AKQualifiedSigner = nil, nil, nil
	want.Standing, want.LeaseUntil = fleet.Unproven, time.Time{}
	want.Offered, want.OfferedAt, want.Deadline = "", time.Time{}, time.Time{}
	want.LastPoll, want.LastAnswer = fleet.Device{}.LastPoll, nil
	if diff := cmp.Diff(want, s.Device); diff != "" || s.Update != "superseded" {
		t.Errorf("(-want +got):\n%s update %q", diff, s.Update)
	}
	if s.Device.Accepted == nil || s.Device.HighCounter != 1 || s.Device.OfferedCounter != 2 {
		t.Errorf("what keeps older states out is lost: %+v", s.Device)
	}
	if got := fleet.SegmentOf(s.Device, nil, now, terms); got != fleet.Restricted {
		t.Errorf("segment %s", got)
	}
	if fleet.Claimable(s.Device) {
		t.Error("another product could claim it now")
	}
}

func TestForgettingEndsNoQuarantine(t *testing.T) {
	t.Parallel()
	d, q := quarantined(t)
	d.AKPublic = []byte("ak")
	if s := forgotten(t, d, q); s.Quarantine != nil || s.Device.Standing != fleet.Refused {
		t.Errorf("got %s, %+v", s.Device.Standing, s.Quarantine)
	}
	recovered := *q
	recovered.RecoveredAt = now.Add(-time.Minute)
	s := forgotten(t, d, &recovered)
	if s.Quarantine == nil || !s.Quarantine.RecoveredAt.IsZero() || !s.Quarantine.EndedAt.IsZero() || s.Device.Standing != fleet.Refused {
		t.Errorf("a recovery that the forgotten key showed counts: %+v", s.Quarantine)
	}
}

func TestVoicesEnd(t *testing.T) {
	t.Parallel()
	first, _ := fleet.ForgetKey(keyed(), nil, voice("ann", now))
	late := now.Add(fleet.KeyVoiceLasts)
	if got := first.Device.KeyVoices(late.Add(-time.Microsecond)); len(got) != 1 {
		t.Errorf("before its end: %v", got)
	}
	s, why := fleet.ForgetKey(first.Device, nil, voice("bob", late))
	if why != "" || s.Device.KeyForgotten() || len(s.Device.ForgetKey) != 1 || s.Device.ForgetKey[0].Person != "bob" {
		t.Errorf("a voice of three days ago counts: %q, %+v", why, s.Device.ForgetKey)
	}
	if s, why := fleet.ForgetKey(first.Device, nil, voice("ann", late)); why != "" || s.Device.KeyForgotten() {
		t.Errorf("the same person, anew: %q", why)
	}
}

func TestRetiredDeviceKeepsItsKey(t *testing.T) {
	t.Parallel()
	d := keyed()
	d.Lifecycle, d.ForgetKey = fleet.Retired, []fleet.KeyVoice{voice("ann", now)}
	if s, why := fleet.ForgetKey(d, nil, voice("bob", now)); why != reason.DeviceRetired || s.Device.KeyForgotten() {
		t.Errorf("got %q", why)
	}
}

// An unproven device comes back over a challenge, although the same release was proven in the same boot before.
func TestUnprovenDeviceComesBackOverAChallenge(t *testing.T) {
	t.Parallel()
	d := forgotten(t, keyed(), nil).Device
	d.AKPublic = []byte("next ak")
	if s := fleet.Prove(d, nil, pass("lamp/1", 1, false), terms); !s.NeedsChallenge || s.Device.Standing != fleet.Unproven {
		t.Errorf("over a beacon: %+v", s)
	}
	if s := fleet.Prove(d, nil, pass("lamp/1", 1, true), terms); s.NeedsChallenge || s.Device.Standing != fleet.Affirmed {
		t.Errorf("over a challenge: %+v", s)
	}
}
