package identity_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

const ekVectors = "../../conformance/vectors/ek"

var today = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

func ekVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(ekVectors, name))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(b); block != nil {
		return block.Bytes
	}
	return b
}

func swtpmRoots(t testing.TB) *x509.CertPool {
	t.Helper()
	root, err := x509.ParseCertificate(ekVector(t, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return pool
}

func bound(t testing.TB, ca evidencetest.CA, manufacturers ...string) identity.Roots {
	t.Helper()
	roots, err := identity.NewRoots(identity.Root{Certificate: ca.Certificate, Manufacturers: manufacturers})
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func TestAcceptsGenuineEKCertificates(t *testing.T) {
	t.Parallel()
	issuer := [][]byte{ekVector(t, "issuer.pem")}
	for _, name := range []string{"ek-rsa2048.crt", "ek-secp384r1.crt"} {
		for _, padding := range []string{"", "\x00\x00\x00", "\xff\xff"} {
			ek, problems := identity.VerifyEK(append(ekVector(t, name), padding...), issuer, swtpmRoots(t), today)
			if len(problems) > 0 {
				t.Fatalf("%s: %+v", name, problems)
			}
			if got, want := ek.Manufacturer+" "+ek.Model+" "+ek.Version, "id:00001014 swtpm id:20191023"; got != want {
				t.Errorf("TPM: got %q, want %q", got, want)
			}
			if got, want := ek.Device, identity.DeviceIDOf(ek.Certificate.RawSubjectPublicKeyInfo); got != want {
				t.Errorf("device: got %s, want %s", got, want)
			}
			if len(ek.Notes) != 2 || !strings.Contains(ek.Notes[0], "bound to no manufacturer") || !strings.Contains(ek.Notes[1], "does not know the manufacturer") {
				t.Errorf("notes: got %q, want that nobody vouches for the manufacturer", ek.Notes)
			}
		}
	}
}

func TestExpiredEKCertificateIsAcceptedAndNoted(t *testing.T) {
	t.Parallel()
	ca := evidencetest.NewCA("maker")
	short := ca.Intermediate("short", func(c *x509.Certificate) { c.NotAfter = time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC) })
	expired := ca.NewEK(func(c *x509.Certificate) { c.NotAfter = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC) })
	policy := identity.EKPolicy{Roots: bound(t, ca, "id:54534D00")}
	ek, problems := policy.Verify(expired.Certificate, nil, today)
	if len(problems) > 0 || len(ek.Notes) != 1 || !strings.Contains(ek.Notes[0], "2024-01-01") {
		t.Errorf("expired leaf: problems %+v, notes %q", problems, ek.Notes)
	}
	issued := short.Certify(expired.Private, nil)
	ek, problems = policy.Verify(issued.Certificate, [][]byte{short.Certificate.Raw}, today)
	if len(problems) > 0 || len(ek.Notes) != 1 {
		t.Errorf("expired issuer: problems %+v, notes %q", problems, ek.Notes)
	}
}

// N40, N46 and the checks of V-10, each broken alone.
func TestRefusesEKCertificates(t *testing.T) {
	t.Parallel()
	ca, forger := evidencetest.NewCA("maker"), evidencetest.NewCA("maker")
	good := ca.NewEK(nil)
	altered := func(change func(*x509.Certificate)) []byte { return ca.Certify(good.Private, change).Certificate }
	san := func(e pkix.Extension) []byte {
		return altered(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{e} })
	}
	twoNames := evidencetest.TPMName("id:54534D00", "m", "id:1")
	var name []asn1.RawValue
	if _, err := asn1.Unmarshal(twoNames.Value, &name); err != nil {
		t.Fatal(err)
	}
	twice, err := asn1.Marshal(append(name, name...))
	if err != nil {
		t.Fatal(err)
	}
	twoNames.Value = twice
	many := make([][]byte, identity.MaxIntermediates+1)
	for i := range many {
		many[i] = ca.Certificate.Raw
	}
	roots := ca.Pool()
	tests := []struct {
		name          string
		leaf          []byte
		intermediates [][]byte
		roots         *x509.CertPool
		at            time.Time
		detail        string
	}{
		{"forged issuer of the same name", forger.NewEK(nil).Certificate, nil, roots, today, "chain"},
		{"no roots configured", good.Certificate, nil, nil, today, "no TPM manufacturer root"},
		{"empty root pool", good.Certificate, nil, x509.NewCertPool(), today, "chain"},
		{"a CA", altered(func(c *x509.Certificate) { c.IsCA = true }), nil, roots, today, "not a CA"},
		{"no basic constraints", altered(func(c *x509.Certificate) { c.BasicConstraintsValid = false }), nil, roots, today, "not a CA"},
		{"key usage of a signer", altered(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), nil, roots, today, "key usage"},
		{"EKU of a TLS client", altered(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil, roots, today, "something else"},
		{"EKU of an AK", altered(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }), nil, roots, today, "something else"},
		{"no SAN", altered(func(c *x509.Certificate) { c.ExtraExtensions = nil }), nil, roots, today, "no subject alternative name"},
		{"SAN without model", san(evidencetest.TPMName("id:54534D00", "", "id:1")), nil, roots, today, "lacks a TPM attribute"},
		{"vendor without id:", san(evidencetest.TPMName("TSM", "m", "id:1")), nil, roots, today, "lacks a TPM attribute"},
		{"SAN is no DER", san(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte("x")}), nil, roots, today, ""},
		{"two directory names", san(twoNames), nil, roots, today, "bad directory name"},
		{"unknown critical extension", altered(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), nil, roots, today, "unhandled critical extension"},
		{"not valid yet", good.Certificate, nil, roots, time.Date(2020, 6, 1, 0, 0, 0, 0, time.UTC), "not valid yet"},
		{"too many intermediates", good.Certificate, many, roots, today, "too many"},
		{"an intermediate that is none", good.Certificate, [][]byte{[]byte("x")}, roots, today, "intermediate"},
		{"bytes after it", append(bytes.Clone(good.Certificate), 0, 1), nil, roots, today, "not padding"},
		{"empty", nil, nil, roots, today, "not DER"},
		{"too large", make([]byte, identity.MaxCertificateBytes+1), nil, roots, today, "at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, problems := identity.VerifyEK(tt.leaf, tt.intermediates, tt.roots, tt.at)
			if len(problems) == 0 {
				t.Fatal("accepted")
			}
			found := false
			for _, p := range problems {
				found = found || strings.Contains(p.Detail, tt.detail)
				if p.Reason != reason.EKUntrusted {
					t.Errorf("reason: got %s, want %s", p.Reason, reason.EKUntrusted)
				}
			}
			if !found {
				t.Errorf("got %+v, want a problem about %q", problems, tt.detail)
			}
		})
	}
	if _, problems := identity.VerifyEK(good.Certificate, nil, roots, today); len(problems) > 0 {
		t.Errorf("the unaltered certificate: %+v", problems)
	}
}

// N42: the credential opens only with the EK and for the AK that it was made for.
func TestCredentialOpensOnlyForItsKeys(t *testing.T) {
	t.Parallel()
	ca := evidencetest.NewCA("maker")
	ek, otherEK := ca.NewEK(nil), ca.NewEK(nil)
	ak, otherAK := evidencetest.NewAK(seed("ak")), evidencetest.NewAK(seed("other"))
	secret := bytes.Repeat([]byte{7}, 32)
	blob, sealed, err := identity.MakeCredential(ek.SPKI, ak.Name(), secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ek.Activate(blob, sealed, ak.Name())
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("got %x, %v, want %x", got, err, secret)
	}
	if _, err := ek.Activate(blob, sealed, otherAK.Name()); !errors.Is(err, evidencetest.ErrActivation) {
		t.Errorf("other AK: got %v, want ErrActivation", err)
	}
	if _, err := otherEK.Activate(blob, sealed, ak.Name()); !errors.Is(err, evidencetest.ErrActivation) {
		t.Errorf("other EK: got %v, want ErrActivation", err)
	}
}

func TestRefusesToMakeWeakCredentials(t *testing.T) {
	t.Parallel()
	ek := evidencetest.NewCA("maker").NewEK(nil)
	p384, err := x509.ParseCertificate(ekVector(t, "ek-secp384r1.crt"))
	if err != nil {
		t.Fatal(err)
	}
	name, secret := evidencetest.NewAK(seed("ak")).Name(), make([]byte, 32)
	tests := []struct {
		name               string
		spki, akName, data []byte
	}{
		{"P-384 EK", p384.RawSubjectPublicKeyInfo, name, secret},
		{"no EK", nil, name, secret},
		{"short name", ek.SPKI, name[:33], secret},
		{"SHA-1 name", ek.SPKI, append([]byte{0, 4}, name[2:]...), secret},
		{"short secret", ek.SPKI, name, secret[:15]},
		{"long secret", ek.SPKI, name, make([]byte, 33)},
	}
	for _, tt := range tests {
		if _, _, err := identity.MakeCredential(tt.spki, tt.akName, tt.data); !errors.Is(err, identity.ErrCredential) {
			t.Errorf("%s: got %v, want ErrCredential", tt.name, err)
		}
	}
}

func FuzzVerifyEK(f *testing.F) {
	roots := swtpmRoots(f)
	issuer := ekVector(f, "issuer.pem")
	genuine, ecc := ekVector(f, "ek-rsa2048.crt"), ekVector(f, "ek-secp384r1.crt")
	f.Add(genuine)
	f.Add(ecc)
	f.Add(issuer)
	f.Fuzz(func(t *testing.T, der []byte) {
		evidencetest.Bounded(t, len(der), func() { identity.VerifyEK(der, [][]byte{issuer}, roots, today) })
		_, problems := identity.VerifyEK(der, [][]byte{issuer}, roots, today)
		trimmed := bytes.TrimRight(bytes.TrimRight(der, "\x00"), "\xff")
		if len(problems) == 0 && !bytes.HasPrefix(genuine, trimmed) && !bytes.HasPrefix(ecc, trimmed) {
			t.Errorf("accepted a certificate that nobody issued: %x", der)
		}
	})
}
