package appraise_test

import (
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
)

func TestTamperedBootQuarantinesUntilTwoPeopleAndARecovery(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("rescue", 2, appraisetest.Recovery)
	d := settled(t, w, "a")
	w.Publish("3", 3)
	d.Converse()
	d.Claims.DirectorVersion = 1
	d.Boot("evil")
	p := d.Converse()
	wantRefused(t, p, reason.PCRMismatch, reason.DeviceQuarantined)
	if p.Verdict != "refused" || len(p.Certificate) > 0 || p.LeaseUntil != 0 {
		t.Errorf("got %+v", p)
	}
	wantTargets(t, w, d, p, "lamp/rescue/system")
	q, err := w.Store.OpenQuarantine(t.Context(), d.ID)
	if err != nil || q.By != "verifier" {
		t.Fatalf("got %+v, %v", q, err)
	}
	if order := w.Order(d.ID); order.Segment != fleet.Restricted || order.Epoch != 2 {
		t.Errorf("order: got %+v", order)
	}

	// The good release alone does not end it, and a beacon quote is not enough to say that it recovered.
	d.Boot("lamp/1")
	if p := d.Renew(); p.EvidenceWanted != wire.WantQuote {
		t.Errorf("over the beacon: got %+v", p)
	}
	d.Boot("lamp/rescue")
	p = d.Converse()
	if p.Verdict != "affirmed" || p.LeaseUntil != 0 || len(p.Certificate) > 0 {
		t.Errorf("recovered: got %+v", p)
	}
	wantRefused(t, p, reason.DeviceQuarantined)
	if q, err = w.Store.OpenQuarantine(t.Context(), d.ID); err != nil || q.RecoveredAt.IsZero() {
		t.Fatalf("got %+v, %v", q, err)
	}
	if d.Row().Standing != fleet.Refused {
		t.Errorf("standing %s", d.Row().Standing)
	}
	commit(t, w, d, fleet.End(d.Row(), q, w.Now()))
	p = d.Converse()
	wantTargets(t, w, d, p, "lamp/3/system")
	if row := d.Row(); row.Standing != fleet.Affirmed || row.Segment != fleet.Production {
		t.Errorf("released: got %s, %s", row.Standing, row.Segment)
	}
	if len(p.Certificate) != 0 {
		t.Error("a device on its recovery release got a certificate for other relying parties")
	}
	w.Advance(time.Minute)
	d.Boot("lamp/3")
	if p := d.Converse(); p.Release != "lamp/3" || len(p.Certificate) == 0 {
		t.Errorf("back on an ordinary release: got %q and %d certificates", p.Release, len(p.Certificate))
	}
}

// A rollback to a release that the device has left is told apart from an unknown image; both quarantine.
func TestRollbackQuarantines(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Converse()
	d.Boot("lamp/2")
	d.Converse()
	d.Boot("lamp/1")
	wantRefused(t, d.Converse(), reason.FirmwareRolledBack, reason.DeviceQuarantined)
}

func TestReleaseBeforeItsOfferQuarantines(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Boot("lamp/2")
	wantRefused(t, d.Converse(), reason.PCRMismatch, reason.DeviceQuarantined)
}

// What was offered once may be in a slot: a hold, a newer release or a missed deadline must not turn the reboot of an
// honest device into a quarantine.
func TestBootIntoAClosedOfferIsNoWrongState(t *testing.T) {
	t.Parallel()
	for name, close := range map[string]func(*appraisetest.World){
		"held":       func(w *appraisetest.World) { w.Hold("lamp/2", true) },
		"superseded": func(w *appraisetest.World) { w.Publish("3", 3) },
		"overdue": func(w *appraisetest.World) {
			w.Hold("lamp/2", true) // and not offered again
			w.Advance(7 * time.Hour)
		},
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		w.Publish("2", 2)
		d.Converse()
		close(w)
		d.Converse()
		if d.Row().Offered == "lamp/2" {
			t.Fatalf("%s: still offered", name)
		}
		d.Boot("lamp/2")
		if p := d.Converse(); p.Verdict != "affirmed" || p.Release != "lamp/2" || d.Row().Proven != "lamp/2" {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

func TestHoldWithdrawsAnOpenOffer(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	wantTargets(t, w, d, d.Converse(), "lamp/2/system")
	w.Hold("lamp/2", true)
	p := d.Poll(nil)
	wantRefused(t, p, reason.ReleaseOnHold)
	wantTargets(t, w, d, p, "lamp/1/system")
	w.Hold("lamp/2", false)
	wantTargets(t, w, d, d.Converse(), "lamp/2/system")
}

func TestWithdrawnReleaseIsRefusedWhereItRuns(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		p.Policy.Withdrawn = append(p.Policy.Withdrawn, appraisetest.Image("lamp/1"))
	})
	if got := reasonsOf(d.Converse()); !slices.Contains(got, reason.ComponentRevoked) || d.Row().Standing != fleet.Refused {
		t.Errorf("got %v, %s", got, d.Row().Standing)
	}
}

func TestMissedDeadlineIsOverdueAndNeverQuarantines(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Converse()
	w.Advance(appraisetest.Settings.UpdateDeadline)
	w.Beacon()
	p := d.Renew()
	if got := reasonsOf(p); !slices.Contains(got, reason.UpdateOverdue) || d.Row().Standing != fleet.Affirmed {
		t.Errorf("got %v, %s", got, d.Row().Standing)
	}
	if !slices.Contains(w.Events(d.ID), "update.overdue") {
		t.Errorf("events: got %v", w.Events(d.ID))
	}
	wantTargets(t, w, d, d.Converse(), "lamp/2/system")
}

func TestOfflineDeviceComesBackWithOneFreshPass(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Advance(26*time.Hour + time.Minute) // beyond lease and grace
	w.Beacon()
	p := d.Poll(nil)
	if row := d.Row(); row.Standing != fleet.Stale || row.Segment != fleet.Restricted || p.EvidenceWanted != wire.WantQuote || p.Director != nil {
		t.Errorf("got %+v, %+v", row, p)
	}
	if p := d.Renew(); p.Verdict != "affirmed" {
		t.Errorf("got %+v", p)
	}
	if row := d.Row(); row.Standing != fleet.Affirmed || row.Segment != fleet.Production {
		t.Errorf("got %s, %s", row.Standing, row.Segment)
	}
	if order := w.Order(d.ID); order.Segment != fleet.Production || order.Epoch != 3 {
		t.Errorf("order: got %+v", order)
	}
}

func TestOtherFirmwareQuarantines(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Boot("lamp/1", evidencetest.Firmware("implant"))
	wantRefused(t, d.Converse(), reason.PCRMismatch, reason.DeviceQuarantined)
}

// After TPM2_Clear the enrollment anchors the device anew; a clock that starts over is then no replay, and the way back is
// a challenge quote, never a quarantine.
func TestReactivatedDeviceProvesItselfAnew(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Clock.ResetCount, d.Clock.RestartCount, d.Clock.Clock = 0, 0, 10
	wantRefused(t, d.Poll(w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now())), reason.NonceReused)
	row := d.Row()
	row.Accepted, row.Standing, row.StaleSince, row.LeaseUntil = nil, fleet.Stale, w.Now(), w.Now()
	commit(t, w, d, fleet.Step{Device: row})
	w.Beacon()
	if p := d.Renew(); p.EvidenceWanted != wire.WantQuote || d.Row().Standing != fleet.Stale {
		t.Errorf("over the beacon: got %+v", p)
	}
	if p := d.Converse(); p.Verdict != "affirmed" || d.Row().Standing != fleet.Affirmed {
		t.Errorf("got %+v", p)
	}
}
