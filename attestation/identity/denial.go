package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrDenial is returned for a Denial that does not name TPMs in exactly one way, or not in its one form.
var ErrDenial = errors.New("not a denial of endorsement keys")

// Limits of a Denial.
const (
	maxWhyBytes    = 512
	maxSerialBytes = 20 // RFC 5280, 4.1.2.2
	maxKeyIDBytes  = 64
)

// Denial names TPMs that must not be believed although their endorsement keys are genuine (V-13): one key that leaked,
// certificates that their issuer withdrew, an issuer that lost its own key, or firmware with a hole. It names them in
// exactly one of four ways:
//
//   - Key: one endorsement key, with or without a certificate;
//   - Serial and Issuer: one certificate;
//   - Issuer alone: every certificate with this issuer anywhere above it;
//   - Manufacturer with FirmwareFrom and FirmwareTo: TPMs of a manufacturer whose quotes name firmware in that range.
//
// All text is lower-case hex without separators; Canonical makes that form of what people copy from other tools.
type Denial struct {
	// Key is the SHA-256 of the endorsement key's DER SubjectPublicKeyInfo.
	Key string `json:"key,omitzero"`
	// Serial is the certificate's serial number, without leading zero bytes.
	Serial string `json:"serial,omitzero"`
	// Issuer is a key identifier of the issuer: the subject key identifier of its certificate (which the certificates
	// that it issues repeat as authority key identifier), or the SHA-1 of its public key bits, or the SHA-256 of its
	// DER SubjectPublicKeyInfo.
	Issuer string `json:"issuer,omitzero"`
	// Manufacturer is as certificates write it, with capital digits: "id:49465800".
	Manufacturer string `json:"manufacturer,omitzero"`
	// FirmwareFrom and FirmwareTo are the first and the last denied firmware version as quotes carry it.
	FirmwareFrom uint64 `json:"firmware_from,string,omitzero"`
	FirmwareTo   uint64 `json:"firmware_to,string,omitzero"`
	// Why is for operators; a device never hears it.
	Why string `json:"why"`
}

// Canonical returns d with its hex in the one form that Validate accepts: capitals, colons, spaces and the leading
// zeros of a serial number are what tools differ in.
func (d Denial) Canonical() Denial {
	plain := strings.NewReplacer(":", "", " ", "", "-", "")
	d.Key, d.Issuer = strings.ToLower(plain.Replace(d.Key)), strings.ToLower(plain.Replace(d.Issuer))
	d.Serial = strings.ToLower(plain.Replace(d.Serial))
	if serial, ok := new(big.Int).SetString(d.Serial, 16); ok && serial.Sign() > 0 {
		d.Serial = hex.EncodeToString(serial.Bytes())
	}
	d.Manufacturer = canonicalManufacturer(strings.TrimSpace(d.Manufacturer))
	return d
}

// Validate returns ErrDenial unless d names TPMs in exactly one way, in its one form, and says why.
func (d Denial) Validate() error {
	if d.Why == "" || len(d.Why) > maxWhyBytes || !utf8.ValidString(d.Why) || strings.ContainsFunc(d.Why, unicode.IsControl) {
		return fmt.Errorf("%w: why must be 1 to %d bytes of plain text", ErrDenial, maxWhyBytes)
	}
	firmware := d.FirmwareFrom != 0 || d.FirmwareTo != 0
	switch {
	case d.Key != "" && d.Serial == "" && d.Issuer == "" && d.Manufacturer == "" && !firmware:
		return hexField("key", d.Key, sha256.Size, sha256.Size)
	case d.Issuer != "" && d.Key == "" && d.Manufacturer == "" && !firmware:
		if d.Serial != "" {
			if err := hexField("serial", d.Serial, 1, maxSerialBytes); err != nil {
				return err
			}
			if strings.HasPrefix(d.Serial, "00") {
				return fmt.Errorf("%w: serial has leading zeros", ErrDenial)
			}
		}
		return hexField("issuer", d.Issuer, 1, maxKeyIDBytes)
	case d.Manufacturer != "" && d.Key == "" && d.Issuer == "" && d.Serial == "":
		if !vendorID(d.Manufacturer) || canonicalManufacturer(d.Manufacturer) != d.Manufacturer {
			return fmt.Errorf("%w: manufacturer %q is not id: and eight capital hex digits", ErrDenial, d.Manufacturer)
		}
		if d.FirmwareTo == 0 || d.FirmwareFrom > d.FirmwareTo {
			return fmt.Errorf("%w: the firmware range %#x to %#x is empty", ErrDenial, d.FirmwareFrom, d.FirmwareTo)
		}
		return nil
	}
	return fmt.Errorf("%w: name a key, an issuer, a serial with its issuer, or a manufacturer with a firmware range", ErrDenial)
}

func hexField(name, s string, least, most int) error {
	b, err := hex.DecodeString(s)
	if err == nil && len(b) >= least && len(b) <= most && hex.EncodeToString(b) == s {
		return nil
	}
	if least == most {
		return fmt.Errorf("%w: %s is not %d bytes of lower-case hex", ErrDenial, name, most)
	}
	return fmt.Errorf("%w: %s is not %d to %d bytes of lower-case hex", ErrDenial, name, least, most)
}

// Denied returns the first denial of list that names ek. firmware is the version that the TPM's quotes carry; 0 means
// that none is known yet, and never lies in a range. It decides from ek's SPKI, Certificate, Issuers and Manufacturer;
// what is missing there cannot match, so ek should come from VerifyEK, EKPolicy.Verify or StoredEK. It does not ask
// Validate again: a list is validated where it is made, and a denial in a form of another time still denies.
func Denied(ek EK, firmware uint64, list []Denial) (Denial, bool) {
	for _, d := range list {
		if d.names(ek, firmware) {
			return d, true
		}
	}
	return Denial{}, false
}

func (d Denial) names(ek EK, firmware uint64) bool {
	switch {
	case d.Key != "":
		sum := sha256.Sum256(ek.SPKI)
		return len(ek.SPKI) > 0 && d.Key == hex.EncodeToString(sum[:])
	case d.Serial != "":
		return ek.Certificate != nil && ek.Certificate.SerialNumber != nil &&
			d.Serial == hex.EncodeToString(ek.Certificate.SerialNumber.Bytes()) && ek.issuedBelow(d.Issuer)
	case d.Issuer != "":
		return ek.issuedBelow(d.Issuer)
	}
	return firmware != 0 && d.FirmwareFrom <= firmware && firmware <= d.FirmwareTo && sameManufacturer(ek.Manufacturer, d.Manufacturer)
}

// issuedBelow reports whether an issuer with this key identifier stands above ek. The leaf's own authority key
// identifier counts too, but not alone: whoever holds an issuer's key can write any identifier into what he issues.
func (ek EK) issuedBelow(keyID string) bool {
	id, err := hex.DecodeString(keyID)
	if err != nil {
		return false
	}
	if ek.Certificate != nil && len(ek.Certificate.AuthorityKeyId) > 0 && bytes.Equal(ek.Certificate.AuthorityKeyId, id) {
		return true
	}
	for _, issuer := range ek.Issuers {
		if issuer == keyID {
			return true
		}
	}
	return false
}
