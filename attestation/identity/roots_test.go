package identity_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestRootsFileBindsEachCertificate(t *testing.T) {
	t.Parallel()
	a, b := evidencetest.NewCA("a"), evidencetest.NewCA("b")
	text := "subject=CN = a\nManufacturers: id:49465800, id:4e544300\r\n" + pemOf(a.Certificate.Raw) +
		"\n# nobody\n" + pemOf(b.Certificate.Raw) + "the end\n"
	roots, err := identity.ParseRoots([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	list := roots.List()
	if len(list) != 2 || !slices.Equal(list[0].Manufacturers, []string{"id:49465800", "id:4E544300"}) || list[1].Manufacturers != nil {
		t.Errorf("got %+v", list)
	}
	twice, err := identity.ParseRoots([]byte(pemOf(a.Certificate.Raw) + text + "# manufacturers: id:53544D20\n" + pemOf(a.Certificate.Raw)))
	if err != nil {
		t.Fatal(err)
	}
	if got := twice.List()[0].Manufacturers; twice.Len() != 2 || !slices.Equal(got, []string{"id:49465800", "id:4E544300", "id:53544D20"}) {
		t.Errorf("a certificate that is there three times speaks for %v", got)
	}
	if got := twice.With(roots).Len(); got != 2 {
		t.Errorf("both together: got %d certificates, want 2", got)
	}
}

// A bond that somebody meant to make and did not must not pass for a root that speaks for everybody.
func TestRefusesRootsFiles(t *testing.T) {
	t.Parallel()
	good := pemOf(evidencetest.NewCA("a").Certificate.Raw)
	tests := map[string]string{
		"empty":                      "",
		"no certificate":             "hello\n",
		"wrong word":                 "Manufacturer: id:49465800\n" + good,
		"no colon":                   "manufacturers id:49465800\n" + good,
		"letters":                    "Manufacturers: IFX\n" + good,
		"nothing":                    "Manufacturers:\n" + good,
		"empty entry":                "Manufacturers: id:49465800,\n" + good,
		"two lines":                  "Manufacturers: id:49465800\nManufacturers: id:49465800\n" + good,
		"after the last certificate": good + "Manufacturers: id:49465800\n",
		"inside a certificate":       strings.Replace(good, "-----\n", "-----\nManufacturers: id:49465800\n\n", 1),
		"private key":                strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE KEY"),
		"damaged certificate":        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n" + good,
		"damaged last certificate":   good + "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
		"no DER":                     pemOf([]byte("x")),
		"too large":                  good + strings.Repeat("#\n", identity.MaxRootsBytes/2),
		"too many manufacturers":     "Manufacturers: " + strings.Repeat("id:49465800, ", 16) + "id:49465800\n" + good,
	}
	for name, text := range tests {
		if _, err := identity.ParseRoots([]byte(text)); !errors.Is(err, identity.ErrRoots) {
			t.Errorf("%s: got %v, want ErrRoots", name, err)
		}
	}
	if _, err := identity.NewRoots(identity.Root{}); !errors.Is(err, identity.ErrRoots) {
		t.Errorf("no certificate: got %v, want ErrRoots", err)
	}
	if _, err := identity.NewRoots(identity.Root{Certificate: evidencetest.NewCA("a").Certificate, Manufacturers: []string{"IFX"}}); !errors.Is(err, identity.ErrRoots) {
		t.Errorf("no manufacturer: got %v, want ErrRoots", err)
	}
}

func TestNoRootsAcceptNothing(t *testing.T) {
	t.Parallel()
	ek := evidencetest.NewCA("maker").NewEK(nil)
	for name, policy := range map[string]identity.EKPolicy{"zero value": {}, "empty set": {Roots: identity.Roots{}.With(identity.Roots{})}} {
		if _, problems := policy.Verify(ek.Certificate, nil, today); len(problems) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	if got := (identity.Roots{}).Pool(); got == nil {
		t.Error("a nil pool would stand for the roots of the system")
	}
}

// What V-10 to V-13 say about certificates: the cases, each with exactly its outcome.
func TestEKCases(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.IdentityCases() {
		if c.EK == nil || len(c.EK.Denials) > 0 {
			continue
		}
		policy, err := c.EK.Policy()
		if err != nil {
			t.Fatal(err)
		}
		ek, problems := policy.Verify(c.EK.Certificate, c.EK.Intermediates, c.EK.At)
		if got, want := len(problems) > 0, len(c.Reasons) > 0; got != want {
			t.Errorf("%s %s: refused %t, want %t: %+v", c.ID, c.Name, got, want, problems)
		}
		if len(problems) == 0 && (ek.Device == "" || ek.Manufacturer == "" || ek.Model == "" || ek.Version == "" || len(ek.Issuers) == 0) {
			t.Errorf("%s %s: incomplete: %+v", c.ID, c.Name, ek)
		}
	}
}

// V-12: the Name is that of the one template, whatever a device says.
func TestNameOfTheEKIsMadeFromTheStandardTemplate(t *testing.T) {
	t.Parallel()
	ca := evidencetest.NewCA("maker")
	ek, other := ca.NewEK(nil), ca.NewEK(nil)
	name, err := identity.EKName(ek.SPKI)
	again, err2 := identity.EKName(ek.SPKI)
	foreign, err3 := identity.EKName(other.SPKI)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	if len(name) != 34 || !bytes.Equal(name, again) || bytes.Equal(name, foreign) {
		t.Errorf("Names: %x, %x, %x", name, again, foreign)
	}
	if _, err := identity.EKName(nil); !errors.Is(err, identity.ErrCredential) {
		t.Errorf("got %v, want ErrCredential", err)
	}
}

func FuzzParseRoots(f *testing.F) {
	f.Add([]byte("Manufacturers: id:49465800\n" + pemOf(ekVector(f, "root.pem"))))
	for _, name := range []string{"infineon-rsa.pem", "nuvoton-1110.pem"} {
		b, err := os.ReadFile("manufacturer/roots/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = identity.ParseRoots(b) })
		roots, err := identity.ParseRoots(b)
		if err != nil {
			if !errors.Is(err, identity.ErrRoots) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		if roots.Len() == 0 {
			t.Error("no certificate and no error")
		}
	})
}
