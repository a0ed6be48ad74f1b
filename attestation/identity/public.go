package identity

import (
	"cmp"
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

// publicForm is what the bytes of a TPMT_PUBLIC say about themselves.
type publicForm struct {
	nameAlg    uint16
	scheme     uint16
	curve, kdf uint16 // of an ECC key
	bits       int    // as an RSA key says
	exponent   uint32
	rsa        bool
	modulus    []byte
	left       int
}

// publicRule is one thing that every public area must have. Beside the rows, reading itself refuses what gives no key:
// bytes that end too early, fields beyond their limit, a type of key without a parser, and a point off the curve.
type publicRule struct {
	id    string // stable: tests name it
	early bool   // asked before the key is read: that of another kind looks cut or too long
	check func(publicForm) error
}

// publicRules are all of them. Nothing changes them; a test drops each in turn and demands that a case notices.
var publicRules = [...]publicRule{
	{"name algorithm", true, func(f publicForm) error {
		if f.nameAlg != algSHA256 {
			return fmt.Errorf("%w: name algorithm %#04x, want SHA-256", ErrUnsupported, f.nameAlg)
		}
		return nil
	}},
	{"scheme", true, func(f publicForm) error {
		switch f.scheme {
		case algNull, algRSAES, algRSASSA, algRSAPSS, algOAEP, algECDSA, algECDH:
			return nil
		}
		return fmt.Errorf("%w: scheme %#04x", ErrUnsupported, f.scheme)
	}},
	{"curve", true, func(f publicForm) error {
		if !f.rsa && f.curve != curveP256 {
			return fmt.Errorf("%w: curve %#04x with KDF %#04x, want P-256 without", ErrUnsupported, f.curve, f.kdf)
		}
		return nil
	}},
	{"kdf", true, func(f publicForm) error {
		if !f.rsa && f.kdf != algNull {
			return fmt.Errorf("%w: curve %#04x with KDF %#04x, want P-256 without", ErrUnsupported, f.curve, f.kdf)
		}
		return nil
	}},
	{"RSA size", true, func(f publicForm) error {
		if f.rsa && (f.bits < minRSABits || f.bits > maxRSABits) {
			return fmt.Errorf("%w: RSA with %d bits and exponent %d", ErrUnsupported, f.bits, f.exponent)
		}
		return nil
	}},
	{"RSA exponent", true, func(f publicForm) error {
		if f.rsa && f.exponent != defaultExponent {
			return fmt.Errorf("%w: RSA with %d bits and exponent %d", ErrUnsupported, f.bits, f.exponent)
		}
		return nil
	}},
	{"RSA modulus", false, func(f publicForm) error {
		if n := new(big.Int).SetBytes(f.modulus); f.rsa && (n.BitLen() != f.bits || len(f.modulus) != f.bits/8) {
			return fmt.Errorf("%w: modulus of %d bits, want %d", ErrMalformed, n.BitLen(), f.bits)
		}
		return nil
	}},
	{"RSA odd", false, func(f publicForm) error {
		if f.rsa && (len(f.modulus) == 0 || f.modulus[len(f.modulus)-1]&1 == 0) {
			return fmt.Errorf("%w: an even modulus", ErrMalformed)
		}
		return nil
	}},
	{"end", false, func(f publicForm) error {
		if f.left > 0 {
			return fmt.Errorf("%w: %d bytes after the end", ErrMalformed, f.left)
		}
		return nil
	}},
}

// ParsePublic parses a TPMT_PUBLIC of a P-256 or RSA key with a SHA-256 Name. It returns ErrMalformed for bytes that
// are not exactly one public area, a point off the curve included, and ErrUnsupported for any other kind of key.
func ParsePublic(tpmtPublic []byte) (Public, error) { return parsePublic(tpmtPublic, publicRules[:]) }

func parsePublic(tpmtPublic []byte, rules []publicRule) (Public, error) {
	if len(tpmtPublic) > MaxPublicBytes {
		return Public{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(tpmtPublic), MaxPublicBytes)
	}
	c := &cursor{rest: tpmtPublic}
	var f publicForm
	typ := c.u16()
	f.nameAlg = c.u16()
	p := Public{Raw: tpmtPublic, Attributes: c.u32(), Policy: c.sized(maxPolicyBytes)}
	p.readSchemes(c)
	f.scheme = p.Scheme
	switch typ {
	case algECC: // TPMS_ECC_PARMS (Part 2, 12.2.3.6)
		f.curve, f.kdf = c.u16(), c.u16()
	case algRSA: // TPMS_RSA_PARMS (Part 2, 12.2.3.5)
		f.rsa, f.bits, f.exponent = true, int(c.u16()), cmp.Or(c.u32(), defaultExponent)
	default:
		return Public{}, unsupportedType(typ, c)
	}
	if err := f.check(c, rules, true); err != nil {
		return Public{}, err
	}
	var x, y []byte
	if f.rsa { // TPM2B_PUBLIC_KEY_RSA (11.2.4.5)
		f.modulus = c.sized(maxRSABits / 8)
	} else { // TPMS_ECC_POINT (11.2.5.2)
		x, y = c.sized(coordinateBytes), c.sized(coordinateBytes)
	}
	f.left = len(c.rest)
	if err := f.check(c, rules, false); err != nil {
		return Public{}, err
	}
	var err error
	if p.Key, err = f.key(x, y); err != nil {
		return Public{}, err
	}
	sum := sha256.Sum256(tpmtPublic)
	p.Name = append(binary.BigEndian.AppendUint16(nil, algSHA256), sum[:]...)
	return p, nil
}

func unsupportedType(typ uint16, c *cursor) error {
	if c.failed {
		return fmt.Errorf("%w: ends too early", ErrMalformed)
	}
	return fmt.Errorf("%w: key type %#04x", ErrUnsupported, typ)
}

func (f publicForm) check(c *cursor, rules []publicRule, early bool) error {
	if c.failed {
		return fmt.Errorf("%w: ends too early", ErrMalformed)
	}
	for _, r := range rules {
		if r.early != early {
			continue
		}
		if err := r.check(f); err != nil {
			return err
		}
	}
	return nil
}

// key makes the key.
func (f publicForm) key(x, y []byte) (crypto.PublicKey, error) {
	if f.rsa {
		return &rsa.PublicKey{N: new(big.Int).SetBytes(f.modulus), E: int(f.exponent)}, nil
	}
	point := make([]byte, 1+2*coordinateBytes)
	point[0] = 4 // uncompressed
	copy(point[1+coordinateBytes-len(x):], x)
	copy(point[1+2*coordinateBytes-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: the point is not on P-256", ErrMalformed)
	}
	return key, nil
}

// readSchemes reads TPMT_SYM_DEF_OBJECT and the asymmetric scheme, which both kinds of keys begin with. Every scheme
// but two names a hash; what one is that nobody knows does not matter, since it is refused.
func (p *Public) readSchemes(c *cursor) {
	p.Symmetric = c.u16()
	if p.Symmetric != algNull {
		c.take(4) // key bits and mode
	}
	if p.Scheme = c.u16(); p.Scheme != algNull && p.Scheme != algRSAES {
		p.Hash = c.u16()
	}
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
