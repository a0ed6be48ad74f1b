package enroll_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// genuine is a device with a real TPM.
type genuine struct {
	t        *testing.T
	tpm      *tpm.TPM
	part     *parts.TPM
	exporter [32]byte
}

func newGenuine(t *testing.T) *genuine {
	t.Helper()
	part := parts.TestTPM(t)
	opened, err := tpm.Open(part.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return &genuine{t: t, tpm: opened, part: part, exporter: sha256.Sum256([]byte(part.Addr()))}
}

// serverFor trusts the manufacturer of the TPM.
func serverFor(t *testing.T, g *genuine) (server, [][]byte) {
	t.Helper()
	w := appraisetest.New(t)
	w.Advance(time.Since(w.Now())) // the manufacturer's certificates are new
	rootsPEM, intermediatesPEM, err := g.part.CARoots()
	if err != nil {
		t.Fatal(err)
	}
	roots := must(identity.ParseRoots(rootsPEM))(t)
	var chain [][]byte
	for block, rest := pem.Decode(intermediatesPEM); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	challenges := appraise.NewChallenges(bytes.Repeat([]byte{9}, 32), 5*time.Minute)
	return server{w, enroll.New(w.Store, enroll.Admission{Policy: identity.EKPolicy{Roots: roots}, Bare: true}, challenges, bytes.Repeat([]byte{8}, 32), standing.Rules{Terms: appraisetest.Settings.Terms}, 5*time.Minute, w.Now)}, chain
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (g *genuine) spki() []byte {
	g.t.Helper()
	signer := must(g.tpm.TLSSigner())(g.t)
	return must(x509.MarshalPKIXPublicKey(signer.Public()))(g.t)
}

func (g *genuine) request(chain [][]byte) wire.EnrollRequest {
	g.t.Helper()
	return wire.EnrollRequest{
		EKCertificate: must(g.tpm.EKCertificate())(g.t).Raw, EKChain: chain,
		AKPublic: must(g.tpm.AKPublic())(g.t), TLSPublic: must(g.tpm.TLSPublic())(g.t),
	}
}

func (g *genuine) activation(first wire.EnrollRequest, offer wire.EnrollChallenge, secret []byte) wire.ActivateRequest {
	g.t.Helper()
	index := must(g.tpm.EnsureCounter())(g.t)
	claims := must(json.Marshal(wire.Claims{Version: wire.ClaimsVersion, Counter: &wire.Counter{Index: index}}))(g.t)
	log := evidencetest.DirectUKI(evidencetest.Release("lamp/1")).Bytes()
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: attestation.PurposeEnroll, Nonce: offer.Challenge, Device: offer.Device, Exporter: g.exporter[:],
		LogDigests: []digest.SHA256{digest.Of(log)}, Claims: digest.Of(claims),
	})
	q := must(g.tpm.Quote(transcript[:]))(g.t)
	out := wire.ActivateRequest{Enroll: first, Challenge: offer.Challenge, Claims: claims}
	out.Evidence = must(attestation.EncodeEvidence(attestation.Evidence{
		Version: attestation.EvidenceVersion, Quote: q.Attest, Signature: q.Signature, PCRs: q.PCRs, LogDigest: digest.Of(log), Log: log,
	}))(g.t)
	var err error
	if out.Certify, out.CertifySignature, err = g.tpm.CertifyTLS(transcript[:]); err != nil {
		g.t.Fatal(err)
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(transcript[:])
	out.HMAC = mac.Sum(nil)
	return out
}

func (g *genuine) enroll(s server, chain [][]byte) (wire.ActivateAnswer, error) {
	g.t.Helper()
	first := g.request(chain)
	offer := must(s.Start(g.t.Context(), g.spki(), first))(g.t)
	secret := must(g.tpm.ActivateCredential(offer.Credential, offer.EncryptedSecret))(g.t)
	return s.Finish(g.t.Context(), g.spki(), g.exporter[:], g.activation(first, offer, secret))
}

func TestGenuineTPMEnrollsAndComesBackAfterClear(t *testing.T) {
	t.Parallel()
	g := newGenuine(t)
	s, chain := serverFor(t, g)
	got, err := g.enroll(s, chain)
	id := must(g.tpm.DeviceID())(t).String()
	if err != nil || got.Lifecycle != "pending" || got.Device != id {
		t.Fatalf("got %+v, %v", got, err)
	}
	first := must(s.Store.Device(t.Context(), id))(t)
	if again, err := g.enroll(s, chain); err != nil || again.CounterBase != got.CounterBase {
		t.Errorf("again: got %+v, %v", again, err)
	}
	row := first
	row.Lifecycle, row.Standing, row.HighCounter, row.Proven = fleet.Active, fleet.Affirmed, 3, "lamp/3"
	s.commit(t, store.PutDevice{Device: row})
	must(g.tpm.RaiseCounter(got.CounterBase + 3))(t)

	channel := must(g.part.Open())(t)
	if err := tpm2.Clear(channel, tpm2.HandleLockout, tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}); err != nil {
		t.Fatal(err)
	}
	_ = channel.Close()
	_ = g.tpm.Close()
	g.tpm = must(tpm.Open(g.part.Addr()))(t)
	t.Cleanup(func() { _ = g.tpm.Close() })
	got, err = g.enroll(s, chain)
	if err != nil {
		t.Fatal(err)
	}
	after := must(s.Store.Device(t.Context(), id))(t)
	index := must(g.tpm.Counter())(t)
	if !bytes.Equal(after.AKPublic, first.AKPublic) || after.TLSKey == first.TLSKey || after.Standing != fleet.Stale || index-got.CounterBase != 3 {
		t.Errorf("after TPM2_Clear: got %+v, %s, counter %d", got, after.Standing, index)
	}
	if !slices.Contains(s.Events(id), "device.reactivated") {
		t.Errorf("events %v", s.Events(id))
	}
}

// N42, N49: a TPM cannot open what was made for another one, and a TPM of a maker that is not pinned is not admitted.
func TestGenuineTPMsCannotStandInForEachOther(t *testing.T) {
	t.Parallel()
	victim, thief := newGenuine(t), newGenuine(t)
	s, chain := serverFor(t, victim)
	stolen := thief.request(chain)
	stolen.EKCertificate = must(victim.tpm.EKCertificate())(t).Raw
	offer := must(s.Start(t.Context(), thief.spki(), stolen))(t)
	if secret, err := thief.tpm.ActivateCredential(offer.Credential, offer.EncryptedSecret); err == nil {
		t.Errorf("another TPM opened the credential: %x", secret)
	}
	_, err := s.Finish(t.Context(), thief.spki(), thief.exporter[:], thief.activation(stolen, offer, make([]byte, 32)))
	wantProblem(t, "guessed secret", err, reason.AKNotBound)
	_, err = newServer(t).Start(t.Context(), thief.spki(), thief.request(chain))
	wantProblem(t, "unknown maker", err, reason.EKUntrusted)
}
