package identity

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
)

// Limits on what VerifyEK looks at.
const (
	MaxCertificateBytes = 8 << 10
	MaxIntermediates    = 4
	maxIssuerBits       = 8192
)

// clockTolerance is how far in the future an EK certificate may begin: TPMs are provisioned by machines with their
// own clocks.
const clockTolerance = 24 * time.Hour

// EK is an endorsement key, and what its certificate says about its TPM.
type EK struct {
	Certificate  *x509.Certificate // nil for a key without one
	SPKI         []byte            // DER SubjectPublicKeyInfo of the key, in its canonical form
	Device       DeviceID
	Manufacturer string // as the certificate writes it, for example "id:53544D20"
	Model        string
	Version      string // firmware version at manufacture, for example "id:00010002"
	// Issuers are the key identifiers of every certificate above the key, in each chain to a root: subject key
	// identifier, SHA-1 of the public key bits, SHA-256 of the SubjectPublicKeyInfo; lower-case hex. Denied reads them.
	Issuers []string
	Notes   []string // what was tolerated, for the audit record: V-11
}

// EKPolicy is which endorsement certificates a verifier believes. The zero value believes none.
type EKPolicy struct {
	// Roots are what chains must end in. A root that is bound to manufacturers speaks for no other one: a TPM that
	// chains to it must name one of them. A root that is bound to none accepts any manufacturer, which is noted.
	Roots Roots
	// Manufacturers, if there are any, are the only ones whose TPMs are accepted, as "id:49465800".
	Manufacturers []string
	// RefuseUnbound refuses chains that end in a root that is bound to no manufacturer.
	RefuseUnbound bool
	// RefuseExpired refuses endorsement certificates after their end. Otherwise they are accepted and noted: many never
	// get renewed, and some have ended before their TPM was sold (V-11).
	RefuseExpired bool
}

// VerifyEK is EKPolicy.Verify for roots that are bound to no manufacturer.
func VerifyEK(leafDER []byte, intermediates [][]byte, roots *x509.CertPool, at time.Time) (EK, []Problem) {
	return EKPolicy{Roots: Roots{pool: roots}}.Verify(leafDER, intermediates, at)
}

// Verify checks an endorsement certificate (V-10): chain, not a CA, key usage, extended key usage if there is one, the
// TPM attributes in the subject alternative name, and that the root may speak for the TPM's manufacturer. Trailing
// padding, as TPMs have in their NV index, is tolerated. The chain must have been valid at some moment within the
// leaf's own validity. Every failing check is returned, always with reason ek_untrusted; the EK is usable only when
// there is none.
func (p EKPolicy) Verify(leafDER []byte, intermediates [][]byte, at time.Time) (EK, []Problem) {
	return p.verify(leafDER, intermediates, at, ekRules[:])
}

func (p EKPolicy) verify(leafDER []byte, intermediates [][]byte, at time.Time, rules []ekRule) (EK, []Problem) {
	leaf, err := parseCertificate(leafDER, certificateRules(rules))
	if err != nil {
		return EK{}, []Problem{untrusted(err.Error(), "", "")}
	}
	r := ekReading{policy: p, at: at, leaf: leaf, ek: EK{Certificate: leaf}, sent: len(intermediates)}
	if err := r.readKey(); err != nil {
		return EK{Certificate: leaf}, []Problem{untrusted(err.Error(), "", "")}
	}
	r.readTPM()
	r.readChain(intermediates, rules)
	var problems []Problem
	for _, rule := range rules {
		if rule.check != nil {
			problems = append(problems, rule.check(&r)...)
		}
	}
	return r.ek, problems
}

// StoredEK reads an endorsement certificate that was verified when its device was admitted, to hold it against denials.
// issuers are EK.Issuers of that time. It proves nothing.
func StoredEK(certificate []byte, issuers []string) (EK, error) {
	leaf, err := ParseEKCertificate(certificate)
	if err != nil {
		return EK{}, err
	}
	r := ekReading{leaf: leaf, ek: EK{Certificate: leaf, Issuers: issuers}}
	if err := r.readKey(); err != nil {
		return EK{}, err
	}
	r.readTPM()
	return r.ek, nil
}

// EKWithoutCertificate checks the DER SubjectPublicKeyInfo of an endorsement key that has no certificate (V-20). A
// good one is well-formed and strong enough, and nothing more: that a TPM holds it must come from somebody who saw it.
// The EK has no manufacturer, and its note says that nobody vouches for it.
func EKWithoutCertificate(spki []byte) (EK, []Problem) {
	if len(spki) > MaxPublicBytes {
		return EK{}, []Problem{untrusted("the endorsement key is too long", fmt.Sprint(MaxPublicBytes), fmt.Sprint(len(spki)))}
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return EK{}, []Problem{untrusted("the endorsement key cannot be parsed", "", "")}
	}
	r := ekReading{leaf: &x509.Certificate{PublicKey: key}}
	if err := r.readKey(); err != nil {
		return EK{}, []Problem{untrusted(err.Error(), "", "")}
	}
	r.ek.Notes = []string{"no manufacturer vouches for the endorsement key: it has no certificate"}
	var problems []Problem
	for _, rule := range ekRules {
		if rule.key {
			problems = append(problems, rule.check(&r)...)
		}
	}
	return r.ek, problems
}

var errCertificate = errors.New("certificate cannot be parsed")

// ParseEKCertificate parses one certificate, with nothing but padding (all 0x00 or all 0xff) after it.
func ParseEKCertificate(der []byte) (*x509.Certificate, error) {
	return parseCertificate(der, certificateRules(ekRules[:]))
}

func parseCertificate(der []byte, rules []ekRule) (*x509.Certificate, error) {
	for _, r := range rules {
		if r.size != nil && !r.size(len(der)) {
			return nil, fmt.Errorf("%w: %d bytes, at most %d", errCertificate, len(der), MaxCertificateBytes)
		}
	}
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not DER", errCertificate)
	}
	for _, r := range rules {
		if r.padding != nil && !r.padding(rest) {
			return nil, fmt.Errorf("%w: %d bytes after it that are not padding", errCertificate, len(rest))
		}
	}
	cert, err := x509.ParseCertificate(outer.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCertificate, err)
	}
	return cert, nil
}

// ekReading is what the rules look at: one certificate, read as far as it can be.
type ekReading struct {
	policy EKPolicy
	at     time.Time
	leaf   *x509.Certificate
	ek     EK
	name   tpmName // of the subject alternative name

	sent     int       // intermediates
	bad      []Problem // intermediates that cannot be read
	huge     []Problem // intermediates with a key that takes too long
	chains   [][]*x509.Certificate
	chainErr error
}

// readKey fills SPKI and Device. A kind of key that X.509 has no form for ends the reading; the rules judge the others.
func (r *ekReading) readKey() error {
	spki, err := x509.MarshalPKIXPublicKey(r.leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("the endorsement key is of an unsupported kind: %s", r.leaf.PublicKeyAlgorithm)
	}
	r.ek.SPKI, r.ek.Device = spki, DeviceIDOf(spki)
	return nil
}

// keyText says what kind of key it is.
func keyText(key any) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d with %d", key.N.BitLen(), key.E)
	case *ecdsa.PublicKey:
		return key.Curve.Params().Name
	}
	return fmt.Sprintf("%T", key)
}

// vendorID reports whether s is "id:" and eight hex digits (TCG Vendor ID Registry).
func vendorID(s string) bool {
	hexDigits, ok := strings.CutPrefix(s, "id:")
	return ok && len(hexDigits) == 8 && strings.Trim(hexDigits, "0123456789abcdefABCDEF") == ""
}

// canonicalManufacturer writes a manufacturer with capital digits; other text stays as it is.
func canonicalManufacturer(s string) string {
	if !vendorID(s) {
		return s
	}
	return "id:" + strings.ToUpper(s[len("id:"):])
}

func sameManufacturer(a, b string) bool {
	return vendorID(a) && canonicalManufacturer(a) == canonicalManufacturer(b)
}

func untrusted(detail, expected, seen string) Problem {
	return Problem{Reason: reason.EKUntrusted, Detail: detail, Expected: expected, Seen: seen}
}
