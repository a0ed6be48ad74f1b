package identity

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrRoots is returned for a file that does not hold certificates of TPM manufacturers, or not in the form that
// ParseRoots describes.
var ErrRoots = errors.New("not a file of manufacturers' certificates")

// Limits of a roots file.
const (
	MaxRootsBytes    = 1 << 20
	maxRoots         = 1024
	maxManufacturers = 16
)

// Root is a certificate that chains of endorsement certificates may end in.
type Root struct {
	Certificate *x509.Certificate
	// Manufacturers are the TPM manufacturers that it speaks for, as "id:49465800". Empty: it is bound to none, and a
	// TPM that chains to it may call itself anything.
	Manufacturers []string
}

// Roots is a set of such certificates. The zero value holds none and accepts nothing; a Roots never changes.
type Roots struct {
	pool  *x509.CertPool
	bound map[[sha256.Size]byte][]string // of the certificate; a certificate that is not in it is bound to nobody
	list  []Root
}

// NewRoots makes a set. A certificate that is there twice keeps the manufacturers of both: naming one again without
// any takes no bond away. It returns ErrRoots for a root without a certificate or with a manufacturer that is none.
func NewRoots(list ...Root) (Roots, error) {
	r := Roots{pool: x509.NewCertPool(), bound: map[[sha256.Size]byte][]string{}}
	for _, root := range list {
		if root.Certificate == nil || len(root.Certificate.Raw) == 0 {
			return Roots{}, fmt.Errorf("%w: a root without a certificate", ErrRoots)
		}
		id := sha256.Sum256(root.Certificate.Raw)
		for _, m := range root.Manufacturers {
			if !vendorID(m) {
				return Roots{}, fmt.Errorf("%w: %q is no manufacturer, want id: and eight hex digits", ErrRoots, m)
			}
			if m = canonicalManufacturer(m); !slices.Contains(r.bound[id], m) {
				r.bound[id] = append(r.bound[id], m)
			}
		}
		r.pool.AddCert(root.Certificate)
		i := slices.IndexFunc(r.list, func(have Root) bool { return have.Certificate.Equal(root.Certificate) })
		if i < 0 {
			i, r.list = len(r.list), append(r.list, Root{Certificate: root.Certificate})
		}
		r.list[i].Manufacturers = r.bound[id]
	}
	return r, nil
}

// With returns the set of r's and other's certificates.
func (r Roots) With(other Roots) Roots {
	both, err := NewRoots(slices.Concat(r.list, other.list)...)
	if err != nil { // both were made by NewRoots
		return Roots{}
	}
	return both
}

// List returns the certificates in the order in which they were given.
func (r Roots) List() []Root { return slices.Clone(r.list) }

// Len is the number of certificates.
func (r Roots) Len() int { return len(r.list) }

// Pool returns the certificates without their bonds.
func (r Roots) Pool() *x509.CertPool {
	if r.pool == nil {
		return x509.NewCertPool()
	}
	return r.pool.Clone()
}

// manufacturers of an anchor; nil when it is bound to none.
func (r Roots) manufacturers(anchor *x509.Certificate) []string {
	return r.bound[sha256.Sum256(anchor.Raw)]
}

const manufacturersKey = "manufacturers:"

// ParseRoots reads PEM certificates, each bound to the manufacturers that a line of its own before it names:
//
//	Manufacturers: id:49465800, id:53544D20
//	-----BEGIN CERTIFICATE-----
//
// Other text between certificates is ignored, as other tools do; a line that begins with "manufacturer" in any spelling
// must be of this form and must be followed by a certificate. A certificate without such a line is bound to none. It
// returns ErrRoots when there is no certificate, or something that is neither text nor a certificate.
func ParseRoots(text []byte) (Roots, error) {
	if len(text) > MaxRootsBytes {
		return Roots{}, fmt.Errorf("%w: %d bytes, at most %d", ErrRoots, len(text), MaxRootsBytes)
	}
	var list []Root
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil { // then rest is all of it
			rest = nil
		}
		manufacturers, err := readManufacturers(text[:len(text)-len(rest)], block == nil)
		if err != nil {
			return Roots{}, err
		}
		if text = rest; block == nil {
			break
		}
		root, err := parseRoot(block)
		if err != nil {
			return Roots{}, fmt.Errorf("certificate %d: %w", len(list)+1, err)
		}
		root.Manufacturers = manufacturers
		if list = append(list, root); len(list) > maxRoots {
			return Roots{}, fmt.Errorf("%w: more than %d certificates", ErrRoots, maxRoots)
		}
	}
	if len(list) == 0 {
		return Roots{}, fmt.Errorf("%w: it holds no PEM certificate", ErrRoots)
	}
	return NewRoots(list...)
}

func parseRoot(block *pem.Block) (Root, error) {
	if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
		return Root{}, fmt.Errorf("%w: a PEM block of type %q with %d headers", ErrRoots, block.Type, len(block.Headers))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Root{}, fmt.Errorf("%w: %w", ErrRoots, err)
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxIssuerBits {
		return Root{}, fmt.Errorf("%w: an RSA key of %d bits", ErrRoots, key.N.BitLen())
	}
	return Root{Certificate: cert}, nil
}

// readManufacturers reads the text up to the end of one certificate; last is set for the text after the last one.
func readManufacturers(text []byte, last bool) ([]string, error) {
	var found []string
	seen, begun := false, false
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("-----BEGIN")) {
			if begun || last { // package pem skips a block that it cannot read
				return nil, fmt.Errorf("%w: a PEM block that cannot be read", ErrRoots)
			}
			begun = true
		}
		s := strings.Trim(string(line), "# \t\r\n")
		if len(s) < len("manufact") || !strings.EqualFold(s[:len("manufact")], "manufact") {
			continue
		}
		if seen || last || begun || len(s) < len(manufacturersKey) || !strings.EqualFold(s[:len(manufacturersKey)], manufacturersKey) {
			return nil, fmt.Errorf("%w: the line %.80q is not one \"Manufacturers: id:HHHHHHHH, ...\" before a certificate", ErrRoots, s)
		}
		seen = true
		for name := range strings.SplitSeq(s[len(manufacturersKey):], ",") {
			if name = strings.TrimSpace(name); !vendorID(name) || len(found) == maxManufacturers {
				return nil, fmt.Errorf("%w: %.40q is no manufacturer, want id: and eight hex digits, at most %d of them", ErrRoots, name, maxManufacturers)
			}
			found = append(found, canonicalManufacturer(name))
		}
	}
	return found, nil
}
