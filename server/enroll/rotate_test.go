package enroll_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// rotated is a device whose TPM has made a new attestation key; old is the one that the server knows.
func rotated(t *testing.T, s server, label string) (d *soft, old evidencetest.AK) {
	t.Helper()
	d = newTPM(label)
	s.inventory(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	old = d.ak
	d.ak = evidencetest.NewAK(evidencetest.Seed("next ak " + label))
	return d, old
}

func by(old *evidencetest.AK) func(*proofs) { return func(p *proofs) { p.before = old } }

func TestAKIsRotatedByTheKeyBefore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, old := rotated(t, s, "r")
	row := s.row(t, d)
	row.Standing, row.Proven, row.HighCounter, row.LeaseUntil = fleet.Affirmed, "lamp/1", 1, s.Now().Add(time.Hour)
	row.Accepted = &attestation.Accepted{Clock: quote.Clock{Clock: 99, Safe: true}, Firmware: 7}
	row.LastPoll, row.LastAnswer = digest.Of([]byte("poll")), []byte("answer")
	s.commit(t, store.PutDevice{Device: row})
	before := s.row(t, d)
	for i := range 2 { // the second time as after a lost answer
		got, err := s.enroll(t, d, by(&old))
		if err != nil || got.Lifecycle != "active" {
			t.Fatalf("%d: got %+v, %v", i, got, err)
		}
	}
	after := s.row(t, d)
	if !bytes.Equal(after.AKPublic, d.ak.Public) || !bytes.Equal(after.AKName, d.ak.Name()) || !bytes.Equal(after.AKQualifiedSigner, d.ak.QualifiedSigner()) {
		t.Errorf("the new key is not registered: %+v", after)
	}
	if after.Accepted == nil || after.Accepted.Clock.Clock != 99 || after.Standing != fleet.Affirmed || after.TLSKey != before.TLSKey ||
		!after.LeaseUntil.Equal(before.LeaseUntil) || after.Tier != before.Tier || after.EKSPKI != before.EKSPKI {
		t.Errorf("what was proven is lost: %+v", after)
	}
	if !after.LastPoll.IsZero() || after.LastAnswer != nil {
		t.Error("a poll of the old key would be answered again")
	}
	events := slices.DeleteFunc(s.Events(d.id()), func(e string) bool { return e != audit.DeviceAKRotated })
	if len(events) != 1 {
		t.Errorf("got %d events of the rotation, want 1", len(events))
	}
	checkSuccessionEvent(t, s, d)
	d.ak = old
	_, err := s.enroll(t, d)
	wantProblem(t, "the old key again", err, reason.AKNotBound)
}

// checkSuccessionEvent does what an auditor can do without the server: the event proves the succession by itself.
func checkSuccessionEvent(t *testing.T, s server, d *soft) {
	t.Helper()
	events := must(s.Store.LastEvents(t.Context(), d.id(), 10))(t)
	i := slices.IndexFunc(events, func(e store.StoredEvent) bool { return e.Type == audit.DeviceAKRotated })
	if i < 0 {
		t.Fatal("there is no event of the rotation")
	}
	data, err := audit.DataOf(events[i].Leaf)
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Before           []byte        `json:"before"`
		After            []byte        `json:"after"`
		Certify          []byte        `json:"certify"`
		CertifySignature []byte        `json:"certify_signature"`
		Transcript       digest.SHA256 `json:"transcript"`
	}
	if err := json.Unmarshal(data, &e, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	old, next := must(identity.ParsePublic(e.Before))(t), must(identity.ParsePublic(e.After))(t)
	signer := identity.QualifiedNameUnderEndorsement(old.Name)
	if p := identity.VerifySuccessor(old, signer, e.Certify, e.CertifySignature, e.Transcript[:], next); p != nil || !bytes.Equal(next.Raw, d.ak.Public) {
		t.Errorf("the event does not prove the succession: %v", p)
	}
}

// V-17: whoever holds the TPM alone, or the old key of another one, replaces nothing.
func TestAKIsNotReplacedWithoutTheKeyBefore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	other := newTPM("other")
	tests := map[string]struct {
		change func(p *proofs, old evidencetest.AK)
		want   reason.Reason
	}{
		"no certification":                     {func(*proofs, evidencetest.AK) {}, reason.AKNotBound},
		"certified by another TPM's key":       {func(p *proofs, _ evidencetest.AK) { p.before = &other.ak }, reason.QuoteSignatureInvalid},
		"certified by the new key itself":      {func(p *proofs, _ evidencetest.AK) { p.before = &p.quoter }, reason.QuoteSignatureInvalid},
		"certification of the TLS key":         {func(p *proofs, old evidencetest.AK) { p.before, p.successor = &old, p.certified }, reason.AKNotBound},
		"certification of another key":         {func(p *proofs, old evidencetest.AK) { p.before, p.successor = &old, other.ak.Name() }, reason.AKNotBound},
		"certification of an older enrollment": {func(p *proofs, old evidencetest.AK) { p.before, p.succeedOver = &old, make([]byte, 32) }, reason.NonceUnknown},
		"old key in another hierarchy": {func(p *proofs, old evidencetest.AK) {
			p.before, p.beforeSigner = &old, other.ak.QualifiedSigner()
		}, reason.AKNotBound},
	}
	for name, test := range tests {
		d, old := rotated(t, s, name)
		before := s.row(t, d)
		_, err := s.enroll(t, d, func(p *proofs) { test.change(p, old) })
		wantProblem(t, name, err, test.want)
		if after := s.row(t, d); !bytes.Equal(after.AKPublic, before.AKPublic) || after.Version != before.Version {
			t.Errorf("%s: the device changed: %+v", name, after)
		}
		if slices.Contains(s.Events(d.id()), audit.DeviceAKRotated) {
			t.Errorf("%s: there is an event of a rotation", name)
		}
	}
}

// A device learns which of its keys is registered only when it has proven to be the TPM.
func TestRegisteredAKIsNamedToItsTPMAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, old := rotated(t, s, "n")
	_, err := s.enroll(t, d)
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || !bytes.Equal(p.AKName, old.Name()) {
		t.Errorf("its own TPM: got %+v, want the Name of the registered key", err)
	}
	thief := newTPM("thief")
	first := thief.request()
	first.EKCertificate = d.ek.Certificate
	req := wire.ActivateRequest{Enroll: first, Challenge: s.start(t, thief, first).Challenge, HMAC: make([]byte, 32), Claims: []byte("{}")}
	_, err = s.Finish(t.Context(), spki(t, thief.tls), thief.exporter, req)
	if p, ok := errors.AsType[*problem.Error](err); !ok || p.AKName != nil {
		t.Errorf("a stranger: got %+v", err)
	}
}

// Every rotation is an event for good; a device must not fill the log with them.
func TestRotationsAreFew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, old := rotated(t, s, "busy")
	for i := range 16 {
		_, err := s.enroll(t, d, by(&old))
		if p, ok := errors.AsType[*problem.Error](err); ok && p.Reason == reason.RateLimited {
			if i < 2 {
				t.Errorf("refused the rotation number %d", i+1)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		old, d.ak = d.ak, evidencetest.NewAK(evidencetest.Seed("ak "+string(rune('a'+i))))
	}
	t.Error("16 rotations within a moment")
}

// V-17: one EK is one device and one device has one EK, whoever asks.
func TestEKAndDeviceAreOneAndTheSame(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := newTPM("a"), newTPM("b")
	for _, d := range []*soft{a, b} {
		if _, err := s.enroll(t, d); err != nil {
			t.Fatal(err)
		}
	}
	row := s.row(t, a)
	row.EKSPKI = s.row(t, b).EKSPKI
	if err := s.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("two devices with one EK: %v", err)
	}
	certificate := s.row(t, a).EKCertificate
	a.ek = manufacturer().Certify(a.ek.Private, nil) // another certificate for the same key
	if _, err := s.enroll(t, a); err != nil {
		t.Fatal(err)
	}
	if after := s.row(t, a); !bytes.Equal(after.EKCertificate, certificate) {
		t.Error("the certificate of the enrollment was replaced")
	}
	thief := newTPM("c")
	thief.tls = b.tls // the same TLS key for a second device
	_, err := s.enroll(t, thief)
	wantProblem(t, "TLS key of another device", err, reason.Conflict)
}
