package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ErrCredential is returned by MakeCredential for inputs that no enrollment has.
var ErrCredential = errors.New("cannot make a credential")

const (
	nameBytes      = 2 + 32
	maxSecretBytes = 32
)

// MakeCredential encrypts secret so that only the TPM that holds both the endorsement key and the key with akName can
// decrypt it with TPM2_ActivateCredential (V-12, V-15). ekSPKI comes from the verified EK certificate, and the
// public area is rebuilt from it with the standard RSA-2048 template (TCG EK Credential Profile, template L-1): a
// device never says which public area its EK has. The results are a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET. It
// returns ErrCredential for an EK that is not RSA-2048, a Name that is not SHA-256, or a secret of unusable length.
func MakeCredential(ekSPKI, akName, secret []byte) (credentialBlob, encryptedSecret []byte, err error) {
	public, err := ekPublic(ekSPKI)
	if err != nil {
		return nil, nil, err
	}
	if len(akName) != nameBytes || binary.BigEndian.Uint16(akName) != algSHA256 {
		return nil, nil, fmt.Errorf("%w: the Name is not a SHA-256 Name", ErrCredential)
	}
	if len(secret) < 16 || len(secret) > maxSecretBytes {
		return nil, nil, fmt.Errorf("%w: the secret has %d bytes, want 16 to %d", ErrCredential, len(secret), maxSecretBytes)
	}
	encapsulation, err := tpm2.ImportEncapsulationKey(&public)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	object, sealed, err := tpm2.CreateCredential(rand.Reader, encapsulation, akName, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	return sized(object), sized(sealed), nil
}

// EKName returns the Name of an endorsement key, made from its DER SubjectPublicKeyInfo and the standard template: no
// public area from outside is part of it (V-12). It returns ErrCredential for a key that is not RSA-2048.
func EKName(ekSPKI []byte) ([]byte, error) {
	public, err := ekPublic(ekSPKI)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	return name.Buffer, nil
}

// ekPublic is the one public area that this package believes an endorsement key to have.
func ekPublic(ekSPKI []byte) (tpm2.TPMTPublic, error) {
	key, err := x509.ParsePKIXPublicKey(ekSPKI)
	if err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: endorsement key: %w", ErrCredential, err)
	}
	ek, ok := key.(*rsa.PublicKey)
	if !ok || ek.N.BitLen() != minRSABits || ek.E != defaultExponent {
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: the endorsement key is not RSA-2048", ErrCredential)
	}
	public := tpm2.RSAEKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: ek.N.FillBytes(make([]byte, minRSABits/8))})
	return public, nil
}

// sized wraps b into a TPM2B.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}
