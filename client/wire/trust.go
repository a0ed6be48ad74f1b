package wire

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

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

	// Downloads are other servers that the door may send a device to for firmware bytes. Optional: without them the door
	// itself sends all bytes. A client from before this member refuses a bundle that has it.
	Downloads []Download `json:"downloads,omitempty"`
}

// Download is a server of firmware bytes. It is believed nothing: the bytes have the signed digest or are thrown away.
type Download struct {
	Host string `json:"host"`         // host:port; TLS only
	CA   string `json:"ca,omitempty"` // PEM; empty: what the device's system trusts
}

// MaxDownloads bounds the list of a trust bundle.
const MaxDownloads = 8

// Pool returns the CA certificates, nil for the system's.
func (d Download) Pool() (*x509.CertPool, error) {
	if d.CA == "" {
		return nil, nil
	}
	return poolOf("ca of "+d.Host, d.CA)
}

func (d Download) validate() error {
	host, port, err := net.SplitHostPort(d.Host)
	if err != nil || host == "" || port == "" || strings.ContainsAny(d.Host, "/@?# ") {
		return fmt.Errorf("%w: download host %.200q is not host:port", ErrTrust, d.Host)
	}
	_, err = d.Pool()
	return err
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
	if len(t.Downloads) > MaxDownloads {
		return Trust{}, fmt.Errorf("%w: %d downloads, at most %d are allowed", ErrTrust, len(t.Downloads), MaxDownloads)
	}
	for _, d := range t.Downloads {
		if err := d.validate(); err != nil {
			return Trust{}, err
		}
	}
	if t.TrustDomain == "" || len(t.ImageRoot) == 0 || len(t.DirectorRoot) == 0 {
		return Trust{}, fmt.Errorf("%w: trust_domain, image_root and director_root must be set", ErrTrust)
	}
	return t, nil
}

// Pool returns the server CA certificates.
func (t Trust) Pool() (*x509.CertPool, error) { return poolOf("server_ca", t.ServerCA) }

func poolOf(name, text string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	rest := []byte(text)
	n := 0
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrTrust, name, err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: %s holds no certificate", ErrTrust, name)
	}
	return pool, nil
}
