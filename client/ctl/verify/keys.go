package verify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

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

// attestationKeys are the registered key and, backwards, those before it: each must have certified the next one, or people
// must have had it forgotten. That the first of them, and each that came after a forgotten one, lived in the TPM is the
// server's word, as it is for a key that was never rotated.
func (v *verification) attestationKeys(record api.DeviceRecord) ([][]byte, error) {
	var keys [][]byte
	if len(record.AKPublic) > 0 {
		keys = append(keys, record.AKPublic)
	}
	for _, s := range slices.Backward(record.Successions) {
		old, err := identity.ParsePublic(s.Before)
		if err != nil {
			return nil, fmt.Errorf("an attestation key of before: %w", err)
		}
		if problems := identity.CheckAK(old); len(problems) > 0 {
			return nil, fmt.Errorf("an attestation key of before: %s", problems[0].Detail)
		}
		if len(s.Forgotten) > 0 {
			err = v.forgotten(record.Device.ID, s)
		} else {
			err = succeeded(old, s, keys)
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, s.Before)
	}
	if len(record.AKPublic) == 0 && (len(record.Successions) == 0 || len(record.Successions[len(record.Successions)-1].Forgotten) == 0) {
		return nil, errors.New("it has no attestation key, and nobody had one forgotten")
	}
	return keys, nil
}

// succeeded checks that a key has certified the one after it, which is the last of keys.
func succeeded(old identity.Public, s api.Succession, keys [][]byte) error {
	if len(keys) == 0 || !bytes.Equal(s.After, keys[len(keys)-1]) {
		return errors.New("a rotation of its attestation key does not lead to the next one")
	}
	next, err := identity.ParsePublic(s.After)
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	signer := identity.QualifiedNameUnderEndorsement(old.Name)
	if problems := identity.VerifySuccessor(old, signer, s.Certify, s.CertifySignature, s.Transcript[:], next); len(problems) > 0 {
		return fmt.Errorf("a rotation of its attestation key is not certified: %s", problems[0].Detail)
	}
	return nil
}

// forgotten takes the word of two people for the end of a key.
func (v *verification) forgotten(device string, s api.Succession) error {
	people := slices.Compact(slices.Sorted(slices.Values(s.Forgotten)))
	switch {
	case len(s.After) > 0 || len(s.Certify) > 0:
		return errors.New("an attestation key of before was both rotated and forgotten")
	case len(people) < 2:
		return errors.New("one person alone had an attestation key forgotten")
	}
	v.believe("device %s: %s had an attestation key forgotten; that the next one lives in the same TPM is the server's word", device, strings.Join(people, " and "))
	return nil
}
