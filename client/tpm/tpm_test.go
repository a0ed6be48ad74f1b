package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func open(t *testing.T, p *parts.TPM) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(p.Addr())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func publicOf(t *testing.T, raw []byte, err error) identity.Public {
	t.Helper()
	if err != nil {
		t.Fatalf("reading public area: %v", err)
	}
	p, err := identity.ParsePublic(raw)
	if err != nil {
		t.Fatalf("ParsePublic: %v", err)
	}
	return p
}

func ak(t *testing.T, d *tpm.TPM) identity.Public {
	t.Helper()
	raw, err := d.AKPublic()
	return publicOf(t, raw, err)
}

func tlsKey(t *testing.T, d *tpm.TPM) identity.Public {
	t.Helper()
	raw, err := d.TLSPublic()
	return publicOf(t, raw, err)
}

func TestKeysPassTheVerifiersAdmission(t *testing.T) {
	t.Parallel()
	d := open(t, parts.TestTPM(t))
	if problems := identity.CheckAK(ak(t, d)); problems != nil {
		t.Errorf("CheckAK: %v", problems)
	}
	if problems := identity.CheckTLSKey(tlsKey(t, d)); problems != nil {
		t.Errorf("CheckTLSKey: %v", problems)
	}
	extra := sha256.Sum256([]byte("transcript"))
	attest, sig, err := d.CertifyTLS(extra[:])
	if err != nil {
		t.Fatalf("CertifyTLS: %v", err)
	}
	signer, err := d.QualifiedSigner()
	if err != nil {
		t.Fatalf("QualifiedSigner: %v", err)
	}
	if problems := identity.VerifyCertify(ak(t, d), signer, attest, sig, extra[:], tlsKey(t, d)); problems != nil {
		t.Errorf("VerifyCertify: %v", problems)
	}
}

func TestQuoteSignsTheRegistersThatItReturns(t *testing.T) {
	t.Parallel()
	p := parts.TestTPMWith(t, parts.TPMConfig{TCPAddr: "127.0.0.1:0"})
	d := open(t, p)
	extra := sha256.Sum256([]byte("transcript"))
	q, err := d.Quote(extra[:])
	if err != nil {
		t.Fatalf("Quote: %v", err)
	}
	if err := quote.VerifySignature(ak(t, d).Key, q.Attest, q.Signature); err != nil {
		t.Errorf("VerifySignature: %v", err)
	}
	a, err := quote.ParseQuote(q.Attest)
	if err != nil {
		t.Fatalf("ParseQuote: %v", err)
	}
	var values []digest.SHA256
	var selection uint32
	for _, p := range q.PCRs {
		values = append(values, p.Value)
		selection |= 1 << p.Index
	}
	if got := quote.PCRDigest(values); got != a.PCRDigest {
		t.Errorf("digest of the values = %v, want the quoted %v", got, a.PCRDigest)
	}
	if a.Selection != selection {
		t.Errorf("quoted selection = %#x, want %#x", a.Selection, selection)
	}
	if !bytes.Equal(a.ExtraData, extra[:]) {
		t.Errorf("extra data = %x, want %x", a.ExtraData, extra)
	}
	want, err := d.QualifiedSigner()
	if err != nil || !bytes.Equal(a.QualifiedSigner, want) {
		t.Errorf("qualified signer = %x, want %x (%v)", a.QualifiedSigner, want, err)
	}
}

func TestActivatesOnlyItsOwnCredential(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	ek, err := d.EKCertificate()
	if err != nil {
		t.Fatalf("EKCertificate: %v", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ek.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	blob, sealed, err := identity.MakeCredential(spki, ak(t, d).Name, secret)
	if err != nil {
		t.Fatalf("MakeCredential: %v", err)
	}
	got, err := d.ActivateCredential(blob, sealed)
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("ActivateCredential = %x, %v, want the secret", got, err)
	}
	other := bytes.Clone(ak(t, d).Name)
	other[5] ^= 1
	blob, sealed, err = identity.MakeCredential(spki, other, secret)
	if err != nil {
		t.Fatalf("MakeCredential: %v", err)
	}
	if _, err := d.ActivateCredential(blob, sealed); err == nil {
		t.Error("ActivateCredential accepted a credential for another key")
	}
	if _, err := d.ActivateCredential(append(blob, 0), sealed); err == nil {
		t.Error("ActivateCredential accepted trailing bytes")
	}
	id, err := d.DeviceID()
	if err != nil || id != identity.DeviceIDOf(spki) {
		t.Errorf("DeviceID = %q, %v, want %q", id, err, identity.DeviceIDOf(spki))
	}
}

func TestTLSKeySignsForTLSOnly(t *testing.T) {
	t.Parallel()
	d := open(t, parts.TestTPM(t))
	s, err := d.TLSSigner()
	if err != nil {
		t.Fatalf("TLSSigner: %v", err)
	}
	sum := sha256.Sum256([]byte("handshake"))
	sig, err := s.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), sum[:], sig) {
		t.Error("the signature does not verify")
	}
	if _, err := s.Sign(rand.Reader, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("Sign accepted a SHA-384 digest")
	}
}

func TestKeysSurviveARebootAndClearReplacesTheTLSKey(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	akBefore, tlsBefore := ak(t, d).Name, tlsKey(t, d).Name
	if _, err := d.EnsureCounter(); err != nil {
		t.Fatalf("EnsureCounter: %v", err)
	}
	before, err := d.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reset(t.Context()); err != nil {
		t.Fatalf("Reset: %v", err)
	}
	after, err := d.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if !after.After(before) || after.ResetCount != before.ResetCount+1 {
		t.Errorf("clock after a reboot = %+v, want later than %+v with one more reset", after, before)
	}
	extra := make([]byte, 32)
	if _, err := d.Quote(extra); err != nil { // the saved contexts are void now
		t.Errorf("Quote after a reboot: %v", err)
	}
	again := open(t, p)
	if !bytes.Equal(ak(t, again).Name, akBefore) || !bytes.Equal(tlsKey(t, again).Name, tlsBefore) {
		t.Error("keys changed over a reboot")
	}
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.Clear(rw, tpm2.HandleLockout, tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}); err != nil {
		t.Fatalf("TPM2_Clear: %v", err)
	}
	cleared := open(t, p)
	if !bytes.Equal(ak(t, cleared).Name, akBefore) {
		t.Error("TPM2_Clear changed the attestation key")
	}
	if bytes.Equal(tlsKey(t, cleared).Name, tlsBefore) {
		t.Error("TPM2_Clear kept the TLS key")
	}
	if _, err := cleared.Counter(); !errors.Is(err, tpm.ErrNoCounter) {
		t.Errorf("Counter after TPM2_Clear: %v, want ErrNoCounter", err)
	}
}

func TestCounterOnlyGrowsAlsoWhenItIsDeleted(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	if _, err := d.Counter(); !errors.Is(err, tpm.ErrNoCounter) {
		t.Fatalf("Counter of a new TPM: %v, want ErrNoCounter", err)
	}
	base, err := d.EnsureCounter()
	if err != nil {
		t.Fatalf("EnsureCounter: %v", err)
	}
	if got, err := d.RaiseCounter(base + 7); err != nil || got != base+7 {
		t.Fatalf("RaiseCounter = %d, %v, want %d", got, err, base+7)
	}
	if got, err := d.RaiseCounter(base); err != nil || got != base+7 {
		t.Errorf("RaiseCounter to less = %d, %v, want %d", got, err, base+7)
	}
	if _, err := d.RaiseCounter(base + 1<<20); err == nil {
		t.Error("RaiseCounter wore the TPM out")
	}
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.NVUndefineSpace(rw, "", tpm2.HandleOwner, tpm.CounterIndex); err != nil {
		t.Fatalf("NVUndefineSpace: %v", err)
	}
	if _, err := d.Counter(); !errors.Is(err, tpm.ErrNoCounter) {
		t.Errorf("Counter after deletion: %v, want ErrNoCounter", err)
	}
	if got, err := d.EnsureCounter(); err != nil || got < base+7 {
		t.Errorf("EnsureCounter after deletion = %d, %v, want at least %d", got, err, base+7)
	}
}

func TestWorksWhenDeadProcessesLeftTheirObjectsBehind(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	template := tpm2.Public{
		Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: tpm2.FlagSignerDefault,
		ECCParameters: &tpm2.ECCParams{CurveID: tpm2.CurveNISTP256, Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}},
	}
	for range 3 {
		if _, _, err := tpm2.CreatePrimary(rw, tpm2.HandleOwner, tpm2.PCRSelection{}, "", "", template); err != nil {
			t.Fatalf("CreatePrimary: %v", err)
		}
	}
	if _, err := open(t, p).Quote(make([]byte, 32)); err != nil {
		t.Errorf("Quote: %v", err)
	}
}

func TestClosedTPMRefuses(t *testing.T) {
	t.Parallel()
	d := open(t, parts.TestTPM(t))
	if locked, err := d.LockedOut(); err != nil || locked {
		t.Errorf("LockedOut = %v, %v, want false", locked, err)
	}
	if err := d.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, err := d.Quote(make([]byte, 32)); !errors.Is(err, tpm.ErrClosed) {
		t.Errorf("Quote after Close: %v, want ErrClosed", err)
	}
}

// TestWorksInLockout drives the TPM into dictionary-attack lockout: the device's own keys and its counter have noDA, so
// an honest device can still prove itself, and the lockout is seen.
func TestWorksInLockout(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	base, err := d.EnsureCounter()
	if err != nil {
		t.Fatalf("EnsureCounter: %v", err)
	}
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	victim := tpm2.Public{
		Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: tpm2.FlagSignerDefault &^ tpm2.FlagRestricted,
		ECCParameters: &tpm2.ECCParams{CurveID: tpm2.CurveNISTP256, Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}},
	}
	h, _, err := tpm2.CreatePrimary(rw, tpm2.HandleOwner, tpm2.PCRSelection{}, "", "secret", victim)
	if err != nil {
		t.Fatalf("CreatePrimary: %v", err)
	}
	locked := false
	for range 64 {
		if _, err := tpm2.Sign(rw, h, "wrong", make([]byte, 32), nil, nil); err == nil {
			t.Fatal("a wrong password was accepted")
		}
		if locked, err = d.LockedOut(); err != nil {
			t.Fatalf("LockedOut: %v", err)
		}
		if locked {
			break
		}
	}
	if !locked {
		t.Fatal("the TPM never went into lockout")
	}
	if err := tpm2.FlushContext(rw, h); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Quote(make([]byte, 32)); err != nil {
		t.Errorf("Quote in lockout: %v", err)
	}
	if got, err := d.RaiseCounter(base + 1); err != nil || got != base+1 {
		t.Errorf("RaiseCounter in lockout = %d, %v", got, err)
	}
	if !errors.Is(tpm.Typed(tpm2.Warning{Code: tpm2.RCLockout}), tpm.ErrLockedOut) {
		t.Error("the TPM's code for lockout is not ErrLockedOut")
	}
}
