package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issued has the server show a certificate of a CA, each valid in its own time.
func (s *server) issued(t *testing.T, ca, leaf [2]time.Time) (trusted []byte) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(name string, valid [2]time.Time) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: valid[0], NotAfter: valid[1]}
	}
	caKey, leafKey := key(), key()
	authority := template("ca", ca)
	authority.IsCA, authority.BasicConstraintsValid, authority.KeyUsage = true, true, x509.KeyUsageCertSign
	server := template("server", leaf)
	server.DNSNames, server.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	signed := func(c *x509.Certificate, public *ecdsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, authority, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	s.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{signed(server, leafKey.Public().(*ecdsa.PublicKey))}, PrivateKey: leafKey}}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed(authority, caKey.Public().(*ecdsa.PublicKey))})
}

// A device without a clock believes certificates that are newer than itself, and none that has ended by then.
func TestCertificateNewerThanTheDevicesClock(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return start.Add(time.Duration(n) * 24 * time.Hour) }
	for _, tt := range []struct {
		name     string
		ca, leaf [2]time.Time
		foreign  bool
		want     string
	}{
		{"both are newer", [2]time.Time{day(9), day(900)}, [2]time.Time{day(10), day(100)}, false, ""},
		{"the authority is the newest", [2]time.Time{day(10), day(900)}, [2]time.Time{day(9), day(100)}, false, ""},
		{"it has ended before its authority begins", [2]time.Time{day(10), day(900)}, [2]time.Time{day(1), day(9)}, false, "is the device's clock right?"},
		{"the authority has ended before it begins", [2]time.Time{day(1), day(9)}, [2]time.Time{day(10), day(100)}, false, "is the device's clock right?"},
		{"it has ended", [2]time.Time{day(-20), day(900)}, [2]time.Time{day(-20), day(-10)}, false, "is the device's clock right?"},
		{"newer and of another authority", [2]time.Time{day(9), day(900)}, [2]time.Time{day(10), day(100)}, true, "unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			trusted := d.server.issued(t, tt.ca, tt.leaf)
			if !tt.foreign {
				d.server.ca = trusted
			}
			d.restart()
			_, err := d.client.Step(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Step: %v, want %q", err, tt.want)
			}
		})
	}
}
