// Package identity answers who a device is: it checks endorsement certificates, the public areas of attestation and
// TLS keys, the proof that a TLS key lives beside an attestation key, and makes the credentials that tie an
// attestation key to an endorsement key. It is the verifier's side and needs no TPM.
//
// It proves that a TPM is genuine and that keys live in it. It never says whose TPM it is: ownership comes from the
// inventory. It opens no connection and reads no clock; MakeCredential reads the system's randomness.
//
// Trusted: an attacker who controls this package can enroll software keys as TPMs.
package identity

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"

	"github.com/cordon-ota/cordon/attestation/reason"
)

// DeviceID names a device: 26 letters and digits, the unpadded lower-case base32 of the first 16 bytes of the SHA-256
// of the device's identity key as DER SubjectPublicKeyInfo.
type DeviceID string

// ErrDeviceID is returned for text that is not a device id.
var ErrDeviceID = errors.New("device id is not 26 characters of lower-case base32")

// Problem is one failing check. The attestation package and its callers turn it into a finding.
type Problem struct {
	Reason   reason.Reason
	Detail   string // one sentence in plain words
	Expected string
	Seen     string
}

const deviceIDBytes = 16

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeviceIDOf returns the device id for an identity key in DER SubjectPublicKeyInfo form.
func DeviceIDOf(spkiDER []byte) DeviceID {
	sum := sha256.Sum256(spkiDER)
	return DeviceID(base32Lower.EncodeToString(sum[:deviceIDBytes]))
}

// ParseDeviceID checks that s is a device id in its one canonical form; it returns ErrDeviceID otherwise.
func ParseDeviceID(s string) (DeviceID, error) {
	if len(s) != base32Lower.EncodedLen(deviceIDBytes) {
		return "", ErrDeviceID
	}
	b, err := base32Lower.DecodeString(s)
	if err != nil || base32Lower.EncodeToString(b) != s { // the last character carries two unused bits
		return "", ErrDeviceID
	}
	return DeviceID(s), nil
}

// String returns the id as text.
func (d DeviceID) String() string { return string(d) }
