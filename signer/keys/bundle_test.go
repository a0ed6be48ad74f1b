package keys_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/signer/keys"
)

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignBundleRefusesOtherAlgorithms(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{ecKey(t, elliptic.P384()), ed} {
		if _, err := keys.SignBundle(t.Context(), []byte("{}"), artifacts.PayloadType, key); !errors.Is(err, keys.ErrType) {
			t.Errorf("%T: got %v, want %v", key, err, keys.ErrType)
		}
	}
}

// mixedUp signs with another key than it shows.
type mixedUp struct{ shown, used *ecdsa.PrivateKey }

func (m mixedUp) Public() crypto.PublicKey { return m.shown.Public() }
func (m mixedUp) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	return m.used.Sign(r, d, o)
}

func TestSignBundleChecksItsOwnSignature(t *testing.T) {
	t.Parallel()
	key := mixedUp{ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())}
	if b, err := keys.SignBundle(t.Context(), []byte("{}"), artifacts.PayloadType, key); err == nil {
		t.Errorf("a key source that mixes keys up got a bundle: %s", b)
	}
}

func TestSignBundleEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := keys.SignBundle(ctx, []byte("{}"), artifacts.PayloadType, ecKey(t, elliptic.P256())); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
