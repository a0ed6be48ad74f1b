package appraise_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// endorsed gives the device's row an EK certificate.
func endorsed(row *fleet.Device) {
	ek := evidencetest.NewCA("TPM maker").NewEK(nil)
	stored, err := identity.StoredEK(ek.Certificate, nil)
	if err != nil {
		panic(err)
	}
	row.EKCertificate, row.EKSPKI, row.Manufacturer = ek.Certificate, digest.Of(ek.SPKI), stored.Manufacturer
}

// settledEndorsed is settled with an EK certificate.
func settledEndorsed(t *testing.T, w *appraisetest.World, label string) *appraisetest.Device {
	t.Helper()
	w.Publish("1", 1)
	d := w.Enrolled(t, label, "lamp/1", endorsed)
	d.Converse()
	if row := d.Row(); row.Standing != fleet.Affirmed || row.Accepted == nil {
		t.Fatalf("not settled: %+v", row)
	}
	return d
}

func deny(t *testing.T, w *appraisetest.World, n identity.Denial) {
	t.Helper()
	n.Why = "sold at an auction"
	err := n.Validate()
	write := store.PutDenial{Denial: fleet.Denial{ID: "d-1", Denial: n, By: "ann", At: w.Now()}}
	if err := errors.Join(err, w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{write}})); err != nil {
		t.Fatal(err)
	}
}

func lift(t *testing.T, w *appraisetest.World) {
	t.Helper()
	n, err := w.Store.Denial(t.Context(), "d-1")
	n.LiftedAt = w.Now()
	if err := errors.Join(err, w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDenial{Denial: n}}})); err != nil {
		t.Fatal(err)
	}
}

// ways are the four ways to name the device's TPM, which shows firmware 1.
func ways(t *testing.T, row fleet.Device) map[string]identity.Denial {
	t.Helper()
	leaf, err := identity.ParseEKCertificate(row.EKCertificate)
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	issuer := hex.EncodeToString(leaf.AuthorityKeyId)
	return map[string]identity.Denial{
		"key":      {Key: hex.EncodeToString(key[:])},
		"serial":   identity.Denial{Serial: leaf.SerialNumber.Text(16), Issuer: issuer}.Canonical(),
		"issuer":   {Issuer: issuer},
		"firmware": {Manufacturer: row.Manufacturer, FirmwareFrom: 1, FirmwareTo: 1},
	}
}

// N48: nobody has to wait for the sweeper. From the commit of a denial on, the next poll of the device gets neither lease
// nor offer nor certificate, whatever it proves, and opens the quarantine in the same transaction.
func TestDenialHoldsFromTheNextPollOn(t *testing.T) {
	t.Parallel()
	probe := settledEndorsed(t, appraisetest.New(t), "probe").Row()
	for name := range ways(t, probe) {
		w := appraisetest.New(t)
		d := settledEndorsed(t, w, "a")
		w.Publish("2", 2)
		w.Publish("rescue", 3, appraisetest.Recovery)
		lost := d.Body(challenge(w, d), false)
		if _, _, err := d.Send(w.Service, lost); err != nil { // it is offered lamp/2
			t.Fatal(err)
		}
		if row := d.Row(); row.Offered != "lamp/2" {
			t.Fatalf("%s: got %+v", name, row)
		}
		deny(t, w, ways(t, d.Row())[name])
		resent, _, err := d.Send(w.Service, lost) // the stored answer offers lamp/2
		if err != nil || resent.Verdict == "affirmed" || resent.LeaseUntil != 0 || len(resent.Certificate) > 0 || !slices.Contains(reasonsOf(resent), reason.EKRevoked) {
			t.Errorf("%s: a resent poll got %+v, %v", name, resent, err)
		}
		p, _, err := d.Send(w.Service, d.Body(challenge(w, d), false))
		row := d.Row()
		if err != nil || p.Verdict != "" || p.LeaseUntil != 0 || len(p.Certificate) > 0 || row.Standing != fleet.Refused || row.Offered != "" ||
			!row.LeaseUntil.IsZero() || row.Segment != fleet.Restricted {
			t.Errorf("%s: got %+v, %v, %+v", name, p, err, row)
		}
		q, err := w.Store.OpenQuarantine(t.Context(), d.ID)
		if err != nil || q.By != "ann" || !q.RecoveredAt.IsZero() || len(q.Causes) != 1 || q.Causes[0] != reason.EKRevoked {
			t.Errorf("%s: quarantine %+v, %v", name, q, err)
		}
		events := len(w.Events(d.ID))
		for range 3 { // it stays like that, and writes no more events
			w.Advance(time.Minute)
			if _, _, err := d.Send(w.Service, d.Body(nil, false)); err != nil {
				t.Fatal(err)
			}
		}
		if after := len(w.Events(d.ID)); after != events {
			t.Errorf("%s: %d more events", name, after-events)
		}
	}
}

// A denial of a range of firmware is seen as soon as a quote shows that firmware, in the very poll that shows it, and ends
// for a TPM that was updated.
func TestDeniedFirmwareIsSeenInTheQuoteThatShowsIt(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1", endorsed)
	row := d.Row()
	if row.Accepted != nil {
		t.Fatal("the firmware is known already")
	}
	deny(t, w, identity.Denial{Manufacturer: row.Manufacturer, FirmwareFrom: 1, FirmwareTo: 1})
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), true))
	row = d.Row()
	if err != nil || p.Verdict != "" || p.LeaseUntil != 0 || len(p.Certificate) > 0 || p.Director != nil && len(targets(t, w, d, p.Director)) > 0 ||
		row.Standing != fleet.Refused || !row.LeaseUntil.IsZero() || row.Proven != "" {
		t.Errorf("first proof: got %+v, %v, %+v", p, err, row)
	}
	wantRefused(t, p, reason.EKRevoked, reason.DeviceQuarantined)
	if row.Accepted == nil || row.Accepted.Firmware != 1 {
		t.Errorf("the firmware was not kept: %+v", row.Accepted)
	}
	q, err := w.Store.OpenQuarantine(t.Context(), d.ID)
	if err != nil || !q.RecoveredAt.IsZero() {
		t.Fatalf("quarantine %+v, %v", q, err)
	}
	d.Firmware = 2 // the update that closes the hole
	d.Boot("lamp/1")
	if p, _, err = d.Send(w.Service, d.Body(challenge(w, d), true)); err != nil {
		t.Fatal(err)
	}
	if q, err = w.Store.OpenQuarantine(t.Context(), d.ID); err != nil || q.RecoveredAt.IsZero() {
		t.Errorf("after the update: got %+v; quarantine %+v, %v", p, q, err)
	}
}

// A lifted denial lets the device recover, and nothing more: people still have to release it.
func TestLiftedDenialLeavesTheQuarantine(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settledEndorsed(t, w, "a")
	deny(t, w, ways(t, d.Row())["key"])
	if _, _, err := d.Send(w.Service, d.Body(challenge(w, d), false)); err != nil {
		t.Fatal(err)
	}
	lift(t, w)
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), false))
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, p, reason.DeviceQuarantined)
	q, err := w.Store.OpenQuarantine(t.Context(), d.ID)
	if err != nil || q.RecoveredAt.IsZero() || d.Row().Standing != fleet.Refused {
		t.Errorf("got %+v, quarantine %+v, %v", p, q, err)
	}
}

// A pending device on the deny list is not claimed by an inventory entry.
func TestDeniedPendingDeviceIsNotClaimed(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1", endorsed, func(row *fleet.Device) {
		row.Lifecycle, row.Product, row.Profile, row.Tier, row.AdmittedBy = fleet.Pending, "", "", 0, ""
	})
	deny(t, w, ways(t, d.Row())["issuer"])
	entry := store.Inventory{Device: d.ID, Product: appraisetest.Product, HardwareID: appraisetest.Hardware, Profile: evidencetest.Profile, By: "ann", At: w.Now()}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutInventory{Entry: entry}}}); err != nil {
		t.Fatal(err)
	}
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), true))
	if err != nil || d.Row().Lifecycle != fleet.Pending {
		t.Errorf("got %+v, %v", p, err)
	}
	wantRefused(t, p, reason.EKRevoked)
}

// A device of tier 2 is refused a release that asks for tier 4, and gets the one that asks for less.
func TestBareDeviceIsRefusedAReleaseOfAHigherTier(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1", func(row *fleet.Device) {
		row.Lifecycle, row.Product, row.Profile, row.Tier, row.AdmittedBy = fleet.Pending, "", "", 0, ""
	})
	entry := store.Inventory{Device: d.ID, Product: appraisetest.Product, HardwareID: appraisetest.Hardware, Profile: evidencetest.Profile, By: "ann", At: w.Now()}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutInventory{Entry: entry}}}); err != nil {
		t.Fatal(err)
	}
	d.Converse()
	if row := d.Row(); row.Tier != fleet.TierBare || row.Standing != fleet.Affirmed {
		t.Fatalf("got %+v", row)
	}
	w.Publish("4", 4, func(r *repository.Release) { r.Statement.Predicate.MinimumTier = fleet.TierClaimed })
	p := d.Converse()
	if row := d.Row(); row.Offered != "" {
		t.Errorf("offered %s: %+v", row.Offered, p)
	}
	wantRefused(t, p, reason.TierTooLow)
	w.Publish("5", 5, func(r *repository.Release) { r.Statement.Predicate.MinimumTier = fleet.TierBare })
	wantTargets(t, w, d, d.Converse(), "lamp/5/system")
}
