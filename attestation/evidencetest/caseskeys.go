package evidencetest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// withKey signs with, and registers, a key with another public area.
func withKey(change func(*PublicSpec)) func(*Scenario) {
	return func(s *Scenario) {
		spec := GoodAK()
		change(&spec)
		s.AK = AK{Key: NewKey(Seed("device"), spec)}
	}
}

// clearing takes attributes away, setting adds them.
func clearing(bits uint32) func(*Scenario) {
	return withKey(func(s *PublicSpec) { s.Attributes &^= bits })
}

func setting(bits uint32) func(*Scenario) {
	return withKey(func(s *PublicSpec) { s.Attributes |= bits })
}

// keyCases are wrong attestation keys and signatures by wrong keys.
func keyCases() []Case {
	unbound, unsigned := only(reason.AKNotBound), only(reason.QuoteSignatureInvalid)
	foreign := append([]byte{0, 0x0b}, make([]byte, 32)...)
	return staged(StageAuthentic, []Case{
		{ID: "N21", Name: "RSA signature", About: "an RSASSA signature for an ECC key", Change: signature(AlgRSASSA, AlgSHA256, 256), Reasons: unsigned},
		{ID: "N21", Name: "ECDSA signature for an RSA key", About: "an RSA key is registered and the signature is ECDSA", Change: registered(RSAArea(2048)), Reasons: only(reason.AKNotBound, reason.QuoteSignatureInvalid)},
		{ID: "N21", Name: "null signature", About: "the signature has no algorithm and no value", Change: func(in *attestation.Input) { in.Evidence.Signature = []byte{0, AlgNull} }, Reasons: only(reason.QuoteMalformed)},
		{ID: "N21", Name: "RSA key that calls its scheme ECDSA", About: "an RSA key whose public area names ECDSA", Change: registered(rsaAreaForECDSA()), Reasons: only(reason.AKNotBound, reason.QuoteSignatureInvalid)},
		{ID: "N22", Name: "SHA-1 signature", About: "the signature names SHA-1", Change: func(in *attestation.Input) { in.Evidence.Signature[3] = AlgSHA1 }, Reasons: unsigned},
		{ID: "N22", Name: "SHA-1 key", About: "the key's scheme is SHA-1", Device: withKey(func(s *PublicSpec) { s.Hash = AlgSHA1 }), Reasons: unbound},
		{ID: "N23", Name: "RSAPSS signature", About: "an RSA key with RSASSA, and an RSAPSS signature", Change: both(registered(RSAArea(2048)), signature(0x0016, AlgSHA256, 256)), Reasons: only(reason.AKNotBound, reason.QuoteSignatureInvalid)},
		{ID: "N23", Name: "ECDAA signature", About: "a signature of another ECC scheme", Change: func(in *attestation.Input) { in.Evidence.Signature[1] = 0x1a }, Reasons: unsigned},
		{ID: "N24", Name: "another device's key", About: "the quote was signed by another enrolled device", Change: func(in *attestation.Input) {
			other := NewAK(Seed("other"))
			in.AK = attestation.AK{Public: other.Public, QualifiedSigner: other.QualifiedSigner()}
		}, Reasons: unsigned},
		{ID: "N25", Name: "no key", About: "no attestation key is registered", Change: func(in *attestation.Input) { in.AK = attestation.AK{} }, Reasons: only(reason.AKUnknown)},
		{ID: "N26", Name: "unrestricted key", About: "a key that signs anything it is given", Device: clearing(identity.Restricted), Reasons: unbound},
		{ID: "N26", Name: "scheme left open", About: "a key whose scheme the caller chooses", Device: withKey(func(s *PublicSpec) { s.Scheme = AlgNull }), Reasons: unbound},
		{ID: "N26", Name: "key that does not sign", About: "a key without the attribute sign", Device: clearing(identity.Sign), Reasons: unbound},
		{ID: "N26", Name: "key with a policy", About: "a key with an authorisation policy", Device: withKey(func(s *PublicSpec) { s.Policy = make([]byte, 32) }), Reasons: unbound},
		{ID: "N26", Name: "key for policy sessions", About: "a key without userWithAuth", Device: clearing(identity.UserWithAuth), Reasons: unbound},
		{ID: "N26", Name: "administrator's policy", About: "a key with adminWithPolicy", Device: setting(identity.AdminWithPolicy), Reasons: unbound},
		{ID: "N26", Name: "key that ends with a reset", About: "a key with stClear", Device: setting(identity.STClear), Reasons: unbound},
		{ID: "N26", Name: "unknown attribute", About: "a key with an attribute that no specification names", Device: setting(1 << 31), Reasons: unbound},
		{ID: "N27", Name: "TLS key", About: "the device's TLS key is registered as its attestation key", Device: func(s *Scenario) { s.AK = AK{Key: NewTLSKey(Seed("device"))} }, Reasons: unbound},
		{ID: "N29", Name: "storage key", About: "a restricted key that also decrypts", Device: setting(identity.Decrypt), Reasons: unbound},
		{ID: "N30", Name: "duplicable key", About: "a key that may leave its TPM", Device: clearing(identity.FixedTPM), Reasons: unbound},
		{ID: "N30", Name: "key that may move", About: "a key that may get another parent", Device: clearing(identity.FixedParent), Reasons: unbound},
		{ID: "N30", Name: "encrypted duplication", About: "a key that is made for duplication", Device: setting(identity.EncryptedDup), Reasons: unbound},
		{ID: "N31", Name: "imported key", About: "a key that was not made in its TPM", Device: clearing(identity.SensitiveDataOrigin), Reasons: unbound},
		{ID: "N32", Name: "quote of another hierarchy", About: "the quote names another place in the TPM than the admitted one", Change: requoted(func(s *QuoteSpec) { s.QualifiedSigner = foreign }), Reasons: unbound},
		{ID: "N32", Name: "key of another hierarchy", About: "the key was registered from another hierarchy", Change: func(in *attestation.Input) {
			in.AK.QualifiedSigner = foreign
			Requote(in, func(s *QuoteSpec) { s.QualifiedSigner = foreign })
		}, Reasons: unbound, Note: "in the owner hierarchy the TPM obfuscates its clock and firmware version; the recorded quotes of measured-boot are genuine ones of this kind"},
		{ID: "N33", Name: "P-224 key", About: "a key on P-224", Device: withKey(func(s *PublicSpec) { s.Curve = 2 }), Reasons: unbound},
		{ID: "N33", Name: "BN key", About: "a key on BN_P256", Device: withKey(func(s *PublicSpec) { s.Curve = 0x10 }), Reasons: unbound},
		{ID: "N33", Name: "RSA-1024 key", About: "an RSA key of 1024 bits", Change: registered(RSAArea(1024)), Reasons: unbound},
		{ID: "N33", Name: "SHA-1 Name", About: "a key whose Name is made with SHA-1", Device: withKey(func(s *PublicSpec) { s.NameAlg = AlgSHA1 }), Reasons: unbound},
	})
}

// registered puts another public area into the verifier's store, with the qualified Name that fits.
func registered(area []byte) func(*attestation.Input) {
	return func(in *attestation.Input) {
		in.AK = attestation.AK{Public: area, QualifiedSigner: identity.QualifiedNameUnderEndorsement(Key{Public: area}.Name())}
		Requote(in, func(s *QuoteSpec) { s.QualifiedSigner = in.AK.QualifiedSigner })
	}
}

// signature replaces the signature by n bytes of another algorithm.
func signature(alg, hash uint16, n int) func(*attestation.Input) {
	return func(in *attestation.Input) {
		out := binary.BigEndian.AppendUint16(nil, alg)
		in.Evidence.Signature = sized(binary.BigEndian.AppendUint16(out, hash), make([]byte, n))
	}
}

func both(first, second func(*attestation.Input)) func(*attestation.Input) {
	return func(in *attestation.Input) { first(in); second(in) }
}

// RSAArea is the public area of a restricted RSASSA key with a modulus that nobody knows the factors of.
func RSAArea(bits int) []byte {
	var modulus []byte
	for sum := sha256.Sum256([]byte("modulus")); len(modulus) < bits/8; sum = sha256.Sum256(sum[:]) {
		modulus = append(modulus, sum[:]...)
	}
	modulus[0] |= 0x80
	modulus[bits/8-1] |= 1
	b := binary.BigEndian.AppendUint16(nil, 0x0001) // TPM_ALG_RSA
	b = binary.BigEndian.AppendUint16(b, AlgSHA256)
	b = binary.BigEndian.AppendUint32(b, AKAttributes)
	b = sized(b, nil)
	b = binary.BigEndian.AppendUint16(b, AlgNull)
	b = binary.BigEndian.AppendUint16(b, AlgRSASSA)
	b = binary.BigEndian.AppendUint16(b, AlgSHA256)
	b = binary.BigEndian.AppendUint16(b, uint16(bits))
	b = binary.BigEndian.AppendUint32(b, 0) // the usual exponent
	return sized(b, modulus[:bits/8])
}

// rsaAreaForECDSA is an RSA public area that names the scheme of another kind of key.
func rsaAreaForECDSA() []byte {
	const scheme = 2 + 2 + 4 + 2 + 2 // type, Name algorithm, attributes, empty policy, symmetric
	area := RSAArea(2048)
	binary.BigEndian.PutUint16(area[scheme:], AlgECDSA)
	return area
}

// offCurve is a P-256 public area whose point is damaged: a store that lost a bit.
func offCurve(key *ecdsa.PublicKey) []byte {
	area := PublicArea(key, GoodAK())
	area[len(area)-1] ^= 1
	return area
}
