package identity

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// certifyReading is a certification with what it is held against.
type certifyReading struct {
	quote.Certification
	what      string // the certified object, in words
	signer    Public
	qualified []byte // the signer's qualified Name
	raw       []byte
	signature []byte
	extraData []byte
	object    Public
	succeeds  bool // the object is to replace the signer
}

// certifyRule is one thing that a certification must have.
type certifyRule struct {
	id    string // stable: tests name it
	first bool   // when it does not hold, nothing else in the certification means anything
	check func(certifyReading) []Problem
}

// certifyRules are all of them, in the order of their problems. Nothing changes them; a test drops each in turn and
// demands that a case notices.
var certifyRules = [...]certifyRule{
	{id: "signature", first: true, check: func(r certifyReading) []Problem {
		if p := signatureProblem(quote.VerifySignature(r.signer.Key, r.raw, r.signature)); p != nil {
			return []Problem{*p}
		}
		return nil
	}},
	{id: "qualified signer", check: func(r certifyReading) []Problem {
		if len(r.qualified) > 0 && bytes.Equal(r.QualifiedSigner, r.qualified) {
			return nil
		}
		return []Problem{notBound("the certification was made by a key of another place in the TPM",
			hex.EncodeToString(r.qualified), hex.EncodeToString(r.QualifiedSigner))}
	}},
	{id: "extra data", check: func(r certifyReading) []Problem {
		if len(r.extraData) > 0 && subtle.ConstantTimeCompare(r.ExtraData, r.extraData) == 1 {
			return nil
		}
		return []Problem{{Reason: reason.NonceUnknown, Detail: "the certification is bound to another transcript",
			Expected: hex.EncodeToString(r.extraData), Seen: hex.EncodeToString(r.ExtraData)}}
	}},
	{id: "name", check: func(r certifyReading) []Problem {
		if len(r.object.Name) > 0 && bytes.Equal(r.Name, r.object.Name) {
			return nil
		}
		return []Problem{notBound("the certification names another key than the "+r.what,
			hex.EncodeToString(r.object.Name), hex.EncodeToString(r.Name))}
	}},
	{id: "qualified name", check: func(r certifyReading) []Problem {
		if !r.succeeds || bytes.Equal(r.QualifiedName, QualifiedNameUnderEndorsement(r.object.Name)) {
			return nil
		}
		return []Problem{notBound("the "+r.what+" is not a primary key of the endorsement hierarchy",
			hex.EncodeToString(QualifiedNameUnderEndorsement(r.object.Name)), hex.EncodeToString(r.QualifiedName))}
	}},
	{id: "another key", check: func(r certifyReading) []Problem {
		if !r.succeeds || !bytes.Equal(r.signer.Name, r.object.Name) {
			return nil
		}
		return []Problem{notBound("the attestation key cannot succeed itself", "another key", hex.EncodeToString(r.object.Name))}
	}},
}

// VerifyCertify checks that the TPM that holds the attestation key vouches for the TLS key (V-18): certifyInfo is a
// TPMS_ATTEST of type certify, signed by the attestation key, by the key with akQualifiedName, over extraData, and
// names exactly tls. extraData must not be empty. It also runs CheckTLSKey. When the signature does not verify, that
// is the only problem: nothing else in certifyInfo means anything then.
func VerifyCertify(akPublic Public, akQualifiedName, certifyInfo, signature, extraData []byte, tls Public) []Problem {
	return verifyCertify(certifyReading{what: "TLS key", signer: akPublic, qualified: akQualifiedName, raw: certifyInfo, signature: signature,
		extraData: extraData, object: tls}, CheckTLSKey, certifyRules[:])
}

// VerifyWrapKey is VerifyCertify for a wrap key: it runs CheckWrapKey instead of CheckTLSKey.
func VerifyWrapKey(akPublic Public, akQualifiedName, certifyInfo, signature, extraData []byte, wrap Public) []Problem {
	return verifyCertify(certifyReading{what: "wrap key", signer: akPublic, qualified: akQualifiedName, raw: certifyInfo, signature: signature,
		extraData: extraData, object: wrap}, CheckWrapKey, certifyRules[:])
}

// VerifySuccessor checks that the TPM that holds the attestation key of a device vouches for the next one: old, the
// registered key with oldQualifiedName, certified next over extraData, and next is another key, passes CheckAK, and is a
// primary key of the endorsement hierarchy, which the certification says itself.
//
// An attestation key is restricted: it signs only what its TPM generated, and a certification is that. It can therefore
// vouch for any key that is loaded beside it, the next attestation key as well as a TLS key; TPM2_Certify wants no more
// of next than its authorisation, which is an empty value with userWithAuth.
func VerifySuccessor(old Public, oldQualifiedName, certifyInfo, signature, extraData []byte, next Public) []Problem {
	return verifyCertify(certifyReading{what: "next attestation key", signer: old, qualified: oldQualifiedName, raw: certifyInfo, signature: signature,
		extraData: extraData, object: next, succeeds: true}, CheckAK, certifyRules[:])
}

func verifyCertify(r certifyReading, check func(Public) []Problem, rules []certifyRule) []Problem {
	var err error
	if r.Certification, err = quote.ParseCertify(r.raw); err != nil {
		return []Problem{{Reason: reason.QuoteMalformed, Detail: fmt.Sprintf("the certification of the %s cannot be parsed: %v", r.what, err)}}
	}
	problems := check(r.object)
	for _, rule := range rules {
		found := rule.check(r)
		if rule.first && len(found) > 0 {
			return found
		}
		problems = append(problems, found...)
	}
	return problems
}

func signatureProblem(err error) *Problem {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, quote.ErrMalformed):
		return &Problem{Reason: reason.QuoteMalformed, Detail: fmt.Sprintf("the signature cannot be parsed: %v", err)}
	}
	return &Problem{Reason: reason.QuoteSignatureInvalid, Detail: fmt.Sprintf("the attestation key did not sign this: %v", err)}
}
