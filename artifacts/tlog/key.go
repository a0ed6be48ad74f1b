package tlog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// ErrKey is returned for a verifier key that is not in the one text form of the one allowed type.
var ErrKey = errors.New("verifier key is not valid")

// Signature types of C2SP signed-note: the first byte of a key.
const (
	algEd25519     = 1
	algCosignature = 4 // cosignature/v1, Ed25519
)

// LogVerifier reads the verifier key of a log: a C2SP note key of type Ed25519. It returns ErrKey for anything else.
func LogVerifier(vkey string) (note.Verifier, error) {
	if _, err := keyMaterial(vkey, algEd25519); err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return v, canonical(vkey, v)
}

// WitnessVerifier reads the verifier key of a witness: a C2SP note key of type cosignature/v1. It returns ErrKey for
// anything else.
func WitnessVerifier(vkey string) (note.Verifier, error) {
	if _, err := keyMaterial(vkey, algCosignature); err != nil {
		return nil, err
	}
	v, err := cosign.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return v, canonical(vkey, v)
}

// keyMaterial returns the key of a verifier key without its type byte, as text that can be compared.
func keyMaterial(vkey string, alg byte) (string, error) {
	if len(vkey) > maxVKey {
		return "", fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrKey, len(vkey), maxVKey)
	}
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("%w: want NAME+HASH+KEY", ErrKey)
	}
	if err := ValidOrigin(parts[0]); err != nil {
		return "", fmt.Errorf("%w: its name: %w", ErrKey, err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(raw) != 33 || base64.StdEncoding.EncodeToString(raw) != parts[2] {
		return "", fmt.Errorf("%w: it is not a key of 32 bytes and its type in base64", ErrKey)
	}
	if raw[0] != alg {
		return "", fmt.Errorf("%w: it has signature type %d, want %d", ErrKey, raw[0], alg)
	}
	return string(raw[1:]), nil
}

// canonical holds the key's own hash against what its text says; formats/note does not.
func canonical(vkey string, v note.Verifier) error {
	_, rest, _ := strings.Cut(vkey, "+")
	if hash, _, _ := strings.Cut(rest, "+"); hash != fmt.Sprintf("%08x", v.KeyHash()) {
		return fmt.Errorf("%w: its hash is %.8q, the key makes %08x", ErrKey, hash, v.KeyHash())
	}
	return nil
}
