package evidencetest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"strings"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// rsaOfWords is an RSA public key that nobody knows the factors of.
func rsaOfWords(words string, bits int) *rsa.PublicKey {
	var modulus []byte
	for sum := sha256.Sum256([]byte(words)); len(modulus) < bits/8; sum = sha256.Sum256(sum[:]) {
		modulus = append(modulus, sum[:]...)
	}
	modulus = modulus[:bits/8]
	modulus[0] |= 0x80
	modulus[len(modulus)-1] |= 1
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
}

// eccOfWords is a key on a curve, made from words.
func eccOfWords(curve elliptic.Curve, words string) *ecdsa.PrivateKey {
	raw := make([]byte, (curve.Params().BitSize+7)/8)
	sum := sha256.Sum256([]byte(words))
	copy(raw[1:], sum[:]) // below the order of the curve
	key, err := ecdsa.ParseRawPrivateKey(curve, raw)
	must(err)
	return key
}

// san replaces the subject alternative name.
func san(e pkix.Extension) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{e} }
}

func agreement(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }

func expired(c *x509.Certificate) { c.NotAfter = date(2024) }

// of replaces the certificate by one for another key.
func of(public any, change func(*x509.Certificate)) func(*EKQuestion) {
	return func(q *EKQuestion) { q.Certificate = maker().Endorse(public, change) }
}

func boundTo(manufacturers ...string) func(*EKQuestion) {
	return func(q *EKQuestion) { q.Roots[0].Manufacturers = manufacturers }
}

// ekCases are endorsement certificates, good ones first.
func ekCases() []IdentityCase {
	p256, p384, p224 := eccOfWords(elliptic.P256(), "P-256"), eccOfWords(elliptic.P384(), "P-384"), eccOfWords(elliptic.P224(), "P-224")
	ca := maker()
	below := ca.IntermediateOfWords("TPM maker's plant", "plant", nil)
	return append([]IdentityCase{
		ekCase("P10", "good", "a certificate with nothing wrong", nil, nil),
		ekCase("P10", "padded", "a certificate with zeros after it, as it lies in its TPM", nil, nil, func(q *EKQuestion) { q.Certificate = append(q.Certificate, 0, 0, 0) }),
		ekCase("P10", "padded with ones", "a certificate with 0xff after it", nil, nil, func(q *EKQuestion) { q.Certificate = append(q.Certificate, 0xff, 0xff) }),
		ekCase("P10", "expired", "a certificate that has ended: accepted and noted", nil, expired),
		ekCase("P10", "no extended key usage", "a certificate that names no purpose", nil, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }),
		ekCase("P10", "P-256", "an endorsement key on P-256", nil, nil, of(&p256.PublicKey, agreement)),
		ekCase("P10", "P-384", "an endorsement key on P-384", nil, nil, of(&p384.PublicKey, agreement)),
		ekCase("P10", "intermediate", "a certificate below an intermediate that the device sends", nil, nil, func(q *EKQuestion) {
			q.Certificate, q.Intermediates = below.Endorse(rsaOfWords("endorsement key", 2048), nil), [][]byte{below.Certificate.Raw}
		}),
		ekCase("P10", "root of the manufacturer", "the root is bound to two manufacturers, one of them the TPM's, written in small letters", nil, nil, boundTo("id:49465800", "id:54534d00")),
		ekCase("P10", "allowed manufacturer", "only this manufacturer is admitted", nil, nil, func(q *EKQuestion) { q.Manufacturers = []string{"id:54534D00"} }),
		ekCase("N33", "EK on P-224", "an endorsement key on P-224", only(reason.EKUntrusted), nil, of(&p224.PublicKey, agreement)),
		ekCase("N33", "EK on P-192", "an endorsement key on P-192", only(reason.EKUntrusted), nil, func(q *EKQuestion) { q.Certificate = onCurve(0x01) }),
		ekCase("N33", "EK on an unknown curve", "an endorsement key on a curve that has no name in X.509, as those of Barreto and Naehrig", only(reason.EKUntrusted), nil, func(q *EKQuestion) { q.Certificate = onCurve(0x7e) }),
		ekCase("N33", "EK of RSA-1024", "an endorsement key of 1024 bits", only(reason.EKUntrusted), nil, of(rsaOfWords("endorsement key", 1024), nil)),
		ekCase("N33", "EK of RSA with exponent 3", "an endorsement key with a small exponent", only(reason.EKUntrusted), nil, of(&rsa.PublicKey{N: rsaOfWords("endorsement key", 2048).N, E: 3}, nil)),
		ekCase("N33", "EK of another kind", "an Ed25519 endorsement key, which no TPM has", only(reason.EKUntrusted), nil, of(ed25519.NewKeyFromSeed(make([]byte, 32)).Public(), nil)),
	}, append(ekFormCases(), ekChainCases()...)...)
}

// ekFormCases are certificates that say something wrong about themselves.
func ekFormCases() []IdentityCase {
	bad := only(reason.EKUntrusted)
	return []IdentityCase{
		ekCase("N40", "too large", "a certificate beyond its limit", bad, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, identity.MaxCertificateBytes)})
		}),
		ekCase("N40", "bytes after it", "something behind the certificate that is no padding", bad, nil, func(q *EKQuestion) { q.Certificate = append(q.Certificate, 0, 1) }),
		ekCase("N40", "a CA", "a certificate of a CA", bad, func(c *x509.Certificate) { c.IsCA = true }),
		ekCase("N40", "no basic constraints", "a certificate that does not say that it is no CA", bad, func(c *x509.Certificate) { c.BasicConstraintsValid = false }),
		ekCase("N40", "key usage of a signer", "a key that signs", bad, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }),
		ekCase("N40", "purpose of a TLS client", "a certificate for TLS clients", bad, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
		ekCase("N40", "purpose of an AK", "a certificate for attestation keys", bad, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }),
		ekCase("N40", "no name", "a certificate that does not say which TPM it is for", bad, func(c *x509.Certificate) { c.ExtraExtensions = nil }),
		ekCase("N40", "two names", "a certificate that names two TPMs", bad, san(twoNames())),
		ekCase("N40", "manufacturer twice", "a name with two manufacturers", bad, san(nameWith("id:54534D00", "id:49465800", "model", "id:1"))),
		ekCase("N40", "manufacturer without id", "a manufacturer in letters", bad, san(TPMName("TSM", "model", "id:1"))),
		ekCase("N40", "no model", "a name without a model", bad, san(TPMName("id:54534D00", "", "id:1"))),
		ekCase("N40", "model that cannot be shown", "a model with control characters", bad, san(TPMName("id:54534D00", "a\nb", "id:1"))),
		ekCase("N40", "no version", "a name without a version", bad, san(TPMName("id:54534D00", "model", ""))),
		ekCase("N40", "endless version", "a version of 65 characters", bad, san(TPMName("id:54534D00", "model", "id:"+strings.Repeat("1", 62)))),
		ekCase("N40", "manufacturer that is not admitted", "only another manufacturer is admitted", bad, nil, func(q *EKQuestion) { q.Manufacturers = []string{"id:49465800"} }),
	}
}

// ekChainCases are certificates that nobody trusted has issued, or not for this.
func ekChainCases() []IdentityCase {
	bad, ca := only(reason.EKUntrusted), maker()
	forger := CAOfWords("TPM maker", "forger")
	self := steady{eccOfWords(elliptic.P256(), "self")}
	template := endorsement(agreement)
	signedItself := issue(template, template, self.Public(), self)
	many := make([][]byte, identity.MaxIntermediates+1)
	for i := range many {
		many[i] = ca.Certificate.Raw
	}
	return []IdentityCase{
		ekCase("N40", "signed itself", "a certificate that signed itself, with a manufacturer's name", bad, nil, func(q *EKQuestion) { q.Certificate = signedItself }),
		ekCase("N40", "issuer of the same name", "an issuer that calls itself as the manufacturer does", bad, nil, func(q *EKQuestion) {
			q.Certificate = forger.Endorse(rsaOfWords("endorsement key", 2048), nil)
		}),
		ekCase("N40", "its own root beside it", "the issuer's certificate comes along", bad, nil, func(q *EKQuestion) {
			q.Certificate, q.Intermediates = forger.Endorse(rsaOfWords("endorsement key", 2048), nil), [][]byte{forger.Certificate.Raw}
		}),
		ekCase("N40", "no roots", "the verifier knows no manufacturer", bad, nil, func(q *EKQuestion) { q.Roots = nil }),
		ekCase("N40", "too many intermediates", "five intermediates", bad, nil, func(q *EKQuestion) { q.Intermediates = many }),
		ekCase("N40", "an intermediate that is none", "an intermediate that cannot be read", bad, nil, func(q *EKQuestion) { q.Intermediates = [][]byte{[]byte("x")} }),
		ekCase("N40", "an intermediate that costs", "an intermediate with a key of 8,704 bits", bad, nil, withIntermediateOf(rsaOfWords("costs", 8704))),
		ekCase("N40", "a weak intermediate", "an intermediate with a key of 1,024 bits", bad, nil, withIntermediateOf(rsaOfWords("weak", 1024))),
		ekCase("N40", "not valid yet", "a certificate of the future", bad, nil, func(q *EKQuestion) { q.At = date(2020) }),
		ekCase("N40", "expired where that counts", "a certificate that has ended, and a verifier that takes no such one", bad, expired, func(q *EKQuestion) { q.RefuseExpired = true }),
		ekCase("N40", "root of another manufacturer", "a genuine root that does not speak for this manufacturer", bad, nil, boundTo("id:49465800")),
		ekCase("N40", "root of nobody", "a root that is bound to no manufacturer, and a verifier that takes no such one", bad, nil, func(q *EKQuestion) { q.RefuseUnbound = true }),
		ekCase("N49", "emulated TPM", "an emulator calls itself as a real manufacturer does; only that one's root is there", bad, nil, func(q *EKQuestion) {
			genuine := CAOfWords("Infineon", "Infineon")
			q.Certificate = ca.Endorse(rsaOfWords("endorsement key", 2048), san(TPMName("id:49465800", "SLB9672", "id:1000")))
			q.Roots = []EKRoot{{Certificate: genuine.Certificate.Raw, Manufacturers: []string{"id:49465800"}}}
		}),
	}
}

func withIntermediateOf(key *rsa.PublicKey) func(*EKQuestion) {
	ca := maker()
	return func(q *EKQuestion) {
		q.Intermediates = [][]byte{issue(authority(9, "another plant"), ca.Certificate, key, ca.key)}
	}
}

// denialCases hold good certificates against lists of denials.
func denialCases() []IdentityCase {
	ca, revoked := maker(), only(reason.EKRevoked)
	spki, err := x509.MarshalPKIXPublicKey(rsaOfWords("endorsement key", 2048))
	must(err)
	key := sha256.Sum256(spki)
	below := ca.IntermediateOfWords("TPM maker's plant", "plant", nil)
	lying := func(q *EKQuestion) {
		// Whoever holds the plant's key writes another identifier for it into what he issues.
		parent := *below.Certificate
		parent.SubjectKeyId = bytes.Repeat([]byte{1}, 20)
		q.Certificate = issue(endorsement(nil), &parent, rsaOfWords("endorsement key", 2048), below.key)
		q.Intermediates = [][]byte{below.Certificate.Raw}
	}
	deny := func(list ...identity.Denial) func(*EKQuestion) {
		return func(q *EKQuestion) {
			for _, d := range list {
				d.Why = "test"
				q.Denials = append(q.Denials, d)
			}
		}
	}
	firmware := func(v uint64) func(*EKQuestion) { return func(q *EKQuestion) { q.Firmware = v } }
	root, plant := hex.EncodeToString(ca.Certificate.SubjectKeyId), hex.EncodeToString(below.Certificate.SubjectKeyId)
	holes := identity.Denial{Manufacturer: "id:54534D00", FirmwareFrom: 0x10, FirmwareTo: 0x20}
	return []IdentityCase{
		ekCase("N48", "denied key", "the endorsement key is denied", revoked, nil, deny(identity.Denial{Key: hex.EncodeToString(key[:])})),
		ekCase("N48", "denied serial number", "the certificate's serial number is denied for its issuer", revoked, nil, deny(identity.Denial{Serial: "03", Issuer: root})),
		ekCase("N48", "denied issuer", "everything below the issuer is denied", revoked, nil, deny(identity.Denial{Issuer: root})),
		ekCase("N48", "denied issuer that the certificate does not name", "the certificate names another identifier for the key of its issuer", revoked, nil, lying, deny(identity.Denial{Issuer: plant})),
		ekCase("N48", "denied root", "everything below the root is denied, and an intermediate stands between", revoked, nil, lying, deny(identity.Denial{Issuer: root})),
		ekCase("N48", "denied firmware, first", "the first version of a denied range", revoked, nil, deny(holes), firmware(0x10)),
		ekCase("N48", "denied firmware, last", "the last version of a denied range", revoked, nil, deny(holes), firmware(0x20)),
		ekCase("P11", "another key", "another endorsement key is denied", nil, nil, deny(identity.Denial{Key: strings.Repeat("ab", 32)})),
		ekCase("P11", "serial number of another issuer", "the same serial number of another issuer is denied", nil, nil, deny(identity.Denial{Serial: "03", Issuer: plant})),
		ekCase("P11", "another serial number", "another serial number of the issuer is denied", nil, nil, deny(identity.Denial{Serial: "04", Issuer: root})),
		ekCase("P11", "firmware before the range", "the version before a denied range", nil, nil, deny(holes), firmware(0x0f)),
		ekCase("P11", "firmware after the range", "the version after a denied range", nil, nil, deny(holes), firmware(0x21)),
		ekCase("P11", "firmware not known", "no quote has named a version yet", nil, nil, deny(identity.Denial{Manufacturer: "id:54534D00", FirmwareTo: 0x20})),
		ekCase("P11", "firmware of another manufacturer", "the range is another manufacturer's", nil, nil, deny(identity.Denial{Manufacturer: "id:49465800", FirmwareTo: 0x20}), firmware(0x10)),
	}
}

// twoNames is a subject alternative name with two directory names.
func twoNames() pkix.Extension {
	e := TPMName("id:54534D00", "model", "id:1")
	var names []asn1.RawValue
	_, err := asn1.Unmarshal(e.Value, &names)
	must(err)
	e.Value, err = asn1.Marshal(append(names, names...))
	must(err)
	return e
}

// nameWith is a subject alternative name with two manufacturers.
func nameWith(first, second, model, version string) pkix.Extension {
	manufacturer := asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	rdn, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: manufacturer, Value: first}}, {{Type: manufacturer, Value: second}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: model}}, {{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: version}},
	})
	must(err)
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: rdn}})
	must(err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

// onCurve is a certificate whose key names another curve of the same family than P-256; it is signed so.
func onCurve(last byte) []byte {
	ca := maker()
	var outer struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	_, err := asn1.Unmarshal(ca.Endorse(&eccOfWords(elliptic.P256(), "P-256").PublicKey, agreement), &outer)
	must(err)
	p256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	other := bytes.Clone(p256)
	other[len(other)-1] = last
	outer.TBS = asn1.RawValue{FullBytes: bytes.Replace(outer.TBS.FullBytes, p256, other, 1)}
	sum := sha256.Sum256(outer.TBS.FullBytes)
	signature, err := ca.key.Sign(nil, sum[:], crypto.SHA256)
	must(err)
	outer.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	der, err := asn1.Marshal(outer)
	must(err)
	return der
}
