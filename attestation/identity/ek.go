package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
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

// EK is an endorsement key whose certificate chains to a trusted TPM manufacturer.
type EK struct {
	Certificate  *x509.Certificate
	SPKI         []byte // DER SubjectPublicKeyInfo of the key, in its canonical form
	Device       DeviceID
	Manufacturer string // as the certificate writes it, for example "id:53544D20"
	Model        string
	Version      string   // firmware version at manufacture, for example "id:00010002"
	Notes        []string // what was tolerated, for the audit record: V-11
}

// Object identifiers of the TCG EK Credential Profile, section 3.
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion        = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

var errCertificate = errors.New("certificate cannot be parsed")

// VerifyEK checks an endorsement certificate against roots (V-10): chain, not a CA, key usage, extended key usage if
// there is one, and the TPM attributes in the subject alternative name. Trailing padding, as TPMs have in their NV
// index, is tolerated. An expired certificate is accepted and noted, since many never get renewed (V-11); the chain
// must have been valid at some moment within the leaf's own validity. Every failing check is returned, always with
// reason ek_untrusted; the EK is usable only when there is none.
func VerifyEK(leafDER []byte, intermediates [][]byte, roots *x509.CertPool, at time.Time) (EK, []Problem) {
	leaf, err := ParseEKCertificate(leafDER)
	if err != nil {
		return EK{}, []Problem{untrusted(err.Error(), "", "")}
	}
	ek := EK{Certificate: leaf}
	problems := checkUsage(leaf)
	problems = append(problems, ek.readKey()...)
	problems = append(problems, ek.readTPM()...)
	problems = append(problems, ek.verifyChain(intermediates, roots, at)...)
	return ek, problems
}

// ParseEKCertificate parses one certificate, with nothing but padding (all 0x00 or all 0xff) after it.
func ParseEKCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertificateBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errCertificate, len(der), MaxCertificateBytes)
	}
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not DER", errCertificate)
	}
	if len(bytes.Trim(rest, "\x00")) > 0 && len(bytes.Trim(rest, "\xff")) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after it that are not padding", errCertificate, len(rest))
	}
	cert, err := x509.ParseCertificate(outer.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCertificate, err)
	}
	return cert, nil
}

func checkUsage(leaf *x509.Certificate) []Problem {
	var problems []Problem
	if !leaf.BasicConstraintsValid || leaf.IsCA {
		problems = append(problems, untrusted("the endorsement certificate does not say that it is not a CA", "CA:FALSE", fmt.Sprintf("CA:%t", leaf.IsCA)))
	}
	want := x509.KeyUsageKeyEncipherment
	if leaf.PublicKeyAlgorithm == x509.ECDSA {
		want = x509.KeyUsageKeyAgreement
	}
	if leaf.KeyUsage&want == 0 {
		problems = append(problems, untrusted("the endorsement certificate lacks the key usage of its kind of key", fmt.Sprintf("%#x", want), fmt.Sprintf("%#x", leaf.KeyUsage)))
	}
	hasEKU := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0
	if hasEKU && !slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		problems = append(problems, untrusted("the endorsement certificate is meant for something else", oidEKCertificate.String(), fmt.Sprint(leaf.UnknownExtKeyUsage)))
	}
	return problems
}

// readKey fills SPKI and Device.
func (ek *EK) readKey() []Problem {
	switch key := ek.Certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits || key.E != defaultExponent {
			return []Problem{untrusted("the endorsement key has an unusual size or exponent", "RSA 2048 to 4096 with 65537", fmt.Sprintf("RSA %d with %d", bits, key.E))}
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return []Problem{untrusted("the endorsement key is on another curve", "P-256 or P-384", key.Curve.Params().Name)}
		}
	default:
		return []Problem{untrusted("the endorsement key is of an unsupported kind", "RSA or ECC", ek.Certificate.PublicKeyAlgorithm.String())}
	}
	spki, err := x509.MarshalPKIXPublicKey(ek.Certificate.PublicKey)
	if err != nil {
		return []Problem{untrusted("the endorsement key cannot be encoded", "", "")}
	}
	ek.SPKI, ek.Device = spki, DeviceIDOf(spki)
	return nil
}

// readTPM fills Manufacturer, Model and Version from the directoryName of the subject alternative name, and marks
// that extension as understood: crypto/x509 does not know this kind of name.
func (ek *EK) readTPM() []Problem {
	i := slices.IndexFunc(ek.Certificate.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return []Problem{untrusted("the endorsement certificate has no subject alternative name with the TPM's attributes", "", "")}
	}
	names, err := directoryNames(ek.Certificate.Extensions[i].Value)
	if err != nil {
		return []Problem{untrusted(err.Error(), "", "")}
	}
	for _, attribute := range slices.Concat(names...) {
		text, ok := attribute.Value.(string)
		if !ok {
			continue
		}
		switch {
		case attribute.Type.Equal(oidManufacturer):
			ek.Manufacturer = text
		case attribute.Type.Equal(oidModel):
			ek.Model = text
		case attribute.Type.Equal(oidVersion):
			ek.Version = text
		}
	}
	if !vendorID(ek.Manufacturer) || ek.Model == "" || ek.Version == "" {
		return []Problem{untrusted("the endorsement certificate lacks a TPM attribute", "manufacturer id:HHHHHHHH, model, version",
			fmt.Sprintf("%q, %q, %q", ek.Manufacturer, ek.Model, ek.Version))}
	}
	ek.Certificate.UnhandledCriticalExtensions = slices.DeleteFunc(ek.Certificate.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	return nil
}

// directoryNames returns the relative names of the one directoryName in a GeneralNames (RFC 5280, 4.2.1.6). A second
// directoryName is refused: it could name another TPM.
func directoryNames(san []byte) ([]pkix.RelativeDistinguishedNameSET, error) {
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(san, &sequence)
	if err != nil || len(rest) > 0 || sequence.Class != asn1.ClassUniversal || sequence.Tag != asn1.TagSequence || !sequence.IsCompound {
		return nil, fmt.Errorf("%w: bad subject alternative name", errCertificate)
	}
	var found []pkix.RelativeDistinguishedNameSET
	for rest := sequence.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil, fmt.Errorf("%w: bad subject alternative name", errCertificate)
		}
		if name.Class != asn1.ClassContextSpecific || name.Tag != 4 {
			continue
		}
		var rdn pkix.RDNSequence
		if after, err := asn1.Unmarshal(name.Bytes, &rdn); err != nil || len(after) > 0 || found != nil {
			return nil, fmt.Errorf("%w: bad directory name", errCertificate)
		}
		found = append([]pkix.RelativeDistinguishedNameSET{}, rdn...)
	}
	return found, nil
}

// vendorID reports whether s is "id:" and eight hex digits (TCG Vendor ID Registry).
func vendorID(s string) bool {
	hexDigits, ok := strings.CutPrefix(s, "id:")
	return ok && len(hexDigits) == 8 && strings.Trim(hexDigits, "0123456789abcdefABCDEF") == ""
}

func (ek *EK) verifyChain(intermediates [][]byte, roots *x509.CertPool, at time.Time) []Problem {
	if roots == nil { // crypto/x509 would take the system's web roots
		return []Problem{untrusted("no TPM manufacturer root is configured", "", "")}
	}
	pool, problems := intermediatePool(intermediates)
	leaf := ek.Certificate
	switch {
	case at.Before(leaf.NotBefore.Add(-clockTolerance)):
		problems = append(problems, untrusted("the endorsement certificate is not valid yet", leaf.NotBefore.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339)))
		return problems
	case at.Before(leaf.NotBefore):
		at = leaf.NotBefore
	case at.After(leaf.NotAfter):
		ek.Notes = append(ek.Notes, "the endorsement certificate expired at "+leaf.NotAfter.UTC().Format(time.RFC3339))
		at = leaf.NotAfter
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	_, err := leaf.Verify(options)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		options.CurrentTime = leaf.NotBefore
		if _, err = leaf.Verify(options); err == nil {
			ek.Notes = append(ek.Notes, "an issuer of the endorsement certificate is not valid any more; it was when the certificate was issued")
		}
	}
	if err != nil {
		problems = append(problems, untrusted(fmt.Sprintf("the endorsement certificate does not chain to a trusted manufacturer: %v", err), "", leaf.Issuer.String()))
	}
	return problems
}

func intermediatePool(ders [][]byte) (*x509.CertPool, []Problem) {
	pool := x509.NewCertPool()
	if len(ders) > MaxIntermediates {
		return pool, []Problem{untrusted("too many intermediate certificates", fmt.Sprint(MaxIntermediates), fmt.Sprint(len(ders)))}
	}
	var problems []Problem
	for _, der := range ders {
		cert, err := ParseEKCertificate(der)
		if err != nil {
			problems = append(problems, untrusted(fmt.Sprintf("an intermediate %v", err), "", ""))
			continue
		}
		// Whoever asks brings the intermediates: a huge key would let him choose how long a signature takes to check.
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() > maxIssuerBits || key.E != defaultExponent) {
			problems = append(problems, untrusted("an intermediate has an unusual key", "RSA up to 8192 with 65537", fmt.Sprintf("RSA %d with %d", key.N.BitLen(), key.E)))
			continue
		}
		pool.AddCert(cert)
	}
	return pool, problems
}

func untrusted(detail, expected, seen string) Problem {
	return Problem{Reason: reason.EKUntrusted, Detail: detail, Expected: expected, Seen: seen}
}
