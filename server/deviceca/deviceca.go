// Package deviceca issues the short-lived certificates with which a proven device shows itself to other relying parties.
//
// A certificate is an X.509-SVID (SPIFFE): URI SAN spiffe://<trust-domain>/device/<id>, client authentication only, for
// the TLS key that the device's AK certified, and never longer than the device's lease. The device API itself does not
// ask for it: there the key alone counts.
//
// Trusted: whoever holds the CA key can pose as any device to other relying parties, not to cordon.
package deviceca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
)

// ErrLifetime is returned for a certificate that would have ended already.
var ErrLifetime = errors.New("certificate would not be valid")

// backdate covers a device clock that is a little behind.
const backdate = time.Minute

// CA is the device CA. It is safe for concurrent use if its key is.
type CA struct {
	cert        *x509.Certificate
	key         crypto.Signer
	trustDomain string
}

// New joins the CA's certificate and key; they must belong together.
func New(cert *x509.Certificate, key crypto.Signer, trustDomain string) (*CA, error) {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("device CA certificate and key do not belong together")
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, errors.New("device CA certificate is not one of a CA")
	}
	if trustDomain == "" {
		return nil, errors.New("the trust domain is empty")
	}
	return &CA{cert: cert, key: key, trustDomain: trustDomain}, nil
}

// Certificate returns the CA's certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Issue makes a certificate for the TPM key (TPMT_PUBLIC) until notAfter, or until the CA ends if that is earlier. It
// returns the DER chain, leaf first, and the serial in hex; ErrLifetime when there is no time left.
func (ca *CA) Issue(device string, tlsPublic []byte, now, notAfter time.Time) (chain [][]byte, serial string, err error) {
	if ca.cert.NotAfter.Before(notAfter) {
		notAfter = ca.cert.NotAfter
	}
	if !notAfter.After(now) {
		return nil, "", ErrLifetime
	}
	key, err := identity.ParsePublic(tlsPublic)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the device's TLS key: %w", err)
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, "", fmt.Errorf("cannot draw a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: device},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: ca.trustDomain, Path: "/device/" + device}},
		NotBefore:    now.Add(-backdate).UTC(),
		NotAfter:     notAfter.UTC(),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Key, ca.key)
	if err != nil {
		return nil, "", fmt.Errorf("cannot sign the certificate: %w", err)
	}
	return [][]byte{der, ca.cert.Raw}, number.Text(16), nil
}
