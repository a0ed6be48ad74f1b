package appraise_test

import (
	"net/http"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// forgetKey is what two people do.
func forgetKey(t *testing.T, w *appraisetest.World, d *appraisetest.Device) {
	t.Helper()
	row := d.Row()
	q, err := store.QuarantineOf(t.Context(), w.Store, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	var change store.Change
	for _, person := range []string{"ann", "bob"} {
		step, why := fleet.ForgetKey(row, q, fleet.KeyVoice{Person: person, Why: "x", At: w.Now()})
		if why != "" {
			t.Fatal(why)
		}
		standing.Take(&change, &row, &q, step, person, w.Now())
	}
	standing.Rules{Terms: appraisetest.Settings.Terms}.Close(&change, &row, q, "bob", w.Now())
	if err := w.Store.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

// register is what an enrollment does to the row.
func register(t *testing.T, w *appraisetest.World, d *appraisetest.Device, label string) {
	t.Helper()
	d.AK = evidencetest.NewAK(evidencetest.Seed(label))
	row := d.Row()
	row.AKPublic, row.AKName, row.AKQualifiedSigner = d.AK.Public, d.AK.Name(), d.AK.QualifiedSigner()
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); err != nil {
		t.Fatal(err)
	}
}

// From the commit on that forgets a key, no poll of it gets anything: not a lease, not even the answer that it was owed.
func TestForgottenKeyIsWorthNothing(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	w.Publish("rescue", 3, appraisetest.Recovery)
	lost := d.Body(challenge(w, d), false)
	if _, _, err := d.Send(w.Service, lost); err != nil { // it is offered lamp/2
		t.Fatal(err)
	}
	if row := d.Row(); row.Offered != "lamp/2" || row.LastAnswer == nil {
		t.Fatalf("offered %q", row.Offered)
	}
	forgetKey(t, w, d)
	before := d.Row()
	// the last poll again, a new quote, one over a beacon, and none
	for _, body := range [][]byte{lost, d.Body(challenge(w, d), true), d.Body(w.Catalog().Beacon[:], true), d.Body(nil, false)} {
		_, _, err := d.Send(w.Service, body)
		wantProblem(t, err, http.StatusForbidden, reason.AKUnknown)
	}
	if after := d.Row(); after.Version != before.Version || after.Segment != fleet.Restricted || after.Standing != fleet.Unproven {
		t.Errorf("the device changed: %+v", after)
	}
}

// After the new enrollment the device proves its boot as if for the first time, and the TPM's clock goes on where the
// forgotten key had left it.
func TestDeviceComesBackAfterItsKeyWasForgotten(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	accepted := d.Row().Accepted
	if accepted == nil {
		t.Fatal("nothing was accepted")
	}
	old := d.AK
	forgetKey(t, w, d)
	register(t, w, d, "next")
	p := d.Renew()
	if p.EvidenceWanted != wire.WantQuote || len(p.Challenge) == 0 || p.LeaseUntil != 0 || len(p.Certificate) > 0 {
		t.Errorf("over a beacon: %+v", p)
	}
	good, clock := d.AK, d.Clock
	d.AK = old
	wantRefused(t, d.Poll(challenge(w, d)), reason.QuoteSignatureInvalid, reason.DeviceUnproven)
	d.AK, d.Clock = good, accepted.Clock
	d.Clock.Clock -= 100 // the quotes that root has kept in stock
	wantRefused(t, d.Poll(challenge(w, d)), reason.NonceReused, reason.DeviceUnproven)
	d.Clock = clock
	if row := d.Row(); row.Standing != fleet.Unproven || row.Segment != fleet.Restricted {
		t.Fatalf("standing %s in %s", row.Standing, row.Segment)
	}
	p = d.Converse()
	if row := d.Row(); p.Verdict != string(attestation.Affirmed) || row.Standing != fleet.Affirmed || row.Segment != fleet.Production || row.ID != d.ID {
		t.Errorf("over a challenge: %+v, %s in %s", p, row.Standing, row.Segment)
	}
}
