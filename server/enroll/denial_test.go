package enroll_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// why is what people write about a denial; no device may hear it.
const why = "key material sold at an auction"

func (s server) deny(t *testing.T, n identity.Denial) {
	t.Helper()
	n.Why = why
	n = n.Canonical()
	if err := n.Validate(); err != nil {
		t.Fatal(err)
	}
	s.commit(t, store.PutDenial{Denial: fleet.Denial{ID: "d-1", Denial: n, By: "ann", At: s.Now()}})
}

func (s server) lift(t *testing.T) {
	t.Helper()
	n := must(s.Store.Denial(t.Context(), "d-1"))(t)
	n.LiftedAt = s.Now()
	s.commit(t, store.PutDenial{Denial: n})
}

// denials name the TPM of d in each of the four ways; wide ones name others too.
func denials(t *testing.T, d *soft) map[string]identity.Denial {
	t.Helper()
	leaf := must(identity.ParseEKCertificate(d.ek.Certificate))(t)
	key := sha256.Sum256(d.ek.SPKI)
	issuer := hex.EncodeToString(leaf.AuthorityKeyId)
	issuerKey := sha256.Sum256(manufacturer().Certificate.RawSubjectPublicKeyInfo)
	if issuer == "" {
		issuer = hex.EncodeToString(issuerKey[:])
	}
	ek, err := identity.StoredEK(d.ek.Certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]identity.Denial{
		"key":                  {Key: hex.EncodeToString(key[:])},
		"serial":               {Serial: leaf.SerialNumber.Text(16), Issuer: issuer},
		"issuer":               {Issuer: hex.EncodeToString(issuerKey[:])},
		"manufacturer's range": {Manufacturer: ek.Manufacturer, FirmwareFrom: 5, FirmwareTo: 9},
	}
}

// N48: a TPM on the deny list is refused although it is genuine, and an enrolled one cannot come back with new keys.
func TestDeniedTPMIsRefused(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		probe := newTPM("probe")
		for name := range denials(t, probe) {
			s := newServer(t)
			d, innocent := newTPM("d"), newTPM("innocent")
			d.firmware, innocent.firmware = 7, 10
			innocent.ek = manufacturer().NewEK(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(4711) })
			denial := denials(t, d)[name]
			s.inventory(t, d)
			if known {
				if _, err := s.enroll(t, d); err != nil {
					t.Fatal(err)
				}
				d.tls = evidencetest.NewTLSKey(evidencetest.Seed("after clear " + name)) // as after TPM2_Clear
			}
			s.deny(t, denial)
			refused(t, s, d, name)
			if name != "issuer" {
				if _, err := s.enroll(t, innocent); err != nil {
					t.Errorf("%s: another TPM: %v", name, err)
				}
			}
			s.lift(t)
			if _, err := s.enroll(t, d); err != nil {
				t.Errorf("%s, lifted: %v", name, err)
			}
		}
	}
}

// refused tries both rounds, whichever refuses.
func refused(t *testing.T, s server, d *soft, what string) {
	t.Helper()
	first := d.request()
	offer, err := s.Start(t.Context(), spki(t, d.tls), first)
	if err == nil { // only the quote of round 2 shows the firmware
		_, err = s.Finish(t.Context(), spki(t, d.tls), d.exporter, d.activation(t, first, offer))
	}
	wantProblem(t, what, err, reason.EKRevoked)
	if strings.Contains(err.Error(), why) {
		t.Errorf("%s: the device hears why: %v", what, err)
	}
}

// A device that was denied by its certificate does not come back by leaving the certificate out.
func TestDeniedCertificateCannotBeLeftOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	s.inventory(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	serial := denials(t, d)["serial"]
	d.bare = true
	_, err := s.enroll(t, d)
	wantProblem(t, "without its certificate", err, reason.EKUntrusted)
	s.deny(t, serial)
	refused(t, s, d, "denied, without its certificate")
}
