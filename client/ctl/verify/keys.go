package verify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
)

// endorsementKey reads the EK of the device's certificate, or the key alone: then nobody but the server and its people
// says that it is that of a TPM, and the record may not claim a higher tier.
func (v *verification) endorsementKey(record api.DeviceRecord) ([]byte, error) {
	if len(record.EKCertificate) == 0 && len(record.EKPublic) > 0 {
		if record.Device.Tier > tierBare {
			return nil, fmt.Errorf("it has no endorsement certificate and is of tier %d, at most %d", record.Device.Tier, tierBare)
		}
		ek, problems := identity.EKWithoutCertificate(record.EKPublic)
		if len(problems) > 0 {
			return nil, errors.New(problems[0].Detail)
		}
		v.believe("devices without an endorsement certificate: that a TPM holds their keys is the word of the people who admitted them")
		return ek.SPKI, nil
	}
	cert, err := identity.ParseEKCertificate(record.EKCertificate)
	if err != nil {
		return nil, fmt.Errorf("endorsement %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	return spki, nil
}

// tierBare is the highest tier of a device without an endorsement certificate.
const tierBare = 2

// attestationKeys are the registered key and, backwards, those that vouched for it: each must have certified the next one.
// That the first of them lived in a TPM is the server's word, as it is for a key that was never rotated.
func attestationKeys(record api.DeviceRecord) ([][]byte, error) {
	keys := [][]byte{record.AKPublic}
	for _, s := range slices.Backward(record.Successions) {
		if !bytes.Equal(s.After, keys[len(keys)-1]) {
			return nil, errors.New("a rotation of its attestation key does not lead to the next one")
		}
		next, err := identity.ParsePublic(s.After)
		if err != nil {
			return nil, fmt.Errorf("attestation key: %w", err)
		}
		old, err := identity.ParsePublic(s.Before)
		if err != nil {
			return nil, fmt.Errorf("attestation key before a rotation: %w", err)
		}
		if problems := identity.CheckAK(old); len(problems) > 0 {
			return nil, fmt.Errorf("attestation key before a rotation: %s", problems[0].Detail)
		}
		signer := identity.QualifiedNameUnderEndorsement(old.Name)
		if problems := identity.VerifySuccessor(old, signer, s.Certify, s.CertifySignature, s.Transcript[:], next); len(problems) > 0 {
			return nil, fmt.Errorf("a rotation of its attestation key is not certified: %s", problems[0].Detail)
		}
		keys = append(keys, s.Before)
	}
	return keys, nil
}
