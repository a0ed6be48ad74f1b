package manufacturer_test

import (
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/identity/manufacturer"
)

// Each file is the certificate of its row, ends when the row says, is a CA, and is signed by itself or by another one.
func TestCertificatesAreWhatTheTableSays(t *testing.T) {
	t.Parallel()
	var all []*x509.Certificate
	for _, e := range manufacturer.Table() {
		cert, err := e.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, cert)
		if got := cert.NotAfter.UTC().Format(time.DateOnly); got != e.NotAfter {
			t.Errorf("%s: ends at %s, the table says %s", e.File, got, e.NotAfter)
		}
		if !cert.IsCA || !cert.BasicConstraintsValid {
			t.Errorf("%s is no CA", e.File)
		}
		if !identity.KnownManufacturer(e.Manufacturer) || e.Source == "" || e.Name == "" {
			t.Errorf("%s: incomplete row %+v", e.File, e)
		}
	}
	for i, cert := range all {
		if !slices.ContainsFunc(all, func(issuer *x509.Certificate) bool {
			return issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
		}) {
			t.Errorf("%s is signed by none of them", manufacturer.Table()[i].File)
		}
	}
}

func TestEveryFileHasARow(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("roots")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, e := range manufacturer.Table() {
		rows = append(rows, e.File)
	}
	if !slices.IsSorted(rows) || len(slices.Compact(slices.Clone(rows))) != len(rows) {
		t.Error("the table is not sorted, or names a file twice")
	}
	for _, f := range files {
		if !slices.Contains(rows, f.Name()) {
			t.Errorf("%s has no row", f.Name())
		}
	}
}

func TestEveryRootIsBoundToItsManufacturer(t *testing.T) {
	t.Parallel()
	roots, err := manufacturer.Roots()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := roots.Len(), len(manufacturer.Table()); got != want {
		t.Errorf("got %d roots, want %d", got, want)
	}
	for i, root := range roots.List() {
		if e := slices.IndexFunc(manufacturer.Table(), func(e manufacturer.Entry) bool {
			return slices.Equal(root.Manufacturers, []string{e.Manufacturer})
		}); e < 0 {
			t.Errorf("root %d (%s) is bound to %v", i, root.Certificate.Subject, root.Manufacturers)
		}
	}
	some, err := manufacturer.RootsOf("intel")
	if err != nil || some.Len() != 2 {
		t.Errorf("intel: got %d roots, %v, want 2", some.Len(), err)
	}
	if _, err := manufacturer.RootsOf("intel", "acme"); !errors.Is(err, manufacturer.ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
}
