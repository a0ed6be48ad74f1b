package identity_test

import (
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

// Two roots have signed the plant's key. The device chooses which certificates it sends, so the root that does not speak
// for its manufacturer must count when it is shown beside one that does.
func TestEveryChainIsHeldAgainstTheManufacturer(t *testing.T) {
	t.Parallel()
	right, wrong := evidencetest.NewCA("right"), evidencetest.NewCA("wrong")
	plant := right.IntermediateOfWords("plant", "plant of two roots", nil)
	crossed := wrong.IntermediateOfWords("plant", "plant of two roots", nil)
	ek := plant.NewEK(nil)
	roots, err := identity.NewRoots(
		identity.Root{Certificate: right.Certificate, Manufacturers: []string{"id:54534D00"}},
		identity.Root{Certificate: wrong.Certificate, Manufacturers: []string{"id:49465800"}})
	if err != nil {
		t.Fatal(err)
	}
	policy := identity.EKPolicy{Roots: roots}
	if _, problems := policy.Verify(ek.Certificate, [][]byte{plant.Certificate.Raw}, today); len(problems) > 0 {
		t.Errorf("the right chain alone: %+v", problems)
	}
	for name, chain := range map[string][][]byte{
		"wrong root alone": {crossed.Certificate.Raw},
		"both":             {plant.Certificate.Raw, crossed.Certificate.Raw},
		"both, turned":     {crossed.Certificate.Raw, plant.Certificate.Raw},
	} {
		_, problems := policy.Verify(ek.Certificate, chain, today)
		if len(problems) != 1 || !strings.Contains(problems[0].Detail, "does not speak for this manufacturer") {
			t.Errorf("%s: got %+v", name, problems)
		}
	}
}

// A root in the operator's file without a bond does not loosen the one that is shipped with a bond.
func TestBondIsNotLostByNamingTheRootAgain(t *testing.T) {
	t.Parallel()
	ca := evidencetest.NewCA("maker")
	ek := ca.NewEK(nil)
	shipped, own := bound(t, ca, "id:49465800"), bound(t, ca)
	for name, roots := range map[string]identity.Roots{"shipped first": shipped.With(own), "own first": own.With(shipped)} {
		if _, problems := (identity.EKPolicy{Roots: roots}).Verify(ek.Certificate, nil, today); len(problems) == 0 {
			t.Errorf("%s: a TPM of another manufacturer is accepted", name)
		}
	}
}

// Whoever holds the key of a denied issuer writes what he likes into the certificates that he makes with it. Its key is
// what counts, and it is found by each of its identifiers.
func TestDeniedIssuerCannotCallItselfAnother(t *testing.T) {
	t.Parallel()
	root := evidencetest.NewCA("maker")
	plant := root.Intermediate("plant", nil)
	honest := plant.NewEK(nil)
	alias := plant
	renamed := *plant.Certificate
	renamed.SubjectKeyId = []byte{1, 2, 3, 4}
	alias.Certificate = &renamed
	lying := alias.Certify(honest.Private, nil)
	policy := identity.EKPolicy{Roots: bound(t, root, "id:54534D00")}
	for name, leaf := range map[string][]byte{"honest": honest.Certificate, "lying": lying.Certificate} {
		ek, problems := policy.Verify(leaf, [][]byte{plant.Certificate.Raw}, today)
		if len(problems) > 0 {
			t.Fatalf("%s: %+v", name, problems)
		}
		if got, want := len(ek.Issuers), 6; got != want { // three identifiers of plant and root
			t.Errorf("%s: got %d identifiers %q, want %d", name, got, ek.Issuers, want)
		}
		for _, id := range append(ek.Issuers, hex.EncodeToString(plant.Certificate.SubjectKeyId)) {
			if _, denied := identity.Denied(ek, 0, []identity.Denial{{Issuer: id, Why: "key lost"}}); !denied {
				t.Errorf("%s: not denied by %s", name, id)
			}
			serial := identity.Denial{Serial: hex.EncodeToString(ek.Certificate.SerialNumber.Bytes()), Issuer: id, Why: "withdrawn"}
			if _, denied := identity.Denied(ek, 0, []identity.Denial{serial}); !denied {
				t.Errorf("%s: serial number not denied below %s", name, id)
			}
		}
	}
	if cert, err := x509.ParseCertificate(lying.Certificate); err != nil || hex.EncodeToString(cert.AuthorityKeyId) != "01020304" {
		t.Errorf("the lying certificate names its issuer truly: %v", err)
	}
}
