package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ekRule is one thing that an endorsement certificate must have. A row looks at its size, at what follows it, or at
// what was read from it.
type ekRule struct {
	id      string // stable: tests name it
	key     bool   // holds for an endorsement key without a certificate, too
	size    func(int) bool
	padding func([]byte) bool
	check   func(*ekReading) []Problem
}

// ekRules are all of them, in the order of their problems. Nothing changes them; a test drops each in turn and demands
// that a case notices.
var ekRules = [...]ekRule{
	{id: "size", size: func(n int) bool { return n <= MaxCertificateBytes }},
	{id: "padding", padding: func(rest []byte) bool {
		return len(bytes.Trim(rest, "\x00")) == 0 || len(bytes.Trim(rest, "\xff")) == 0
	}},
	{id: "not a CA", check: ekNotCA},
	{id: "key usage", check: ekKeyUsage},
	{id: "purpose", check: ekPurpose},
	{id: "kind", key: true, check: ekKind},
	{id: "RSA", key: true, check: ekRSA},
	{id: "curve", key: true, check: ekCurve},
	{id: "subject alternative name", check: ekName},
	{id: "one value", check: ekOneValue},
	{id: "manufacturer", check: ekManufacturer},
	{id: "model", check: ekModel},
	{id: "version", check: ekVersion},
	{id: "allowed manufacturer", check: ekAllowed},
	{id: "intermediates", check: func(r *ekReading) []Problem { return tooMany(r.sent) }},
	{id: "intermediate", check: func(r *ekReading) []Problem { return r.bad }},
	{id: "intermediate key", check: func(r *ekReading) []Problem { return r.huge }},
	{id: "begin", check: ekBegin},
	{id: "end", check: ekEnd},
	{id: "chain", check: ekChain},
	{id: "root of the manufacturer", check: ekRootOfManufacturer},
	{id: "bound root", check: ekBoundRoot},
}

// certificateRules are the rows about the bytes of a certificate.
func certificateRules(rules []ekRule) []ekRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r ekRule) bool { return r.check != nil })
}

func ekNotCA(r *ekReading) []Problem {
	if r.leaf.BasicConstraintsValid && !r.leaf.IsCA {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate does not say that it is not a CA", "CA:FALSE", fmt.Sprintf("CA:%t", r.leaf.IsCA))}
}

func ekKeyUsage(r *ekReading) []Problem {
	want := x509.KeyUsageKeyEncipherment
	if r.leaf.PublicKeyAlgorithm == x509.ECDSA {
		want = x509.KeyUsageKeyAgreement
	}
	if r.leaf.KeyUsage&want != 0 {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate lacks the key usage of its kind of key", fmt.Sprintf("%#x", want), fmt.Sprintf("%#x", r.leaf.KeyUsage))}
}

func ekPurpose(r *ekReading) []Problem {
	has := len(r.leaf.ExtKeyUsage)+len(r.leaf.UnknownExtKeyUsage) > 0
	if !has || slices.ContainsFunc(r.leaf.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate is meant for something else", oidEKCertificate.String(), fmt.Sprint(r.leaf.UnknownExtKeyUsage))}
}

func ekKind(r *ekReading) []Problem {
	switch r.leaf.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return nil
	}
	return []Problem{untrusted("the endorsement key is of an unsupported kind", "RSA or ECC", keyText(r.leaf.PublicKey))}
}

func ekRSA(r *ekReading) []Problem {
	key, ok := r.leaf.PublicKey.(*rsa.PublicKey)
	if !ok || (key.N.BitLen() >= minRSABits && key.N.BitLen() <= maxRSABits && key.E == defaultExponent) {
		return nil
	}
	return []Problem{untrusted("the endorsement key has an unusual size or exponent", "RSA 2048 to 4096 with 65537", keyText(key))}
}

func ekCurve(r *ekReading) []Problem {
	key, ok := r.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
		return nil
	}
	return []Problem{untrusted("the endorsement key is on another curve", "P-256 or P-384", keyText(key))}
}

// ekName refuses a second directoryName, too: it could name another TPM.
func ekName(r *ekReading) []Problem {
	switch {
	case r.name.err != nil:
		return []Problem{untrusted(r.name.err.Error(), "", "")}
	case r.name.names > 1:
		return []Problem{untrusted("the endorsement certificate names more than one TPM: bad directory name", "1", fmt.Sprint(r.name.names))}
	}
	return nil
}

func ekOneValue(r *ekReading) []Problem {
	if len(r.name.twice) == 0 {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate has a TPM attribute twice", "", strings.Join(r.name.twice, ", "))}
}

func ekManufacturer(r *ekReading) []Problem {
	if vendorID(r.ek.Manufacturer) {
		return nil
	}
	return []Problem{lacks("manufacturer", "id: and eight hex digits", r)}
}

func ekModel(r *ekReading) []Problem {
	if plainText(r.ek.Model) {
		return nil
	}
	return []Problem{lacks("model", "1 to 64 printable characters", r)}
}

func ekVersion(r *ekReading) []Problem {
	if !plainText(r.ek.Version) {
		return []Problem{lacks("version", "1 to 64 printable characters", r)}
	}
	if digits, ok := strings.CutPrefix(r.ek.Version, "id:"); !ok || digits == "" || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		r.ek.Notes = append(r.ek.Notes, fmt.Sprintf("the TPM's version %q is not id: and hex digits", r.ek.Version))
	}
	return nil
}

func lacks(name, expected string, r *ekReading) Problem {
	if r.name.names == 0 {
		return untrusted("the endorsement certificate has no subject alternative name with the TPM's "+name, expected, "")
	}
	return untrusted("the endorsement certificate lacks a TPM attribute in its form: "+name, expected,
		fmt.Sprintf("%.64q, %.64q, %.64q", r.ek.Manufacturer, r.ek.Model, r.ek.Version))
}

func ekAllowed(r *ekReading) []Problem {
	allowed := r.policy.Manufacturers
	if len(allowed) == 0 || slices.ContainsFunc(allowed, func(m string) bool { return sameManufacturer(r.ek.Manufacturer, m) }) {
		return nil
	}
	return []Problem{untrusted("TPMs of this manufacturer are not admitted here", strings.Join(allowed, ", "), r.ek.Manufacturer)}
}

func tooMany(n int) []Problem {
	if n <= MaxIntermediates {
		return nil
	}
	return []Problem{untrusted("too many intermediate certificates", fmt.Sprint(MaxIntermediates), fmt.Sprint(n))}
}

func ekBegin(r *ekReading) []Problem {
	if !r.at.Before(r.leaf.NotBefore.Add(-clockTolerance)) {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate is not valid yet", r.leaf.NotBefore.UTC().Format(time.RFC3339), r.at.UTC().Format(time.RFC3339))}
}

func ekEnd(r *ekReading) []Problem {
	if !r.policy.RefuseExpired || !r.at.After(r.leaf.NotAfter) {
		return nil
	}
	return []Problem{untrusted("the endorsement certificate has expired, and this verifier takes no expired ones",
		r.leaf.NotAfter.UTC().Format(time.RFC3339), r.at.UTC().Format(time.RFC3339))}
}

func ekChain(r *ekReading) []Problem {
	if r.chainErr == nil {
		return nil
	}
	return []Problem{untrusted(fmt.Sprintf("the endorsement certificate does not chain to a trusted manufacturer: %v", r.chainErr), "", r.leaf.Issuer.String())}
}

// ekRootOfManufacturer holds every chain against the manufacturer: an applicant chooses which ones he shows.
func ekRootOfManufacturer(r *ekReading) []Problem {
	for _, chain := range r.chains {
		bound := r.policy.Roots.manufacturers(chain[len(chain)-1])
		if len(bound) > 0 && !slices.ContainsFunc(bound, func(m string) bool { return sameManufacturer(r.ek.Manufacturer, m) }) {
			return []Problem{untrusted("the root of the endorsement certificate does not speak for this manufacturer", strings.Join(bound, ", "), r.ek.Manufacturer)}
		}
	}
	return nil
}

// ekBoundRoot notes that nobody holds the manufacturer against the root, or refuses that.
func ekBoundRoot(r *ekReading) []Problem {
	for _, chain := range r.chains {
		if len(r.policy.Roots.manufacturers(chain[len(chain)-1])) > 0 {
			return nil
		}
	}
	if len(r.chains) == 0 {
		return nil
	}
	if r.policy.RefuseUnbound {
		return []Problem{untrusted("the root of the endorsement certificate is bound to no manufacturer", "a root with manufacturers", r.chains[0][len(r.chains[0])-1].Subject.String())}
	}
	r.ek.Notes = append(r.ek.Notes, "the root of the endorsement certificate is bound to no manufacturer")
	if !KnownManufacturer(r.ek.Manufacturer) {
		r.ek.Notes = append(r.ek.Notes, fmt.Sprintf("the registry of TPM vendors does not know the manufacturer %.16q", r.ek.Manufacturer))
	}
	return nil
}

// readChain builds every chain from the leaf to a root.
func (r *ekReading) readChain(intermediates [][]byte, rules []ekRule) {
	if r.policy.Roots.pool == nil { // crypto/x509 would take the system's web roots
		r.chainErr = errors.New("no TPM manufacturer root is configured")
		return
	}
	if slices.ContainsFunc(rules, func(rule ekRule) bool { return rule.id == "intermediates" }) {
		intermediates = intermediates[:min(len(intermediates), MaxIntermediates)]
	}
	pool := r.readIntermediates(intermediates, rules)
	at := r.at
	switch {
	case at.Before(r.leaf.NotBefore):
		at = r.leaf.NotBefore
	case at.After(r.leaf.NotAfter):
		r.ek.Notes = append(r.ek.Notes, "the endorsement certificate expired at "+r.leaf.NotAfter.UTC().Format(time.RFC3339))
		at = r.leaf.NotAfter
	}
	options := x509.VerifyOptions{Roots: r.policy.Roots.pool, Intermediates: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	r.chains, r.chainErr = r.leaf.Verify(options)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](r.chainErr); ok && invalid.Reason == x509.Expired {
		options.CurrentTime = r.leaf.NotBefore
		if r.chains, r.chainErr = r.leaf.Verify(options); r.chainErr == nil {
			r.ek.Notes = append(r.ek.Notes, "an issuer of the endorsement certificate is not valid any more; it was when the certificate was issued")
		}
	}
	for _, chain := range r.chains {
		for _, issuer := range chain[min(1, len(chain)-1):] {
			r.addIssuer(issuer)
		}
	}
}

func (r *ekReading) readIntermediates(ders [][]byte, rules []ekRule) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range ders {
		cert, err := ParseEKCertificate(der)
		if err != nil {
			r.bad = append(r.bad, untrusted(fmt.Sprintf("an intermediate %v", err), "", ""))
			continue
		}
		// Whoever asks brings the intermediates: a huge key would let him choose how long a signature takes to check.
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() > maxIssuerBits || key.N.BitLen() < minRSABits || key.E != defaultExponent) {
			r.huge = append(r.huge, untrusted("an intermediate has an unusual key", "RSA 2048 to 8192 with 65537", keyText(key)))
			if slices.ContainsFunc(rules, func(rule ekRule) bool { return rule.id == "intermediate key" }) {
				continue
			}
		}
		pool.AddCert(cert)
	}
	return pool
}

// addIssuer adds the identifiers of an issuer's key. Its own text comes first, but who made a second certificate for
// the same key may have written another one, so the two that everybody computes from the key follow.
func (r *ekReading) addIssuer(cert *x509.Certificate) {
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	ids := [][]byte{cert.SubjectKeyId}
	if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info); err == nil {
		sum := sha1.Sum(info.Key.RightAlign()) // RFC 5280, 4.2.1.2 (1): a name, not a proof
		ids = append(ids, sum[:])
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	for _, id := range append(ids, sum[:]) {
		if text := hex.EncodeToString(id); text != "" && !slices.Contains(r.ek.Issuers, text) {
			r.ek.Issuers = append(r.ek.Issuers, text)
		}
	}
}
