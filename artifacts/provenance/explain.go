package provenance

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/cordon-ota/cordon/artifacts"
)

// NextMark stands in a refusal's detail before the sentence that says what to do; NextStep finds it.
const NextMark = "; next: "

// NextStep returns what a detail of this package advises, "" if it advises nothing.
func NextStep(detail string) string {
	_, next, ok := strings.Cut(detail, NextMark)
	if !ok {
		return ""
	}
	return next
}

// finding is a refusal for the owner of a pipeline: what is wrong, with what was wanted and what was seen, and what to do.
type finding struct {
	what string
	next string
}

// Error implements error.
func (f *finding) Error() string { return f.what + NextMark + f.next }

func found(next, format string, args ...any) error {
	return &finding{what: fmt.Sprintf(format, args...), next: next}
}

// Next steps that several findings share; the role says what is done again.
const (
	nextSignAgain  = " again from an unchanged statement; if it happens again, find out who changes the bundle between signer and server"
	nextSignAtOnce = " again, so that certificate and timestamp are of one run; if it happens again, compare the clocks of CA and timestamp authority"
	nextInstance   = "use the signing config of the Sigstore that the offline policy trusts, or let the holders add yours: cordon-sign product trusted-root --file trusted_root.json"
)

// The steps at which sigstore-go v1.3.0 stops have no error values of their own, so they are known by their text; an
// unknown text is passed on as it is.
const (
	stepLog       = "failed to verify log inclusion"
	stepTime      = "failed to verify timestamps"
	stepLeaf      = "failed to verify leaf certificate"
	stepSCT       = "failed to verify signed certificate timestamp"
	stepIdentity  = "failed to verify certificate identity"
	stepSignature = "failed to verify signature"
)

// explain says why sigstore-go refused a bundle. It looks at the bundle again, because sigstore-go names the step that
// failed and not the reason: with Rekor v2, say, any change of the statement first shows as a log root that differs.
func (v *verifier) explain(b *bundle.Bundle, sigstore *verify.Verifier, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, stepLog):
		return v.explainLog(b, err)
	case strings.Contains(text, stepTime):
		return v.explainTime(b, err)
	case strings.Contains(text, stepLeaf):
		return v.explainLeaf(b, sigstore)
	case strings.Contains(text, stepSCT):
		return v.explainSCT(b, err)
	case strings.Contains(text, stepIdentity):
		return v.explainIdentity(b)
	case strings.Contains(text, stepSignature):
		return found(v.role.do+nextSignAgain, "tampered statement: the signature does not fit the statement and the key (%s)", brief(err))
	}
	return fmt.Errorf("verification failed (%s)", brief(err))
}

func (v *verifier) explainLog(b *bundle.Bundle, err error) error {
	entries := b.GetVerificationMaterial().GetTlogEntries()
	if len(entries) == 0 {
		return found("sign with a signing config that names a Rekor log, and hand the bundle over as it was made",
			"missing log entry: the bundle carries no entry of a transparency log, the policy wants one of a log of %s", artifacts.TrustedRootPath)
	}
	var seen []string
	for _, e := range entries {
		id := hex.EncodeToString(e.GetLogId().GetKeyId())
		if _, ok := v.trusted.RekorLogs()[id]; ok {
			return v.explainEntry(b, err)
		}
		seen = append(seen, fmt.Sprintf("%.16s", id))
	}
	return found(nextInstance, "untrusted instance: the log entry is of the log %.80s, which is none of the %d logs of %s",
		strings.Join(seen, ", "), len(v.trusted.RekorLogs()), artifacts.TrustedRootPath)
}

// explainEntry is for an entry of a known log that does not fit.
func (v *verifier) explainEntry(b *bundle.Bundle, err error) error {
	leaf, leafErr := leafOf(b)
	if leafErr == nil && strings.Contains(err.Error(), "integrated time outside certificate validity") {
		return found(v.role.do+nextSignAtOnce, "expired certificate: it was valid from %s to %s, and the log entry says that it was used at another time", moment(leaf.NotBefore), moment(leaf.NotAfter))
	}
	if leafErr == nil && !signedBy(b, leaf) {
		return found(v.role.do+nextSignAgain, "tampered statement: the signature does not fit the statement and the key of the certificate (%s)", brief(err))
	}
	return found(v.role.do+nextSignAgain, "wrong log entry: it is not for this statement, signature and certificate, or its proof is broken (%s)", brief(err))
}

// brief is what sigstore-go said, on one line and without the bytes that it likes to print.
func brief(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, step := range []string{stepLog, stepTime, stepLeaf, stepSCT, stepIdentity, stepSignature} {
		text = strings.TrimPrefix(text, step+": ")
	}
	if strings.Contains(text, "calculated root") {
		return "the calculated root of the log does not match the signed one"
	}
	return fmt.Sprintf("%.160s", text)
}

// signedBy reports whether the envelope's signature is one over its payload (DSSE v1, pre-authentication encoding).
func signedBy(b *bundle.Bundle, leaf *x509.Certificate) bool {
	e := b.GetDsseEnvelope()
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || len(e.GetSignatures()) != 1 {
		return false
	}
	encoding := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(e.GetPayloadType()), e.GetPayloadType(), len(e.GetPayload()))
	sum := sha256.Sum256(append(encoding, e.GetPayload()...))
	return ecdsa.VerifyASN1(key, sum[:], e.GetSignatures()[0].GetSig())
}

func (v *verifier) explainTime(b *bundle.Bundle, err error) error {
	text := err.Error()
	switch {
	case len(b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()) == 0:
		return found("sign with a signing config that names a timestamp authority, and hand the bundle over as it was made",
			"missing timestamp: the bundle carries no RFC 3161 timestamp, and without one nobody knows when its certificate was used")
	case strings.Contains(text, "hashed messages don't match"):
		return found(v.role.do+nextSignAgain, "wrong timestamp: it is for another signature (%s)", brief(err))
	case strings.Contains(text, "expired"), strings.Contains(text, "validity period"):
		return found("tell whoever runs the timestamp authority; then "+v.role.do+" again",
			"expired timestamp authority: its certificate was not valid when it made the timestamp, or is not any more in %s (%s)", artifacts.TrustedRootPath, brief(err))
	}
	return found(nextInstance, "untrusted instance: the timestamp is of none of the %d authorities of %s (%s)",
		len(v.trusted.TimestampingAuthorities()), artifacts.TrustedRootPath, brief(err))
}

func (v *verifier) explainLeaf(b *bundle.Bundle, sigstore *verify.Verifier) error {
	leaf, err := leafOf(b)
	if err != nil {
		return err
	}
	times, err := sigstore.VerifyObserverTimestamps(b, nil)
	if err != nil {
		return fmt.Errorf("its time cannot be read again: %w", err)
	}
	for _, t := range times {
		if t.Timestamp.Before(leaf.NotBefore) || t.Timestamp.After(leaf.NotAfter) {
			return found(v.role.do+nextSignAtOnce, "expired certificate: it was valid from %s to %s, and the timestamp says that it was used at %s",
				moment(leaf.NotBefore), moment(leaf.NotAfter), moment(t.Timestamp))
		}
	}
	return v.foreignCA(leaf)
}

func (v *verifier) foreignCA(leaf *x509.Certificate) error {
	return found(nextInstance, "untrusted instance: the certificate of issuer %.120q chains to none of the %d CAs of %s",
		leaf.Issuer.String(), len(v.trusted.FulcioCertificateAuthorities()), artifacts.TrustedRootPath)
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sctList is the extension that carries SCTs (RFC 6962 section 3.3).
var sctList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

func (v *verifier) explainSCT(b *bundle.Bundle, err error) error {
	leaf, leafErr := leafOf(b)
	if leafErr != nil {
		return leafErr
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(sctList) {
			return found(nextInstance, "untrusted instance: the certificate's SCT is of none of the %d certificate transparency logs of %s (%s)",
				len(v.trusted.CTLogs()), artifacts.TrustedRootPath, brief(err))
		}
	}
	return found("tell whoever runs the CA to configure its certificate transparency log (fulcio --ct-log-url); then "+v.role.do+" again",
		"missing SCT: the certificate was not logged in a certificate transparency log, so nobody could see that it was issued")
}

func (v *verifier) explainIdentity(b *bundle.Bundle) error {
	leaf, err := leafOf(b)
	if err != nil {
		return err
	}
	_, err = v.role.identify(leaf, v.keyless)
	if err == nil {
		err = fmt.Errorf("its certificate is of no %s of the policy", v.role.who)
	}
	return err
}

// explainKeyed is explain for a bundle that names a key: it has no log, no time and no certificate.
func (v *verifier) explainKeyed(err error) error {
	if strings.Contains(err.Error(), stepSignature) {
		return found(v.role.do+nextSignAgain, "the signature does not fit the statement and the key: it was changed after signing, or made with another key (%s)", brief(err))
	}
	return fmt.Errorf("verification failed (%s)", brief(err))
}
