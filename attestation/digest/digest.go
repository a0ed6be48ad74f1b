// Package digest holds the one digest type of cordon: SHA-256, written as 64 lower-case hex digits.
//
// There is no algorithm field and no negotiation: a second algorithm would be a second type.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Size is the length of a SHA-256 digest in bytes.
const Size = sha256.Size

// ErrMalformed is returned for text that is not exactly 64 lower-case hex digits.
var ErrMalformed = errors.New("digest is not 64 lower-case hex digits")

// SHA256 is a SHA-256 digest. The zero value stands for "no digest"; see IsZero.
type SHA256 [Size]byte

// Of returns the SHA-256 of b.
func Of(b []byte) SHA256 { return sha256.Sum256(b) }

// Parse reads the text form; it returns ErrMalformed for anything else, upper case included.
func Parse(s string) (SHA256, error) {
	var d SHA256
	err := d.UnmarshalText([]byte(s))
	return d, err
}

// FromBytes copies a 32-byte slice; it returns ErrMalformed for any other length.
func FromBytes(b []byte) (SHA256, error) {
	if len(b) != Size {
		return SHA256{}, ErrMalformed
	}
	return SHA256(b), nil
}

// IsZero reports whether d is the zero value.
func (d SHA256) IsZero() bool { return d == SHA256{} }

// String returns the text form.
func (d SHA256) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the text form.
func (d SHA256) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form; it returns ErrMalformed for anything else.
func (d *SHA256) UnmarshalText(b []byte) error {
	if len(b) != 2*Size {
		return ErrMalformed
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ErrMalformed
		}
	}
	_, err := hex.Decode(d[:], b)
	return err
}
