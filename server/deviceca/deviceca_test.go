package deviceca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/server/deviceca"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func authority(t *testing.T, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.Add(10 * time.Hour),
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestIssue(t *testing.T) {
	t.Parallel()
	cert, key := authority(t, nil)
	ca, err := deviceca.New(cert, key, "example.org")
	if err != nil {
		t.Fatal(err)
	}
	tls := evidencetest.NewTLSKey(evidencetest.Seed("tls"))
	chain, serial, err := ca.Issue("d", tls.Public, now, now.Add(2*time.Hour))
	if err != nil || len(chain) != 2 {
		t.Fatalf("got %d certificates, %v", len(chain), err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("the certificate passes as a server's")
	}
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://example.org/device/d" || !leaf.NotAfter.Equal(now.Add(2*time.Hour)) ||
		leaf.SerialNumber.Text(16) != serial || !tls.Private.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("got %v until %s for %v, serial %s", leaf.URIs, leaf.NotAfter, leaf.PublicKey, serial)
	}
	if _, again, _ := ca.Issue("d", tls.Public, now, now.Add(time.Hour)); again == serial {
		t.Error("the same serial twice")
	}
	if chain, _, err := ca.Issue("d", tls.Public, now, now.AddDate(1, 0, 0)); err != nil {
		t.Error(err)
	} else if leaf, err := x509.ParseCertificate(chain[0]); err != nil || leaf.NotAfter.After(cert.NotAfter) {
		t.Errorf("outlives its CA: %s, %v", leaf.NotAfter, err)
	}
	for name, at := range map[string]time.Time{"no time": now, "the past": now.Add(-time.Hour)} {
		if _, _, err := ca.Issue("d", tls.Public, now, at); !errors.Is(err, deviceca.ErrLifetime) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := ca.Issue("d", tls.Public, now.Add(11*time.Hour), now.Add(12*time.Hour)); !errors.Is(err, deviceca.ErrLifetime) {
		t.Errorf("after the CA's end: got %v", err)
	}
	if _, _, err := ca.Issue("d", []byte("no key"), now, now.Add(time.Hour)); err == nil || errors.Is(err, deviceca.ErrLifetime) {
		t.Errorf("no key: got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	cert, key := authority(t, nil)
	leaf, leafKey := authority(t, func(c *x509.Certificate) { c.IsCA = false })
	for name, make := range map[string]func() (*deviceca.CA, error){
		"key of another":  func() (*deviceca.CA, error) { return deviceca.New(cert, leafKey, "example.org") },
		"no CA":           func() (*deviceca.CA, error) { return deviceca.New(leaf, leafKey, "example.org") },
		"no trust domain": func() (*deviceca.CA, error) { return deviceca.New(cert, key, "") },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
