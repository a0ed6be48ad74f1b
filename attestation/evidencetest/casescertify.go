package evidencetest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// WrapAttributes are those of a good wrap key.
const WrapAttributes = identity.FixedTPM | identity.FixedParent | identity.SensitiveDataOrigin | identity.UserWithAuth | identity.NoDA | identity.Decrypt

// GoodWrap is the public area of a key that CheckWrapKey accepts.
func GoodWrap() PublicSpec {
	return PublicSpec{NameAlg: AlgSHA256, Attributes: WrapAttributes, Scheme: AlgNull, Curve: 3}
}

// certifyCases are certifications of a device's other keys by its attestation key.
func certifyCases() []IdentityCase {
	unbound, foreign := only(reason.AKNotBound), NewAK(Seed("other"))
	tls := goodObject(UseTLS)
	byTLS := AK{Key: tls}
	var out []IdentityCase
	for _, use := range []string{UseTLS, UseWrap, UseSuccessor} {
		out = append(out,
			certifyCase("P20", "good "+use, "a certification with nothing wrong", nil, certifySpec{use: use}),
			certifyCase("N50", use+" of another Name", "the certification names another key", unbound, certifySpec{use: use, spec: func(s *CertifySpec) {
				s.Name = foreign.Name()
				if use == UseSuccessor { // so that nothing else is wrong
					s.QualifiedName = identity.QualifiedNameUnderEndorsement(goodObject(use).Name())
				}
			}}),
			certifyCase("N50", use+" over another transcript", "the certification is bound to another exchange", only(reason.NonceUnknown), certifySpec{use: use, spec: func(s *CertifySpec) { s.ExtraData = []byte("x") }}),
			certifyCase("N50", use+" over nothing", "the certification is bound to nothing", only(reason.NonceUnknown), certifySpec{use: use, spec: func(s *CertifySpec) { s.ExtraData = nil }}),
			certifyCase("N50", use+" by a key of another place", "the certification says that its key lives elsewhere in the TPM", unbound, certifySpec{use: use, spec: func(s *CertifySpec) { s.QualifiedSigner = foreign.QualifiedSigner() }}),
			certifyCase("N50", use+" by another device", "another device's attestation key signed", only(reason.QuoteSignatureInvalid), certifySpec{use: use, signer: &foreign}),
			certifyCase("N50", use+" in a quote", "a signed quote where a certification belongs", only(reason.QuoteMalformed), certifySpec{use: use, spec: func(s *CertifySpec) { s.Type = 0x8018 }}),
			certifyCase("N50", use+" with a byte after it", "one more byte after the certification", only(reason.QuoteMalformed), certifySpec{use: use, tail: []byte{0}}),
			certifyCase("N50", use+" not plain", "the certified key has no public area that can be read", unbound, certifySpec{use: use, area: RSAArea(1024)}),
		)
	}
	out = append(out, certifyCase("N50", "signed by the TLS key itself", "the TLS key signed its own certification", only(reason.QuoteSignatureInvalid), certifySpec{use: UseTLS, signer: &byTLS}))
	out = append(out, tlsKeyCases()...)
	out = append(out, wrapKeyCases()...)
	return append(out, successorCases()...)
}

// badKey is a case in which only the certified key is wrong.
func badKey(use, name, about string, change func(*PublicSpec)) IdentityCase {
	good := map[string]PublicSpec{UseTLS: GoodTLS(), UseWrap: GoodWrap(), UseSuccessor: GoodAK()}[use]
	change(&good)
	key := NewKey(Seed(use+" key"), good)
	return certifyCase("N50", name, about, only(reason.AKNotBound), certifySpec{use: use, object: &key})
}

// badBits makes a case for each attribute that a key of a use must have, and for each that it must not have.
func badBits(use string, required, forbidden []uint32) []IdentityCase {
	names := map[uint32]string{
		identity.FixedTPM: "fixedTPM", identity.FixedParent: "fixedParent", identity.SensitiveDataOrigin: "sensitiveDataOrigin",
		identity.Sign: "sign", identity.Decrypt: "decrypt", identity.Restricted: "restricted", identity.EncryptedDup: "encryptedDuplication",
	}
	var out []IdentityCase
	for _, bit := range required {
		out = append(out, badKey(use, use+" key without "+names[bit], "the certified key lacks the attribute "+names[bit], func(s *PublicSpec) { s.Attributes &^= bit }))
	}
	for _, bit := range forbidden {
		out = append(out, badKey(use, use+" key with "+names[bit], "the certified key has the attribute "+names[bit], func(s *PublicSpec) { s.Attributes |= bit }))
	}
	return out
}

func tlsKeyCases() []IdentityCase {
	out := badBits(UseTLS, []uint32{identity.FixedTPM, identity.FixedParent, identity.SensitiveDataOrigin, identity.Sign},
		[]uint32{identity.EncryptedDup, identity.Restricted, identity.Decrypt})
	return append(out,
		badKey(UseTLS, "tls key for SHA-1", "the TLS key signs with SHA-1", func(s *PublicSpec) { s.Scheme, s.Hash = AlgECDSA, AlgSHA1 }),
		certifyCase("N50", "tls key of RSA", "the TLS key is an RSA key", only(reason.AKNotBound), certifySpec{use: UseTLS, area: rsaArea(2048, TLSAttributes, AlgNull, 0)}),
	)
}

func wrapKeyCases() []IdentityCase {
	const oaep, rsaes = 0x0017, 0x0015
	out := badBits(UseWrap, []uint32{identity.FixedTPM, identity.FixedParent, identity.SensitiveDataOrigin, identity.Decrypt},
		[]uint32{identity.EncryptedDup, identity.Restricted, identity.Sign})
	return append(out,
		certifyCase("P20", "wrap key of RSA", "an RSA-2048 wrap key for OAEP with SHA-256", nil, certifySpec{use: UseWrap, area: rsaArea(2048, WrapAttributes, oaep, AlgSHA256)}),
		certifyCase("N50", "wrap key of RSA-3072", "a wrap key of another size", only(reason.AKNotBound), certifySpec{use: UseWrap, area: rsaArea(3072, WrapAttributes, AlgNull, 0)}),
		certifyCase("N50", "wrap key for RSAES", "a wrap key with a padding that answers questions", only(reason.AKNotBound), certifySpec{use: UseWrap, area: rsaArea(2048, WrapAttributes, rsaes, 0)}),
		certifyCase("N50", "wrap key for OAEP with SHA-1", "a wrap key with SHA-1", only(reason.AKNotBound), certifySpec{use: UseWrap, area: rsaArea(2048, WrapAttributes, oaep, AlgSHA1)}),
	)
}

func successorCases() []IdentityCase {
	ak := NewAK(Seed("attestation key"))
	owner := func(s *CertifySpec) {
		h := sha256.New()
		h.Write([]byte{0x40, 0, 0, 1}) // TPM_RH_OWNER
		h.Write(s.Name)
		s.QualifiedName = h.Sum([]byte{0, AlgSHA256})
	}
	return []IdentityCase{
		certifyCase("N32", "successor in another hierarchy", "the next attestation key lives in the owner hierarchy", only(reason.AKNotBound), certifySpec{use: UseSuccessor, spec: owner}),
		certifyCase("N50", "successor of itself", "the attestation key is offered as its own successor", only(reason.AKNotBound), certifySpec{use: UseSuccessor, object: &ak.Key}),
		badKey(UseSuccessor, "successor without restricted", "the next attestation key signs anything", func(s *PublicSpec) { s.Attributes &^= identity.Restricted }),
		badKey(UseSuccessor, "successor that was imported", "the next attestation key was not made in its TPM", func(s *PublicSpec) { s.Attributes &^= identity.SensitiveDataOrigin }),
	}
}

// rsaArea is a public area with the modulus of RSAArea, other attributes and another scheme.
func rsaArea(bits int, attributes uint32, scheme, hash uint16) []byte {
	key := rsaOfWords("modulus", bits)
	b := binary.BigEndian.AppendUint16(nil, 0x0001) // TPM_ALG_RSA
	b = binary.BigEndian.AppendUint16(b, AlgSHA256)
	b = binary.BigEndian.AppendUint32(b, attributes)
	b = sized(b, nil)
	b = binary.BigEndian.AppendUint16(b, AlgNull)
	b = binary.BigEndian.AppendUint16(b, scheme)
	if hash != 0 {
		b = binary.BigEndian.AppendUint16(b, hash)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(bits))
	b = binary.BigEndian.AppendUint32(b, 0) // the usual exponent
	return sized(b, key.N.Bytes())
}
