package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func use(t *testing.T, d *tpm.TPM, generation uint32) {
	t.Helper()
	if err := d.UseGeneration(generation); err != nil {
		t.Fatal(err)
	}
}

func TestEveryGenerationIsAKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	seen := map[string]uint32{}
	for _, generation := range []uint32{0, 1, 2, tpm.MaxGeneration} {
		use(t, d, generation)
		key := ak(t, d)
		if problems := identity.CheckAK(key); problems != nil {
			t.Errorf("generation %d: %v", generation, problems)
		}
		if twin, twice := seen[string(key.Name)]; twice {
			t.Errorf("generations %d and %d are one key", twin, generation)
		}
		seen[string(key.Name)] = generation
		q, err := d.Quote([]byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := quote.VerifySignature(key.Key, q.Attest, q.Signature); err != nil {
			t.Errorf("generation %d: its quote: %v", generation, err)
		}
	}
	if err := d.UseGeneration(tpm.MaxGeneration + 1); !errors.Is(err, tpm.ErrGeneration) {
		t.Errorf("got %v, want ErrGeneration", err)
	}
	again := open(t, p) // another process: the first generation until it is told otherwise
	if got, ok := seen[string(ak(t, again).Name)]; !ok || got != 0 {
		t.Errorf("generation %d, %v after Open", got, ok)
	}
	use(t, again, 2)
	if got := seen[string(ak(t, again).Name)]; got != 2 {
		t.Errorf("another process derives the key of generation %d for 2", got)
	}
}

func TestGenerationVouchesForTheNext(t *testing.T) {
	t.Parallel()
	d := open(t, parts.TestTPM(t))
	old := ak(t, d)
	oldSigner, err := d.QualifiedSigner()
	if err != nil {
		t.Fatal(err)
	}
	use(t, d, 1)
	transcript := sha256.Sum256([]byte("transcript"))
	certify, signature, err := d.CertifyAK(0, transcript[:])
	if err != nil {
		t.Fatal(err)
	}
	if p := identity.VerifySuccessor(old, oldSigner, certify, signature, transcript[:], ak(t, d)); p != nil {
		t.Errorf("VerifySuccessor: %v", p)
	}
	use(t, d, 2)
	if p := identity.VerifySuccessor(old, oldSigner, certify, signature, transcript[:], ak(t, d)); p == nil {
		t.Error("the certification counts for another generation")
	}
	if _, _, err := d.CertifyAK(tpm.MaxGeneration+1, transcript[:]); !errors.Is(err, tpm.ErrGeneration) {
		t.Errorf("got %v, want ErrGeneration", err)
	}
}

func TestTPMWithoutACertificateIsTheSameDevice(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	d := open(t, p)
	cert, err := d.EKCertificate()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.EKPublic(); err != nil || !bytes.Equal(got, spki) {
		t.Errorf("EKPublic is not the key of the certificate: %v", err)
	}
	want, err := d.DeviceID()
	if err != nil {
		t.Fatal(err)
	}
	dropCertificate(t, p)
	bare := open(t, p)
	if _, err := bare.EKCertificate(); !errors.Is(err, tpm.ErrNoEKCertificate) {
		t.Errorf("got %v, want ErrNoEKCertificate", err)
	}
	if got, err := bare.DeviceID(); err != nil || got != want {
		t.Errorf("device %s, %v, want %s", got, err, want)
	}
}

// dropCertificate deletes the EK certificate, as in a TPM that came without one.
func dropCertificate(t *testing.T, p *parts.TPM) {
	t.Helper()
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.NVUndefineSpace(rw, "", tpm2.HandlePlatform, tpmutil.Handle(0x01c00002)); err != nil {
		t.Fatal(err)
	}
}
