package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// MaxPublicBytes bounds a TPMT_PUBLIC.
const MaxPublicBytes = 1024

// Sentinel errors of ParsePublic.
var (
	// ErrMalformed is returned for bytes that are not exactly one TPMT_PUBLIC.
	ErrMalformed = errors.New("public area is malformed")
	// ErrUnsupported is returned for a public area of a kind or strength that cordon does not accept.
	ErrUnsupported = errors.New("public area is of an unsupported kind")
)

// Object attributes, TPMA_OBJECT (TPM 2.0 Part 2, 8.3).
const (
	FixedTPM            = 1 << 1
	STClear             = 1 << 2
	FixedParent         = 1 << 4
	SensitiveDataOrigin = 1 << 5
	UserWithAuth        = 1 << 6
	AdminWithPolicy     = 1 << 7
	NoDA                = 1 << 10
	EncryptedDup        = 1 << 11
	Restricted          = 1 << 16
	Decrypt             = 1 << 17
	Sign                = 1 << 18
)

// Algorithm ids, TPM_ALG_ID (TPM 2.0 Part 2, 6.3).
const (
	algRSA    = 0x0001
	algSHA256 = 0x000b
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAES  = 0x0015
	algRSAPSS = 0x0016
	algOAEP   = 0x0017
	algECDSA  = 0x0018
	algECDH   = 0x0019
	algECC    = 0x0023
	curveP256 = 0x0003
)

const (
	coordinateBytes   = 32
	minRSABits        = 2048
	maxRSABits        = 4096
	defaultExponent   = 65537
	maxPolicyBytes    = 64
	handleEndorsement = 0x4000000b // TPM_RH_ENDORSEMENT (Part 2, 7.4)
)

// Public is a parsed TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4).
type Public struct {
	Raw        []byte           // the bytes that were parsed
	Name       []byte           // nameAlg || SHA-256(Raw)
	Key        crypto.PublicKey // *ecdsa.PublicKey on P-256, or *rsa.PublicKey of 2048 to 4096 bits
	Attributes uint32           // TPMA_OBJECT
	Policy     []byte           // authorisation policy; empty when there is none
	Symmetric  uint16           // symmetric algorithm; 0x0010 (NULL) for a signing key
	Scheme     uint16           // signing scheme; 0x0010 when the key leaves it open
	Hash       uint16           // hash of the scheme; 0 when there is none
}

// ParsePublic parses a TPMT_PUBLIC of a P-256 or RSA key with a SHA-256 Name. It returns ErrMalformed for bytes that
// are not exactly one public area, a point off the curve included, and ErrUnsupported for any other kind of key.
func ParsePublic(tpmtPublic []byte) (Public, error) {
	if len(tpmtPublic) > MaxPublicBytes {
		return Public{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(tpmtPublic), MaxPublicBytes)
	}
	c := &cursor{rest: tpmtPublic}
	typ, nameAlg := c.u16(), c.u16()
	p := Public{Raw: tpmtPublic, Attributes: c.u32(), Policy: c.sized(maxPolicyBytes)}
	if c.failed {
		return Public{}, fmt.Errorf("%w: ends too early", ErrMalformed)
	}
	if nameAlg != algSHA256 {
		return Public{}, fmt.Errorf("%w: name algorithm %#04x, want SHA-256", ErrUnsupported, nameAlg)
	}
	var err error
	switch typ {
	case algECC:
		err = p.parseECC(c)
	case algRSA:
		err = p.parseRSA(c)
	default:
		err = fmt.Errorf("%w: key type %#04x", ErrUnsupported, typ)
	}
	if err != nil {
		return Public{}, err
	}
	sum := sha256.Sum256(tpmtPublic)
	p.Name = append(binary.BigEndian.AppendUint16(nil, algSHA256), sum[:]...)
	return p, nil
}

// parseECC reads TPMS_ECC_PARMS and TPMS_ECC_POINT (Part 2, 12.2.3.6 and 11.2.5.2).
func (p *Public) parseECC(c *cursor) error {
	if err := p.parseSchemes(c); err != nil {
		return err
	}
	curve, kdf := c.u16(), c.u16()
	if !c.failed && (curve != curveP256 || kdf != algNull) {
		return fmt.Errorf("%w: curve %#04x with KDF %#04x, want P-256 without", ErrUnsupported, curve, kdf)
	}
	x, y := c.sized(coordinateBytes), c.sized(coordinateBytes)
	if err := c.end(); err != nil {
		return err
	}
	point := make([]byte, 1+2*coordinateBytes)
	point[0] = 4 // uncompressed
	copy(point[1+coordinateBytes-len(x):], x)
	copy(point[1+2*coordinateBytes-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return fmt.Errorf("%w: the point is not on P-256", ErrMalformed)
	}
	p.Key = key
	return nil
}

// parseRSA reads TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA (Part 2, 12.2.3.5 and 11.2.4.5).
func (p *Public) parseRSA(c *cursor) error {
	if err := p.parseSchemes(c); err != nil {
		return err
	}
	bits, exponent := int(c.u16()), c.u32()
	modulus := c.sized(maxRSABits / 8)
	if err := c.end(); err != nil {
		return err
	}
	if exponent == 0 {
		exponent = defaultExponent
	}
	if bits < minRSABits || bits > maxRSABits || exponent != defaultExponent {
		return fmt.Errorf("%w: RSA with %d bits and exponent %d", ErrUnsupported, bits, exponent)
	}
	n := new(big.Int).SetBytes(modulus)
	if n.BitLen() != bits || len(modulus) != bits/8 || n.Bit(0) == 0 {
		return fmt.Errorf("%w: modulus of %d bits, want %d", ErrMalformed, n.BitLen(), bits)
	}
	p.Key = &rsa.PublicKey{N: n, E: int(exponent)}
	return nil
}

// parseSchemes reads TPMT_SYM_DEF_OBJECT and the asymmetric scheme, which both kinds of keys begin with.
func (p *Public) parseSchemes(c *cursor) error {
	p.Symmetric = c.u16()
	if p.Symmetric != algNull {
		c.take(4) // key bits and mode
	}
	p.Scheme = c.u16()
	switch p.Scheme {
	case algNull, algRSAES:
	case algRSASSA, algRSAPSS, algOAEP, algECDSA, algECDH:
		p.Hash = c.u16()
	default:
		if !c.failed {
			return fmt.Errorf("%w: scheme %#04x", ErrUnsupported, p.Scheme)
		}
	}
	return nil
}

// QualifiedNameUnderEndorsement returns the qualified Name of a primary key in the endorsement hierarchy: nameAlg ||
// SHA-256(TPM_RH_ENDORSEMENT || Name) (TPM 2.0 Part 1, section 16; V-16). The qualifiedSigner of every quote by an
// attestation key that lives there equals it, and no key of another hierarchy can have it.
func QualifiedNameUnderEndorsement(name []byte) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, handleEndorsement))
	h.Write(name)
	return h.Sum(binary.BigEndian.AppendUint16(nil, algSHA256))
}

// cursor reads big-endian fields; after the first read past the end it fails for good and returns zero values.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if c.failed || n > len(c.rest) {
		c.failed = true
		return nil
	}
	out := c.rest[:n:n]
	c.rest = c.rest[n:]
	return out
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// sized reads a TPM2B: two bytes of length and that many bytes, at most limit.
func (c *cursor) sized(limit int) []byte {
	n := int(c.u16())
	if n > limit {
		c.failed = true
		return nil
	}
	return c.take(n)
}

// end reports an error unless everything was read and nothing is left.
func (c *cursor) end() error {
	if c.failed {
		return fmt.Errorf("%w: ends too early", ErrMalformed)
	}
	if len(c.rest) > 0 {
		return fmt.Errorf("%w: %d bytes after the end", ErrMalformed, len(c.rest))
	}
	return nil
}
