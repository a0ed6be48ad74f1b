package identity

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"fmt"

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

// keyRule is one thing that a key must have. A row asks for attributes, or has a check of its own.
type keyRule struct {
	id                  string // stable: tests name it
	required, forbidden uint32
	check               func(Public) []Problem
}

// akRules are all rules for attestation keys, in the order of their problems. Nothing changes this table or the others
// below; a test drops each row in turn and demands that a case notices. noDA may be set or not.
var akRules = [...]keyRule{
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

// tlsRules are all rules for TLS keys.
var tlsRules = [...]keyRule{
	{id: "kind", check: func(tls Public) []Problem { return checkP256("TLS key", tls) }},
	{id: "fixedTPM", required: FixedTPM},
	{id: "fixedParent", required: FixedParent},
	{id: "sensitiveDataOrigin", required: SensitiveDataOrigin},
	{id: "sign", required: Sign},
	{id: "encryptedDuplication", forbidden: EncryptedDup},
	{id: "restricted", forbidden: Restricted},
	{id: "decrypt", forbidden: Decrypt},
	{id: "scheme", check: tlsScheme},
}

// wrapRules are all rules for wrap keys.
var wrapRules = [...]keyRule{
	{id: "kind", check: wrapKind},
	{id: "fixedTPM", required: FixedTPM},
	{id: "fixedParent", required: FixedParent},
	{id: "sensitiveDataOrigin", required: SensitiveDataOrigin},
	{id: "decrypt", required: Decrypt},
	{id: "encryptedDuplication", forbidden: EncryptedDup},
	{id: "restricted", forbidden: Restricted},
	{id: "sign", forbidden: Sign},
	{id: "scheme", check: wrapScheme},
}

// CheckAK checks that ak is a key that can only sign what its TPM generated (V-14): P-256, ECDSA with SHA-256, no
// policy, and exactly the attributes fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted and sign;
// noDA may be set or not. It returns every failing check, none for a good key.
func CheckAK(ak Public) []Problem { return checkKey("attestation key", ak, akRules[:]) }

// CheckTLSKey checks that tls is a key that was made in its TPM and cannot leave it, and that may sign TLS
// handshakes: P-256, fixedTPM, fixedParent, sensitiveDataOrigin, sign, neither restricted nor decrypt (V-18).
func CheckTLSKey(tls Public) []Problem { return checkKey("TLS key", tls, tlsRules[:]) }

// CheckWrapKey checks that wrap is a key that was made in its TPM and cannot leave it, and to which content keys may be
// encrypted: RSA-2048 for OAEP with SHA-256, or P-256 for ECDH; fixedTPM, fixedParent, sensitiveDataOrigin, decrypt,
// neither restricted nor sign. It may have an authorisation policy: that can only make its use harder.
func CheckWrapKey(wrap Public) []Problem { return checkKey("wrap key", wrap, wrapRules[:]) }

func checkKey(what string, key Public, rules []keyRule) []Problem {
	var problems []Problem
	for _, r := range rules {
		problems = append(problems, checkAttributes(what, key.Attributes, r.required, r.forbidden)...)
		if r.check != nil {
			problems = append(problems, r.check(key)...)
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

func tlsScheme(tls Public) []Problem {
	if tls.Scheme == algNull || (tls.Scheme == algECDSA && tls.Hash == algSHA256) {
		return nil
	}
	return []Problem{notBound("the TLS key's scheme is not ECDSA with SHA-256", "open, or 0x0018 with 0x000b",
		fmt.Sprintf("%#04x with %#04x", tls.Scheme, tls.Hash))}
}

func wrapKind(wrap Public) []Problem {
	switch key := wrap.Key.(type) {
	case *ecdsa.PublicKey:
		if wrap.Symmetric == algNull {
			return nil
		}
	case *rsa.PublicKey:
		if wrap.Symmetric == algNull && key.N.BitLen() == minRSABits {
			return nil
		}
	}
	return []Problem{notBound("the wrap key is not a plain RSA-2048 or P-256 key", "RSA-2048 or ECC P-256", keyText(wrap.Key))}
}

// wrapScheme refuses RSAES above all: its padding answers questions about the plain text.
func wrapScheme(wrap Public) []Problem {
	_, ecc := wrap.Key.(*ecdsa.PublicKey)
	want := uint16(algOAEP)
	if ecc {
		want = algECDH
	}
	if wrap.Scheme == algNull || (wrap.Scheme == want && wrap.Hash == algSHA256) {
		return nil
	}
	return []Problem{notBound("the wrap key's scheme is neither open nor the one of its kind with SHA-256", fmt.Sprintf("open, or %#04x with 0x000b", want),
		fmt.Sprintf("%#04x with %#04x", wrap.Scheme, wrap.Hash))}
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
