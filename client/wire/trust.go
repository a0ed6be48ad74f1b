package wire

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"github.com/go-json-experiment/json"
)

// TrustVersion is the version of the trust bundle that this build writes.
const TrustVersion = 1

// MaxTrustBytes bounds a trust bundle.
const MaxTrustBytes = 2 << 20

// ErrTrust is returned for a trust bundle that cannot be used.
var ErrTrust = errors.New("trust bundle is not valid")

// Trust is the trust bundle: what a device (in its measured image) or an auditor has to have from elsewhere. Everything
// else is verified from here. `cordonctl provision` writes it.
type Trust struct {
	Version      int    `json:"version"`
	Server       string `json:"server"`        // https URL of the device listener
	TrustDomain  string `json:"trust_domain"`  // SPIFFE trust domain
	ServerCA     string `json:"server_ca"`     // PEM
	ImageRoot    []byte `json:"image_root"`    // root.json of the Image repository, as signed
	DirectorRoot []byte `json:"director_root"` // root.json of the Director repository, as signed
}

// DecodeTrust reads a trust bundle strictly; every error wraps ErrTrust.
func DecodeTrust(b []byte) (Trust, error) {
	if len(b) > MaxTrustBytes {
		return Trust{}, fmt.Errorf("%w: larger than %d bytes", ErrTrust, MaxTrustBytes)
	}
	var t Trust
	if err := json.Unmarshal(b, &t, json.RejectUnknownMembers(true)); err != nil {
		return Trust{}, fmt.Errorf("%w: %v", ErrTrust, err)
	}
	if t.Version != TrustVersion {
		return Trust{}, fmt.Errorf("%w: version %d, this build reads %d", ErrTrust, t.Version, TrustVersion)
	}
	u, err := url.Parse(t.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return Trust{}, fmt.Errorf("%w: server %q is not an https URL", ErrTrust, t.Server)
	}
	if _, err := t.Pool(); err != nil {
		return Trust{}, err
	}
	if t.TrustDomain == "" || len(t.ImageRoot) == 0 || len(t.DirectorRoot) == 0 {
		return Trust{}, fmt.Errorf("%w: trust_domain, image_root and director_root must be set", ErrTrust)
	}
	return t, nil
}

// Pool returns the server CA certificates.
func (t Trust) Pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	rest := []byte(t.ServerCA)
	n := 0
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: server_ca: %v", ErrTrust, err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: server_ca holds no certificate", ErrTrust)
	}
	return pool, nil
}
