package quote

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
)

// ErrSignature is returned for a well-formed signature that does not verify, or that is not of the one algorithm that
// the key's type allows.
var ErrSignature = errors.New("signature does not verify")

const (
	algRSASSA   = 0x0014
	algECDSA    = 0x0018
	p256Bytes   = 32
	minRSABits  = 2048
	maxRSABytes = 512
)

// sealed is a TPMT_SIGNATURE with what it is held against.
type sealed struct {
	rsaKey    *rsa.PublicKey   // of these two, exactly one is set
	ecdsaKey  *ecdsa.PublicKey // on P-256
	sum       []byte           // SHA-256 of what was signed
	alg, hash uint16
	r, s      []byte // s is empty for RSA
	left      int
}

// signatureRule is one thing that every signature must have. Beside the rows, reading itself refuses bytes that end too
// early, fields beyond their limit, and keys that are neither P-256 nor RSA.
type signatureRule struct {
	id    string // stable: tests name it
	early bool   // asked before the values are read: those of another algorithm look cut or too long
	check func(sealed) error
}

// signatureRules are all of them. Nothing changes them; a test drops each in turn and demands that a case notices.
var signatureRules = [...]signatureRule{
	{"RSA size", true, func(x sealed) error {
		if x.rsaKey != nil && (x.rsaKey.N.BitLen() < minRSABits || x.rsaKey.N.BitLen() > 8*maxRSABytes) {
			return fmt.Errorf("%w: unsupported RSA size", ErrSignature)
		}
		return nil
	}},
	{"algorithm of ECDSA", true, func(x sealed) error {
		if x.ecdsaKey != nil && x.alg != algECDSA {
			return fmt.Errorf("%w: algorithm %#04x with hash %#04x, want ECDSA with SHA-256", ErrSignature, x.alg, x.hash)
		}
		return nil
	}},
	{"algorithm of RSA", true, func(x sealed) error {
		if x.rsaKey != nil && x.alg != algRSASSA {
			return fmt.Errorf("%w: algorithm %#04x with hash %#04x, want RSASSA with SHA-256", ErrSignature, x.alg, x.hash)
		}
		return nil
	}},
	{"hash", true, func(x sealed) error {
		if x.hash != algSHA256 {
			want := "ECDSA"
			if x.rsaKey != nil {
				want = "RSASSA"
			}
			return fmt.Errorf("%w: algorithm %#04x with hash %#04x, want %s with SHA-256", ErrSignature, x.alg, x.hash, want)
		}
		return nil
	}},
	{"end", false, func(x sealed) error {
		if x.left > 0 {
			return fmt.Errorf("%w: %d bytes after the signature", ErrMalformed, x.left)
		}
		return nil
	}},
	{"value of ECDSA", false, func(x sealed) error {
		if x.ecdsaKey != nil && !ecdsa.Verify(x.ecdsaKey, x.sum, new(big.Int).SetBytes(x.r), new(big.Int).SetBytes(x.s)) {
			return ErrSignature
		}
		return nil
	}},
	{"value of RSA", false, func(x sealed) error {
		if x.rsaKey != nil && rsa.VerifyPKCS1v15(x.rsaKey, crypto.SHA256, x.sum, x.r) != nil {
			return ErrSignature
		}
		return nil
	}},
}

// VerifySignature checks a TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4) over signed. A P-256 key takes ECDSA with SHA-256,
// an RSA key of 2048 to 4096 bits takes RSASSA with SHA-256, nothing else is accepted: the key decides, never the
// signature. It returns ErrMalformed for bytes that are not exactly one signature and ErrSignature otherwise.
func VerifySignature(pub crypto.PublicKey, signed, tpmtSignature []byte) error {
	return verifySignature(pub, signed, tpmtSignature, signatureRules[:])
}

func verifySignature(pub crypto.PublicKey, signed, tpmtSignature []byte, rules []signatureRule) error {
	if len(tpmtSignature) > MaxBytes {
		return fmt.Errorf("%w: signature of %d bytes, at most %d", ErrMalformed, len(tpmtSignature), MaxBytes)
	}
	c := &cursor{rest: tpmtSignature}
	sum := sha256.Sum256(signed)
	x := sealed{sum: sum[:], alg: c.u16(), hash: c.u16()}
	if c.failed {
		return fmt.Errorf("%w: signature ends too early", ErrMalformed)
	}
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return fmt.Errorf("%w: unsupported curve", ErrSignature)
		}
		x.ecdsaKey = key
	case *rsa.PublicKey:
		x.rsaKey = key
	default:
		return fmt.Errorf("%w: unsupported key type %T", ErrSignature, pub)
	}
	if err := x.check(rules, true); err != nil {
		return err
	}
	if x.r = c.sized(maxRSABytes); x.ecdsaKey != nil {
		x.s = c.sized(p256Bytes)
	}
	if x.left = len(c.rest); c.failed || (x.ecdsaKey != nil && len(x.r) > p256Bytes) {
		return fmt.Errorf("%w: signature ends too early", ErrMalformed)
	}
	return x.check(rules, false)
}

func (x sealed) check(rules []signatureRule, early bool) error {
	for _, r := range rules {
		if r.early != early {
			continue
		}
		if err := r.check(x); err != nil {
			return err
		}
	}
	return nil
}
