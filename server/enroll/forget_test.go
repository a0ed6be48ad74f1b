package enroll_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// lockedOut is a device that was affirmed, whose key somebody has rotated away; it uses its own key again.
func lockedOut(t *testing.T, s server, label string, change ...func(*fleet.Device)) *soft {
	t.Helper()
	d, old := rotated(t, s, label)
	row := s.row(t, d)
	row.Standing, row.Segment, row.Proven, row.ProvenCounter, row.HighCounter = fleet.Affirmed, fleet.Production, "lamp/1", 1, 4
	row.LeaseUntil, row.Accepted = s.Now().Add(time.Hour), &attestation.Accepted{Clock: quote.Clock{Clock: 9, Safe: true}, Firmware: 7}
	row.CounterBase, d.index, d.value = 36, 40, 4
	for _, c := range change {
		c(&row)
	}
	s.commit(t, store.PutDevice{Device: row})
	if _, err := s.enroll(t, d, by(&old)); err != nil {
		t.Fatal(err)
	}
	d.ak = old
	_, err := s.enroll(t, d)
	wantProblem(t, "the honest key", err, reason.AKNotBound)
	return d
}

// forget is what two people do.
func (s server) forget(t *testing.T, d *soft) {
	t.Helper()
	row := s.row(t, d)
	q, err := store.QuarantineOf(t.Context(), s.Store, row.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, person := range []string{"ann", "bob"} {
		step, why := fleet.ForgetKey(row, q, fleet.KeyVoice{Person: person, Why: "x", At: s.Now()})
		if why != "" {
			t.Fatalf("%s: %s", person, why)
		}
		var change store.Change
		standing.Take(&change, &row, &q, step, person, s.Now())
		standing.Rules{Terms: fleet.Terms{Lease: time.Hour, Grace: time.Hour}}.Close(&change, &row, q, person, s.Now())
		if err := s.Store.Commit(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		row = s.row(t, d)
	}
	if !row.KeyForgotten() || row.Segment != fleet.Restricted {
		t.Fatalf("not forgotten: %+v", row)
	}
}

func TestForgottenKeyIsFollowedByTheKeyOfTheSameTPM(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := lockedOut(t, s, "f")
	s.forget(t, d)
	before := s.row(t, d)
	for i := range 2 { // the second time as after a lost answer
		if got, err := s.enroll(t, d); err != nil || got.Lifecycle != "active" || got.Device != before.ID || got.CounterBase != 36 {
			t.Fatalf("%d: got %+v, %v", i, got, err)
		}
	}
	want := before
	want.AKPublic, want.AKName, want.AKQualifiedSigner, want.Version = d.ak.Public, d.ak.Name(), d.ak.QualifiedSigner(), before.Version+2
	if diff := cmp.Diff(want, s.row(t, d)); diff != "" {
		t.Errorf("more than the key has changed (-want +got):\n%s", diff)
	}
	if n := len(slices.DeleteFunc(s.Events(d.id()), func(e string) bool { return e != audit.DeviceAKRegistered })); n != 1 {
		t.Errorf("%d events of the registration, want 1", n)
	}
	next := d.ak
	d.ak = evidencetest.NewAK(evidencetest.Seed("one more"))
	_, err := s.enroll(t, d)
	wantProblem(t, "a key after that", err, reason.AKNotBound)
	if _, err := s.enroll(t, d, by(&next)); err != nil {
		t.Errorf("a rotation after that: %v", err)
	}
}

// Between the forgetting and the enrollment no other TPM gets anywhere: the credential is made for the device's own.
func TestForgottenKeyIsNoDoorForAnotherTPM(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := lockedOut(t, s, "f")
	other := newTPM("other")
	s.inventory(t, other)
	if _, err := s.enroll(t, other); err != nil {
		t.Fatal(err)
	}
	s.forget(t, d)
	before := s.row(t, d)
	thief := newTPM("thief")
	thief.ek.Certificate, thief.ek.SPKI = d.ek.Certificate, d.ek.SPKI // a certificate is no secret
	if thief.id() != d.id() {
		t.Fatal("the thief asks for itself")
	}
	_, err := s.enroll(t, thief)
	wantProblem(t, "another TPM with the certificate", err, reason.AKNotBound)
	thief.ak = d.ak // not even for the key that the device will use
	_, err = s.enroll(t, thief)
	wantProblem(t, "another TPM with the device's public key", err, reason.AKNotBound)
	d.ak = other.ak
	_, err = s.enroll(t, d)
	wantProblem(t, "the key of another device", err, reason.Conflict)
	if after := s.row(t, d); after.Version != before.Version || !after.KeyForgotten() {
		t.Errorf("the device changed: %+v", after)
	}
}

func TestForgottenKeyBringsNobodyBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := lockedOut(t, s, "denied")
	s.forget(t, d)
	deny := fleet.Denial{ID: "d-1", Denial: identity.Denial{Key: s.row(t, d).EKSPKI.String(), Why: "x"}, By: "ann", At: s.Now()}
	s.commit(t, store.PutDenial{Denial: deny})
	_, err := s.Start(t.Context(), spki(t, d.tls), d.request())
	wantProblem(t, "denied", err, reason.EKRevoked)
	d = lockedOut(t, s, "retired")
	s.forget(t, d)
	row := s.row(t, d)
	row.Lifecycle = fleet.Retired
	s.commit(t, store.PutDevice{Device: row})
	_, err = s.enroll(t, d)
	wantProblem(t, "retired", err, reason.DeviceRetired)
	d = lockedOut(t, s, "bare")
	s.forget(t, d)
	d.bare = true
	_, err = s.enroll(t, d)
	wantProblem(t, "without its certificate", err, reason.EKUntrusted)
	d = lockedOut(t, s, "quarantined")
	q := fleet.Quarantine{ID: "q", Device: d.id(), Since: s.Now(), Causes: []reason.Reason{reason.PCRMismatch}, By: "verifier", RecoveredAt: s.Now()}
	row = s.row(t, d)
	row.Standing = fleet.Refused
	s.commit(t, store.PutQuarantine{Quarantine: q}, store.PutDevice{Device: row})
	s.forget(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	open, err := s.Store.OpenQuarantine(t.Context(), d.id())
	if row := s.row(t, d); err != nil || !open.RecoveredAt.IsZero() || row.Standing != fleet.Refused || row.KeyForgotten() {
		t.Errorf("quarantine %+v, %v, standing %s", open, err, row.Standing)
	}
}

// Whoever rotated the key away may have replaced the TLS key, too. What is known of the TPM's clock and of its counter
// stays all the same, unless the TPM was cleared.
func TestForgottenKeyKeepsClockAndCounter(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, test := range map[string]struct {
		clock    quote.Clock
		index    uint64
		newTLS   bool
		accepted bool
		base     uint64
	}{
		"same TLS key":                           {quote.Clock{Clock: 50, Safe: true}, 40, false, true, 36},
		"same TLS key, clock set back":           {quote.Clock{Clock: 1, Safe: true}, 40, false, true, 36},
		"same TLS key, says the counter is gone": {quote.Clock{Clock: 1, Safe: true}, 90, false, true, 86},
		"other TLS key":                          {quote.Clock{Clock: 50, Safe: true}, 40, true, true, 36},
		"other TLS key, behind on its counter":   {quote.Clock{Clock: 50, Safe: true}, 38, true, true, 36},
		"cleared":                                {quote.Clock{Clock: 1, Safe: true}, 90, true, false, 86},
	} {
		d := lockedOut(t, s, name)
		s.forget(t, d)
		d.clock, d.index = test.clock, test.index
		if test.newTLS {
			d.tls = evidencetest.NewTLSKey(evidencetest.Seed("another tls " + name))
		}
		if _, err := s.enroll(t, d); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		row := s.row(t, d)
		if (row.Accepted != nil) != test.accepted || row.CounterBase != test.base || row.HighCounter != 4 || row.Proven != "lamp/1" {
			t.Errorf("%s: accepted %+v, base %d, highest %d", name, row.Accepted, row.CounterBase, row.HighCounter)
		}
		if row.KeyForgotten() || row.Standing != fleet.Unproven || !row.LeaseUntil.IsZero() {
			t.Errorf("%s: %+v", name, row)
		}
	}
}

// Two keys of one TPM, the thief's among them, may come at once: one is registered, the other one hears of it.
func TestOneKeyFollowsAForgottenOne(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := lockedOut(t, s, "f")
	s.forget(t, d)
	thief := *d
	thief.ak = evidencetest.NewAK(evidencetest.Seed("the thief's"))
	results := make(chan error, 2)
	for _, d := range []*soft{d, &thief} {
		first := d.request()
		req := d.activation(t, first, s.start(t, d, first))
		go func() {
			_, err := s.Finish(t.Context(), spki(t, d.tls), d.exporter, req)
			results <- err
		}()
	}
	var refused []error
	for range 2 {
		if err := <-results; err != nil {
			refused = append(refused, err)
		}
	}
	if len(refused) != 1 {
		t.Fatalf("refused: %v, want one", refused)
	}
	if p, ok := errors.AsType[*problem.Error](refused[0]); !ok || p.Reason != reason.Conflict && p.Reason != reason.AKNotBound {
		t.Errorf("got %v", refused[0])
	}
	if row := s.row(t, d); !bytes.Equal(row.AKPublic, d.ak.Public) && !bytes.Equal(row.AKPublic, thief.ak.Public) {
		t.Error("neither key is registered")
	}
}

// Voices against a key say nothing about the one that follows it.
func TestRotationEndsTheVoices(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, old := rotated(t, s, "v")
	row := s.row(t, d)
	row.ForgetKey = []fleet.KeyVoice{{Person: "ann", Why: "x", At: s.Now()}}
	s.commit(t, store.PutDevice{Device: row})
	if _, err := s.enroll(t, d, by(&old)); err != nil {
		t.Fatal(err)
	}
	if row := s.row(t, d); row.ForgetKey != nil || row.KeyForgotten() {
		t.Errorf("got %+v", row.ForgetKey)
	}
}
