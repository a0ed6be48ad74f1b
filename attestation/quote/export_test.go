package quote

import "crypto"

// FormRuleIDs names every rule about the form of a TPMS_ATTEST.
func FormRuleIDs() []string {
	var ids []string
	for _, r := range formRules {
		ids = append(ids, r.id)
	}
	return ids
}

// ParseQuoteWithout is ParseQuote without one rule.
func ParseQuoteWithout(id string, b []byte) (Attest, error) {
	var rest []formRule
	for _, r := range formRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return parseQuote(b, rest)
}

// SignatureRuleIDs names every rule about signatures.
func SignatureRuleIDs() []string {
	var ids []string
	for _, r := range signatureRules {
		ids = append(ids, r.id)
	}
	return ids
}

// VerifySignatureWithout is VerifySignature without one rule.
func VerifySignatureWithout(id string, pub crypto.PublicKey, signed, tpmtSignature []byte) error {
	var rest []signatureRule
	for _, r := range signatureRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return verifySignature(pub, signed, tpmtSignature, rest)
}
