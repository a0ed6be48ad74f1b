package wire_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/wire"
)

func authority(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func bundle(t testing.TB, downloads ...wire.Download) []byte {
	t.Helper()
	b, err := json.Marshal(wire.Trust{Version: wire.TrustVersion, Server: "https://cordon.example:8443", TrustDomain: "example.org", ServerCA: authority(t),
		ImageRoot: []byte("{}"), DirectorRoot: []byte("{}"), Downloads: downloads})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTrustWithoutDownloadsIsTheOldForm(t *testing.T) {
	t.Parallel()
	b := bundle(t)
	if strings.Contains(string(b), "downloads") {
		t.Errorf("got %s: clients from before downloads would refuse it", b)
	}
	if _, err := wire.DecodeTrust(b); err != nil {
		t.Error(err)
	}
}

func TestDownloadsOfATrustBundle(t *testing.T) {
	t.Parallel()
	ca := authority(t)
	good := []wire.Download{{Host: "s3.example:443", CA: ca}, {Host: "[::1]:9000"}}
	trust, err := wire.DecodeTrust(bundle(t, good...))
	if err != nil || len(trust.Downloads) != 2 {
		t.Fatalf("got %+v, %v", trust.Downloads, err)
	}
	if pool, err := trust.Downloads[0].Pool(); err != nil || pool == nil {
		t.Errorf("Pool: got %v, %v", pool, err)
	}
	if pool, err := trust.Downloads[1].Pool(); err != nil || pool != nil {
		t.Errorf("Pool of the system: got %v, %v", pool, err)
	}
	for name, bad := range map[string][]wire.Download{
		"no host": {{}}, "no port": {{Host: "s3.example"}}, "URL": {{Host: "https://s3.example:443"}}, "path": {{Host: "s3.example:443/x"}},
		"user": {{Host: "u@s3.example:443"}}, "empty port": {{Host: "s3.example:"}}, "no certificate": {{Host: "s3.example:443", CA: "x"}},
		"too many": make([]wire.Download, wire.MaxDownloads+1),
	} {
		if _, err := wire.DecodeTrust(bundle(t, bad...)); !errors.Is(err, wire.ErrTrust) {
			t.Errorf("%s: got %v, want %v", name, err, wire.ErrTrust)
		}
	}
}

func FuzzDecodeTrust(f *testing.F) {
	f.Add(bundle(f))
	f.Add(bundle(f, wire.Download{Host: "s3.example:443", CA: authority(f)}))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		trust, err := wire.DecodeTrust(b)
		if err != nil {
			return
		}
		if _, err := trust.Pool(); err != nil {
			t.Errorf("Pool: %v", err)
		}
		for _, d := range trust.Downloads {
			if _, err := d.Pool(); err != nil {
				t.Errorf("Pool of %s: %v", d.Host, err)
			}
		}
	})
}
