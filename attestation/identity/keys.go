package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// attribute is a bit of TPMA_OBJECT with the name that people know it by.
type attribute struct {
	bit  uint32
	name string
}

var attributeNames = [...]attribute{
	{FixedTPM, "fixedTPM"}, {STClear, "stClear"}, {FixedParent, "fixedParent"},
	{SensitiveDataOrigin, "sensitiveDataOrigin"}, {UserWithAuth, "userWithAuth"}, {AdminWithPolicy, "adminWithPolicy"},
	{NoDA, "noDA"}, {EncryptedDup, "encryptedDuplication"}, {Restricted, "restricted"}, {Decrypt, "decrypt"}, {Sign, "sign"},
}

// akRule is one thing that an attestation key must have. A row asks for attributes, or has a check of its own.
type akRule struct {
	id                  string // stable: tests name it
	required, forbidden uint32
	check               func(Public) []Problem
}

// akRules are all of them, in the order of their problems. Nothing changes them; a test drops each in turn and demands
// that a case notices. noDA may be set or not.
var akRules = [...]akRule{
	{id: "kind", check: func(ak Public) []Problem { return checkP256("attestation key", ak) }},
	{id: "fixedTPM", required: FixedTPM},
	{id: "stClear", forbidden: STClear},
	{id: "fixedParent", required: FixedParent},
	{id: "sensitiveDataOrigin", required: SensitiveDataOrigin},
	{id: "userWithAuth", required: UserWithAuth},
	{id: "adminWithPolicy", forbidden: AdminWithPolicy},
	{id: "encryptedDuplication", forbidden: EncryptedDup},
	{id: "restricted", required: Restricted},
	{id: "decrypt", forbidden: Decrypt},
	{id: "sign", required: Sign},
	{id: "unknown", forbidden: ^uint32(FixedTPM | STClear | FixedParent | SensitiveDataOrigin | UserWithAuth | AdminWithPolicy | NoDA |
		EncryptedDup | Restricted | Decrypt | Sign)},
	{id: "scheme", check: akScheme},
	{id: "policy", check: akPolicy},
}

// CheckAK checks that ak is a key that can only sign what its TPM generated (V-14): P-256, ECDSA with SHA-256, no
// policy, and exactly the attributes fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted and sign;
// noDA may be set or not. It returns every failing check, none for a good key.
func CheckAK(ak Public) []Problem { return checkAK(ak, akRules[:]) }

func checkAK(ak Public, rules []akRule) []Problem {
	var problems []Problem
	for _, r := range rules {
		problems = append(problems, checkAttributes("attestation key", ak.Attributes, r.required, r.forbidden)...)
		if r.check != nil {
			problems = append(problems, r.check(ak)...)
		}
	}
	return problems
}

func akScheme(ak Public) []Problem {
	if ak.Scheme == algECDSA && ak.Hash == algSHA256 {
		return nil
	}
	return []Problem{notBound("the attestation key's scheme is not fixed to ECDSA with SHA-256",
		"0x0018 with 0x000b", fmt.Sprintf("%#04x with %#04x", ak.Scheme, ak.Hash))}
}

func akPolicy(ak Public) []Problem {
	if len(ak.Policy) == 0 {
		return nil
	}
	return []Problem{notBound("the attestation key has an authorisation policy", "none", hex.EncodeToString(ak.Policy))}
}

// CheckTLSKey checks that tls is a key that was made in its TPM and cannot leave it, and that may sign TLS
// handshakes: P-256, fixedTPM, fixedParent, sensitiveDataOrigin, sign, neither restricted nor decrypt (V-18).
func CheckTLSKey(tls Public) []Problem {
	const required = FixedTPM | FixedParent | SensitiveDataOrigin | Sign
	problems := checkP256("TLS key", tls)
	problems = append(problems, checkAttributes("TLS key", tls.Attributes, required, Restricted|Decrypt|EncryptedDup)...)
	if tls.Scheme != algNull && (tls.Scheme != algECDSA || tls.Hash != algSHA256) {
		problems = append(problems, notBound("the TLS key's scheme is not ECDSA with SHA-256", "open, or 0x0018 with 0x000b",
			fmt.Sprintf("%#04x with %#04x", tls.Scheme, tls.Hash)))
	}
	return problems
}

// VerifyCertify checks that the TPM that holds the attestation key vouches for the TLS key (V-18): certifyInfo is a
// TPMS_ATTEST of type certify, signed by the attestation key, by the key with akQualifiedName, over extraData, and
// names exactly tls. extraData must not be empty. It also runs CheckTLSKey. When the signature does not verify, that
// is the only problem: nothing else in certifyInfo means anything then.
func VerifyCertify(akPublic Public, akQualifiedName, certifyInfo, signature, extraData []byte, tls Public) []Problem {
	c, err := quote.ParseCertify(certifyInfo)
	if err != nil {
		return []Problem{{Reason: reason.QuoteMalformed, Detail: fmt.Sprintf("the certification of the TLS key cannot be parsed: %v", err)}}
	}
	if p := signatureProblem(quote.VerifySignature(akPublic.Key, certifyInfo, signature)); p != nil {
		return []Problem{*p}
	}
	problems := CheckTLSKey(tls)
	if len(akQualifiedName) == 0 || !bytes.Equal(c.QualifiedSigner, akQualifiedName) {
		problems = append(problems, notBound("the certification was made by a key of another place in the TPM",
			hex.EncodeToString(akQualifiedName), hex.EncodeToString(c.QualifiedSigner)))
	}
	if len(extraData) == 0 || subtle.ConstantTimeCompare(c.ExtraData, extraData) != 1 {
		problems = append(problems, Problem{Reason: reason.NonceUnknown, Detail: "the certification is bound to another transcript",
			Expected: hex.EncodeToString(extraData), Seen: hex.EncodeToString(c.ExtraData)})
	}
	if len(tls.Name) == 0 || !bytes.Equal(c.Name, tls.Name) {
		problems = append(problems, notBound("the certification names another key than the TLS key",
			hex.EncodeToString(tls.Name), hex.EncodeToString(c.Name)))
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

func checkP256(what string, p Public) []Problem {
	if _, ok := p.Key.(*ecdsa.PublicKey); ok && p.Symmetric == algNull {
		return nil
	}
	return []Problem{notBound("the "+what+" is not a P-256 signing key", "ECC P-256", fmt.Sprintf("%T", p.Key))}
}

// checkAttributes reports one problem for each attribute that is missing or that must not be there.
func checkAttributes(what string, have, required, forbidden uint32) []Problem {
	var problems []Problem
	for _, a := range attributeNames {
		if required&a.bit != 0 && have&a.bit == 0 {
			problems = append(problems, notBound("the "+what+" lacks the attribute "+a.name, a.name+" set", a.name+" clear"))
		}
		if forbidden&a.bit != 0 && have&a.bit != 0 {
			problems = append(problems, notBound("the "+what+" has the attribute "+a.name, a.name+" clear", a.name+" set"))
		}
		forbidden &^= a.bit
	}
	if rest := have & forbidden; rest != 0 {
		problems = append(problems, notBound("the "+what+" has unknown attributes", "0x0", fmt.Sprintf("%#x", rest)))
	}
	return problems
}

func notBound(detail, expected, seen string) Problem {
	return Problem{Reason: reason.AKNotBound, Detail: detail, Expected: expected, Seen: seen}
}
