// Package manufacturer holds certificates of TPM manufacturers, each bound to the manufacturer ids that it speaks for.
//
// It promises that each file is byte for byte the certificate that its row of the table names by SHA-256, and says
// where the bytes came from and who else has the same. It refuses to be complete: a manufacturer changes his
// certificates without telling anybody, most intermediates are not here, and a root that is bound to one manufacturer
// does not speak for another one that it may have signed for. What is missing belongs into the operator's own file.
//
// Believing them is a choice: who uses Roots trusts every manufacturer in the table, and whoever holds one of their
// keys, to say what a genuine TPM is.
//
// Trusted: an attacker who controls this package can enroll software as TPMs.
package manufacturer

import (
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/identity"
)

//go:embed roots/*.pem
var files embed.FS

// ErrUnknown is returned for a manufacturer that the table does not have.
var ErrUnknown = errors.New("no certificate of this manufacturer is shipped")

// Entry is a row of the table.
type Entry struct {
	File         string // below roots
	Manufacturer string // id: and eight hex digits
	Name         string // of the manufacturer, in plain words
	SHA256       string // of the DER certificate
	NotAfter     string // its end, as a date
	Source       string // where the bytes came from
	Confirmed    string // who else has the same bytes; empty: nobody else that was asked
}

// Names returns the manufacturers' names of the table, sorted.
func Names() []string {
	var names []string
	for _, e := range table {
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Table returns every row.
func Table() []Entry { return slices.Clone(table[:]) }

// Roots returns every certificate of the table, bound to its manufacturer. An error means that this build is damaged.
func Roots() (identity.Roots, error) { return RootsOf(Names()...) }

// RootsOf returns the certificates of some manufacturers, by the names that Names returns. It returns ErrUnknown for
// any other name.
func RootsOf(names ...string) (identity.Roots, error) {
	var list []identity.Root
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return identity.Roots{}, fmt.Errorf("%w: %.40q", ErrUnknown, name)
		}
	}
	for _, e := range table {
		if !slices.Contains(names, e.Name) {
			continue
		}
		cert, err := e.Certificate()
		if err != nil {
			return identity.Roots{}, err
		}
		list = append(list, identity.Root{Certificate: cert, Manufacturers: []string{e.Manufacturer}})
	}
	return identity.NewRoots(list...)
}

// Certificate reads the entry's file. It returns an error unless it is exactly the certificate of the row.
func (e Entry) Certificate() (*x509.Certificate, error) {
	b, err := files.ReadFile("roots/" + e.File)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", e.File, err)
	}
	block, rest := pem.Decode(b)
	if block == nil || len(rest) > 0 {
		return nil, fmt.Errorf("cannot read certificate %s: not exactly one PEM block", e.File)
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != e.SHA256 {
		return nil, fmt.Errorf("cannot read certificate %s: its SHA-256 is not that of the table", e.File)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", e.File, err)
	}
	return cert, nil
}
