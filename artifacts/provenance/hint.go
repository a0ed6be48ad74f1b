package provenance

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// A hint names the key that signed a bundle. cordon writes the SHA-256 of the key's PKIX DER as hex
// (artifacts.KeyHint); cosign and sigstore-go write the same digest as base64. Both select a key of the policy, and the
// signature has to verify with that key whoever wrote the hint.

// otherHint is a hint of cordon as cosign writes it; a hint that is not hex stays as it is.
func otherHint(hint string) string {
	sum, err := hex.DecodeString(hint)
	if err != nil {
		return hint
	}
	return base64.StdEncoding.EncodeToString(sum)
}

// ownHint is a hint of cosign as cordon writes it; anything else stays as it is.
func ownHint(hint string) string {
	sum, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(sum) != sha256.Size {
		return hint
	}
	return hex.EncodeToString(sum)
}
