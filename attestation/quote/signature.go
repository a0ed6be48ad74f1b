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

// VerifySignature checks a TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4) over signed. A P-256 key takes ECDSA with SHA-256,
// an RSA key of 2048 to 4096 bits takes RSASSA with SHA-256, nothing else is accepted: the key decides, never the
// signature. It returns ErrMalformed for bytes that are not exactly one signature and ErrSignature otherwise.
func VerifySignature(pub crypto.PublicKey, signed, tpmtSignature []byte) error {
	if len(tpmtSignature) > MaxBytes {
		return fmt.Errorf("%w: signature of %d bytes, at most %d", ErrMalformed, len(tpmtSignature), MaxBytes)
	}
	c := &cursor{rest: tpmtSignature}
	alg, hash := c.u16(), c.u16()
	if c.failed {
		return fmt.Errorf("%w: signature ends too early", ErrMalformed)
	}
	sum := sha256.Sum256(signed)
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		return verifyECDSA(key, sum[:], alg, hash, c)
	case *rsa.PublicKey:
		return verifyRSASSA(key, sum[:], alg, hash, c)
	}
	return fmt.Errorf("%w: unsupported key type %T", ErrSignature, pub)
}

func verifyECDSA(key *ecdsa.PublicKey, sum []byte, alg, hash uint16, c *cursor) error {
	if key.Curve != elliptic.P256() {
		return fmt.Errorf("%w: unsupported curve", ErrSignature)
	}
	if alg != algECDSA || hash != algSHA256 {
		return fmt.Errorf("%w: algorithm %#04x with hash %#04x, want ECDSA with SHA-256", ErrSignature, alg, hash)
	}
	r, s := c.sized(p256Bytes), c.sized(p256Bytes)
	if err := c.end("signature"); err != nil {
		return err
	}
	if !ecdsa.Verify(key, sum, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return ErrSignature
	}
	return nil
}

func verifyRSASSA(key *rsa.PublicKey, sum []byte, alg, hash uint16, c *cursor) error {
	if bits := key.N.BitLen(); bits < minRSABits || bits > 8*maxRSABytes {
		return fmt.Errorf("%w: unsupported RSA size", ErrSignature)
	}
	if alg != algRSASSA || hash != algSHA256 {
		return fmt.Errorf("%w: algorithm %#04x with hash %#04x, want RSASSA with SHA-256", ErrSignature, alg, hash)
	}
	sig := c.sized(maxRSABytes)
	if err := c.end("signature"); err != nil {
		return err
	}
	if rsa.VerifyPKCS1v15(key, crypto.SHA256, sum, sig) != nil {
		return ErrSignature
	}
	return nil
}
