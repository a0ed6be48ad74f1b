package enroll_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
)

// round does both rounds for a request; before is the generation that vouches for the attestation key in use, if any.
func (g *genuine) round(s server, first wire.EnrollRequest, before *uint32) (wire.ActivateAnswer, error) {
	g.t.Helper()
	offer, err := s.Start(g.t.Context(), g.spki(), first)
	if err != nil {
		return wire.ActivateAnswer{}, err
	}
	secret := must(g.tpm.ActivateCredential(offer.Credential, offer.EncryptedSecret))(g.t)
	second := g.activation(first, offer, secret)
	if before != nil {
		c := must(quote.ParseCertify(second.Certify))(g.t)
		if second.AKCertify, second.AKCertifySignature, err = g.tpm.CertifyAK(*before, c.ExtraData); err != nil {
			g.t.Fatal(err)
		}
	}
	return s.Finish(g.t.Context(), g.spki(), g.exporter[:], second)
}

// A real TPM certifies its next attestation key by the one before, and nothing else takes its place.
func TestGenuineTPMRotatesItsAK(t *testing.T) {
	t.Parallel()
	g := newGenuine(t)
	s, chain := serverFor(t, g)
	if _, err := g.enroll(s, chain); err != nil {
		t.Fatal(err)
	}
	id := must(g.tpm.DeviceID())(t).String()
	old := must(s.Store.Device(t.Context(), id))(t)
	if err := g.tpm.UseGeneration(1); err != nil {
		t.Fatal(err)
	}
	_, err := g.enroll(s, chain)
	wantProblem(t, "the next key without a word of the one before", err, reason.AKNotBound)
	never := uint32(2)
	_, err = g.round(s, g.request(chain), &never)
	wantProblem(t, "certified by a key that was never registered", err, reason.QuoteSignatureInvalid)
	first := uint32(0)
	if _, err := g.round(s, g.request(chain), &first); err != nil {
		t.Fatal(err)
	}
	after := must(s.Store.Device(t.Context(), id))(t)
	if bytes.Equal(after.AKPublic, old.AKPublic) || !bytes.Equal(after.AKPublic, must(g.tpm.AKPublic())(t)) || after.TLSKey != old.TLSKey ||
		!slices.Contains(s.Events(id), audit.DeviceAKRotated) {
		t.Errorf("got %+v", after)
	}
	if err := g.tpm.UseGeneration(0); err != nil {
		t.Fatal(err)
	}
	_, err = g.enroll(s, chain)
	wantProblem(t, "the old key", err, reason.AKNotBound)
}

// A real TPM proves its bare endorsement key: the credential is made to that key under the standard template.
func TestGenuineTPMEnrollsWithoutItsCertificate(t *testing.T) {
	t.Parallel()
	g := newGenuine(t)
	s, _ := serverFor(t, g)
	first := g.request(nil)
	first.EKCertificate, first.EKPublic = nil, must(g.tpm.EKPublic())(t)
	_, err := g.round(s, first, nil)
	wantProblem(t, "nobody vouches", err, reason.EKUntrusted)
	id := must(g.tpm.DeviceID())(t).String()
	s.listed(t, id)
	got, err := g.round(s, first, nil)
	if err != nil || got.Lifecycle != "active" || got.Device != id {
		t.Fatalf("got %+v, %v", got, err)
	}
	if row := must(s.Store.Device(t.Context(), id))(t); row.Tier != fleet.TierBare {
		t.Errorf("tier %d", row.Tier)
	}
	thief := newGenuine(t)
	stolen := thief.request(nil)
	stolen.EKCertificate, stolen.EKPublic = nil, first.EKPublic
	offer := must(s.Start(t.Context(), thief.spki(), stolen))(t)
	if _, err := thief.tpm.ActivateCredential(offer.Credential, offer.EncryptedSecret); err == nil {
		t.Error("another TPM opened the credential")
	}
	_, err = s.Finish(t.Context(), thief.spki(), thief.exporter[:], thief.activation(stolen, offer, make([]byte, 32)))
	wantProblem(t, "another TPM with this key's name", err, reason.AKNotBound)
}
