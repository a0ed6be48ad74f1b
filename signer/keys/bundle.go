package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
)

// SignBundle signs payload with a key and returns a Sigstore bundle v0.3: a DSSE envelope with payloadType, and the
// key's artifacts.KeyHint as verification material. It returns ErrType for any key but a Publisher's.
//
// ECDSA signatures are random, so two calls give two bundles over one payload. A publisher that must be able to repeat
// itself keeps the first bundle.
func SignBundle(ctx context.Context, payload []byte, payloadType string, key crypto.Signer) ([]byte, error) {
	pair, err := newPair(key)
	if err != nil {
		return nil, err
	}
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: payloadType}, pair, sign.BundleOptions{Context: ctx})
	if err != nil {
		return nil, fmt.Errorf("cannot sign the bundle: %w", err)
	}
	return EncodeBundle(bundle)
}

// EncodeBundle writes a bundle as one line of JSON.
func EncodeBundle(bundle *protobundle.Bundle) ([]byte, error) {
	raw, err := protojson.Marshal(bundle)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the bundle: %w", err)
	}
	// protojson spreads spaces at random, on purpose; without them the bytes depend on the signature only.
	out := jsontext.Value(raw)
	if err := out.Compact(); err != nil {
		return nil, fmt.Errorf("cannot encode the bundle: %w", err)
	}
	return out, nil
}

// pair shows a crypto.Signer to sigstore-go as sign.Keypair.
type pair struct {
	key    crypto.Signer
	public *ecdsa.PublicKey
	hint   string
}

var _ sign.Keypair = (*pair)(nil)

func newPair(key crypto.Signer) (*pair, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: %T is not ECDSA P-256, a publisher key is needed here", ErrType, key.Public())
	}
	hint, err := artifacts.KeyHint(public)
	if err != nil {
		return nil, err
	}
	return &pair{key: key, public: public, hint: hint}, nil
}

// GetHashAlgorithm implements sign.Keypair.
func (p *pair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

// GetSigningAlgorithm implements sign.Keypair.
func (p *pair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}

// GetHint implements sign.Keypair.
func (p *pair) GetHint() []byte { return []byte(p.hint) }

// GetKeyAlgorithm implements sign.Keypair.
func (p *pair) GetKeyAlgorithm() string { return "ECDSA" }

// GetPublicKey implements sign.Keypair.
func (p *pair) GetPublicKey() crypto.PublicKey { return p.public }

// GetPublicKeyPem implements sign.Keypair.
func (p *pair) GetPublicKeyPem() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(p.public)
	if err != nil {
		return "", fmt.Errorf("cannot encode public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// SignData implements sign.Keypair. It checks the signature before anybody sees it: a faulty HSM or a KMS that answers
// with another key must fail here, not on a device.
func (p *pair) SignData(ctx context.Context, data []byte) (signature, sum []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256(data)
	signature, err = p.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot sign with the publisher key: %w", err)
	}
	if !ecdsa.VerifyASN1(p.public, digest[:], signature) {
		return nil, nil, errors.New("the key source returned a signature that does not verify with its own public key")
	}
	return signature, digest[:], nil
}
