package evidencetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// Attributes of good keys.
const (
	AKAttributes  = identity.FixedTPM | identity.FixedParent | identity.SensitiveDataOrigin | identity.UserWithAuth | identity.NoDA | identity.Restricted | identity.Sign
	TLSAttributes = identity.FixedTPM | identity.FixedParent | identity.SensitiveDataOrigin | identity.UserWithAuth | identity.NoDA | identity.Sign
)

// Algorithm ids that public areas and signatures name (TPM 2.0 Part 2, 6.3).
const (
	AlgSHA1   = 0x0004
	AlgSHA256 = 0x000b
	AlgNull   = 0x0010
	AlgRSASSA = 0x0014
	AlgECDSA  = 0x0018
)

// PublicSpec is what a P-256 public area says beside its point. The zero value of a field means what it says; see
// GoodAK and GoodTLS.
type PublicSpec struct {
	NameAlg    uint16
	Attributes uint32
	Policy     []byte
	Scheme     uint16
	Hash       uint16 // written unless Scheme is AlgNull
	Curve      uint16
}

// GoodAK is the public area of a key that CheckAK accepts.
func GoodAK() PublicSpec {
	return PublicSpec{NameAlg: AlgSHA256, Attributes: AKAttributes, Scheme: AlgECDSA, Hash: AlgSHA256, Curve: 3}
}

// GoodTLS is the public area of a key that CheckTLSKey accepts.
func GoodTLS() PublicSpec {
	return PublicSpec{NameAlg: AlgSHA256, Attributes: TLSAttributes, Scheme: AlgNull, Curve: 3}
}

// Key is a P-256 key in software that pretends to live in a TPM.
type Key struct {
	Private *ecdsa.PrivateKey
	Public  []byte // TPMT_PUBLIC
}

// AK is a software attestation key. Everything it signs verifies; what it says is up to the test.
type AK struct{ Key }

// NewAK makes an attestation key from 32 bytes of seed; the same seed gives the same key.
func NewAK(seed io.Reader) AK { return AK{NewKey(seed, GoodAK())} }

// NewTLSKey makes a TLS key from 32 bytes of seed.
func NewTLSKey(seed io.Reader) Key { return NewKey(seed, GoodTLS()) }

// NewKey makes a key with the public area of spec. It panics when seed ends too early.
func NewKey(seed io.Reader, spec PublicSpec) Key {
	raw := make([]byte, 32)
	if _, err := io.ReadFull(seed, raw); err != nil {
		panic(fmt.Sprintf("seed of a test key: %v", err))
	}
	sum := sha256.Sum256(raw)
	sum[0] &= 0x7f // below the order of P-256
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		panic(fmt.Sprintf("test key: %v", err))
	}
	return Key{Private: private, Public: PublicArea(&private.PublicKey, spec)}
}

// PublicArea writes the TPMT_PUBLIC of key.
func PublicArea(key *ecdsa.PublicKey, spec PublicSpec) []byte {
	point, err := key.Bytes()
	if err != nil {
		panic(fmt.Sprintf("test key: %v", err))
	}
	b := binary.BigEndian.AppendUint16(nil, 0x0023) // TPM_ALG_ECC
	b = binary.BigEndian.AppendUint16(b, spec.NameAlg)
	b = binary.BigEndian.AppendUint32(b, spec.Attributes)
	b = sized(b, spec.Policy)
	b = binary.BigEndian.AppendUint16(b, AlgNull) // symmetric
	b = binary.BigEndian.AppendUint16(b, spec.Scheme)
	if spec.Scheme != AlgNull {
		b = binary.BigEndian.AppendUint16(b, spec.Hash)
	}
	b = binary.BigEndian.AppendUint16(b, spec.Curve)
	b = binary.BigEndian.AppendUint16(b, AlgNull) // KDF
	return sized(sized(b, point[1:33]), point[33:])
}

// Name is the key's Name: nameAlg || SHA-256(public area).
func (k Key) Name() []byte {
	sum := sha256.Sum256(k.Public)
	return append(binary.BigEndian.AppendUint16(nil, AlgSHA256), sum[:]...)
}

// QualifiedSigner is the key's qualified Name as a primary key of the endorsement hierarchy.
func (k Key) QualifiedSigner() []byte { return identity.QualifiedNameUnderEndorsement(k.Name()) }

// Sign returns a TPMT_SIGNATURE over b. The same key and b give the same bytes (RFC 6979).
func (k Key) Sign(b []byte) []byte {
	sum := sha256.Sum256(b)
	der, err := k.Private.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		panic(fmt.Sprintf("test signature: %v", err))
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		panic(fmt.Sprintf("test signature: %v", err))
	}
	out := binary.BigEndian.AppendUint16(nil, AlgECDSA)
	out = binary.BigEndian.AppendUint16(out, AlgSHA256)
	return sized(sized(out, rs.R.FillBytes(make([]byte, 32))), rs.S.FillBytes(make([]byte, 32)))
}

// Bank is one TPMS_PCR_SELECTION.
type Bank struct {
	Alg    uint16
	Select []byte // bitmap, one bit per PCR
}

// QuoteSpec is what a quote says. Zero fields take the values that a TPM would write.
type QuoteSpec struct {
	Magic           uint32 // default: TPM_GENERATED_VALUE
	Type            uint16 // default: quote
	QualifiedSigner []byte // default: that of the key
	ExtraData       []byte
	Clock           quote.Clock
	Firmware        uint64
	PCRs            map[int]digest.SHA256 // the quoted registers
	Banks           []Bank                // default: the SHA-256 bank with the indexes of PCRs
	Digest          []byte                // default: that of PCRs
}

// Quote returns a TPMS_ATTEST of type quote and its signature.
func (ak AK) Quote(spec QuoteSpec) (attest, signature []byte) {
	banks, sum := spec.Banks, spec.Digest
	var bitmap [3]byte
	var values []digest.SHA256
	for pcr := range 24 {
		if v, ok := spec.PCRs[pcr]; ok {
			bitmap[pcr/8] |= 1 << (pcr % 8)
			values = append(values, v)
		}
	}
	if banks == nil {
		banks = []Bank{{Alg: AlgSHA256, Select: bitmap[:]}}
	}
	if sum == nil {
		d := quote.PCRDigest(values)
		sum = d[:]
	}
	attest = ak.header(spec.Magic, spec.Type, 0x8018, spec.QualifiedSigner, spec.ExtraData, spec.Clock, spec.Firmware)
	attest = binary.BigEndian.AppendUint32(attest, uint32(len(banks)))
	for _, bank := range banks {
		attest = binary.BigEndian.AppendUint16(attest, bank.Alg)
		attest = append(append(attest, byte(len(bank.Select))), bank.Select...)
	}
	attest = sized(attest, sum)
	return attest, ak.Sign(attest)
}

// CertifySpec is what a certification says. Zero fields take the values that a TPM would write.
type CertifySpec struct {
	Type            uint16 // default: certify
	QualifiedSigner []byte
	ExtraData       []byte
	Clock           quote.Clock
	Firmware        uint64
	Name            []byte // Name of the certified key
	QualifiedName   []byte // default: that of a primary key of the endorsement hierarchy
}

// Certify returns a TPMS_ATTEST of type certify and its signature.
func (ak AK) Certify(spec CertifySpec) (certifyInfo, signature []byte) {
	qualified := spec.QualifiedName
	if qualified == nil {
		qualified = identity.QualifiedNameUnderEndorsement(spec.Name)
	}
	certifyInfo = ak.header(0, spec.Type, 0x8017, spec.QualifiedSigner, spec.ExtraData, spec.Clock, spec.Firmware)
	certifyInfo = sized(sized(certifyInfo, spec.Name), qualified)
	return certifyInfo, ak.Sign(certifyInfo)
}

func (ak AK) header(magic uint32, typ, usual uint16, signer, extra []byte, clock quote.Clock, firmware uint64) []byte {
	if magic == 0 {
		magic = 0xff544347
	}
	if typ == 0 {
		typ = usual
	}
	if signer == nil {
		signer = ak.QualifiedSigner()
	}
	b := binary.BigEndian.AppendUint32(nil, magic)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = sized(sized(b, signer), extra)
	b = binary.BigEndian.AppendUint64(b, clock.Clock)
	b = binary.BigEndian.AppendUint32(b, clock.ResetCount)
	b = binary.BigEndian.AppendUint32(b, clock.RestartCount)
	safe := byte(0)
	if clock.Safe {
		safe = 1
	}
	return binary.BigEndian.AppendUint64(append(b, safe), firmware)
}

// sized appends field as a TPM2B.
func sized(b, field []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
}
