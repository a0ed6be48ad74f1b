package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

// An intermediate comes from whoever asks. With a key of 50,000 bits one check of a signature takes as long as hundreds of
// ordinary enrollments, so it must not be looked at.
func TestRefusesIntermediatesWithHugeKeys(t *testing.T) {
	t.Parallel()
	maker := evidencetest.NewCA("TPM maker")
	ek := maker.NewEK(nil)
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 50_000)
	for name, key := range map[string]*rsa.PublicKey{
		"huge modulus":  {N: huge.SetBit(huge, 0, 1), E: 65537},
		"huge exponent": {N: ek.Private.N, E: 1<<31 - 1},
	} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "TPM maker"}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(1_600_000_000, 0), NotAfter: time.Unix(2_600_000_000, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		_, problems := identity.VerifyEK(ek.Certificate, [][]byte{der}, maker.Pool(), time.Unix(1_780_000_000, 0))
		if !slices.ContainsFunc(problems, func(p identity.Problem) bool { return strings.Contains(p.Detail, "unusual key") }) {
			t.Errorf("%s: got %v", name, problems)
		}
	}
}
