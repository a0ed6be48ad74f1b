package identity

import "time"

// AKRuleIDs names every rule of CheckAK.
func AKRuleIDs() []string { return keyRuleIDs(akRules[:]) }

// TLSRuleIDs names every rule of CheckTLSKey.
func TLSRuleIDs() []string { return keyRuleIDs(tlsRules[:]) }

// WrapRuleIDs names every rule of CheckWrapKey.
func WrapRuleIDs() []string { return keyRuleIDs(wrapRules[:]) }

// CheckAKWithout is CheckAK without one rule.
func CheckAKWithout(id string, ak Public) []Problem {
	return checkKey("attestation key", ak, keyRulesWithout(id, akRules[:]))
}

// CheckTLSKeyWithout is CheckTLSKey without one rule.
func CheckTLSKeyWithout(id string, tls Public) []Problem {
	return checkKey("TLS key", tls, keyRulesWithout(id, tlsRules[:]))
}

// CheckWrapKeyWithout is CheckWrapKey without one rule.
func CheckWrapKeyWithout(id string, wrap Public) []Problem {
	return checkKey("wrap key", wrap, keyRulesWithout(id, wrapRules[:]))
}

func keyRuleIDs(rules []keyRule) []string {
	var ids []string
	for _, r := range rules {
		ids = append(ids, r.id)
	}
	return ids
}

func keyRulesWithout(id string, rules []keyRule) []keyRule {
	var rest []keyRule
	for _, r := range rules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return rest
}

// EKRuleIDs names every rule of EKPolicy.Verify.
func EKRuleIDs() []string {
	var ids []string
	for _, r := range ekRules {
		ids = append(ids, r.id)
	}
	return ids
}

// VerifyWithout is Verify without one rule.
func (p EKPolicy) VerifyWithout(id string, leafDER []byte, intermediates [][]byte, at time.Time) (EK, []Problem) {
	var rest []ekRule
	for _, r := range ekRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return p.verify(leafDER, intermediates, at, rest)
}

// PublicRuleIDs names every rule of ParsePublic.
func PublicRuleIDs() []string {
	var ids []string
	for _, r := range publicRules {
		ids = append(ids, r.id)
	}
	return ids
}

// ParsePublicWithout is ParsePublic without one rule.
func ParsePublicWithout(id string, b []byte) (Public, error) {
	var rest []publicRule
	for _, r := range publicRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return parsePublic(b, rest)
}

// CertifyRuleIDs names every rule about certifications, the certified key's own left out.
func CertifyRuleIDs() []string {
	var ids []string
	for _, r := range certifyRules {
		ids = append(ids, r.id)
	}
	return ids
}

// CertifyWithout is VerifyCertify, VerifyWrapKey or VerifySuccessor without one rule; check is that of the key.
func CertifyWithout(id string, succeeds bool, check func(Public) []Problem, ak Public, qualified, info, signature, extraData []byte, object Public) []Problem {
	var rest []certifyRule
	for _, r := range certifyRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return verifyCertify(certifyReading{what: "key", signer: ak, qualified: qualified, raw: info, signature: signature, extraData: extraData,
		object: object, succeeds: succeeds}, check, rest)
}
