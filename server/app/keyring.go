package app

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// keyring holds the server's own secrets: files of mode 0600 under <data_dir>/keys, made at the first start and only
// read after that. Each is made whole or not at all.
type keyring struct {
	snapshot, timestamp, product, director ed25519.PrivateKey
	log                                    ed25519.PrivateKey // signs checkpoints of the audit log
	serverCA, deviceCA                     authority
	report                                 authority // leaf that signs reports
	challenge, enrollment, activation      []byte
	webhook                                ed25519.PrivateKey // signs what is posted to network enforcement points
	tls                                    tls.Certificate
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const (
	caYears    = 20
	leafYears  = 2
	secretSize = 32
)

// openKeyring reads the keys under dir and makes those that are missing.
func openKeyring(dir string, names []string, trustDomain string, now time.Time) (*keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the key directory: %w", err)
	}
	k := &keyring{}
	for name, into := range map[string]*ed25519.PrivateKey{
		"tuf-snapshot": &k.snapshot, "tuf-timestamp": &k.timestamp, "tuf-product": &k.product, "tuf-director": &k.director,
		"segment-webhook": &k.webhook,
		"log":             &k.log,
	} {
		key, err := loadOrMake(filepath.Join(dir, name+".pem"), newEd25519)
		if err != nil {
			return nil, err
		}
		typed, ok := key.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("key %s is not Ed25519", name)
		}
		*into = typed
	}
	for name, into := range map[string]*[]byte{"challenge": &k.challenge, "enrollment": &k.enrollment, "activation": &k.activation} {
		secret, err := loadOrMakeSecret(filepath.Join(dir, name+".secret"))
		if err != nil {
			return nil, err
		}
		*into = secret
	}
	return k, k.openAuthorities(dir, names, trustDomain, now)
}

func (k *keyring) openAuthorities(dir string, names []string, trustDomain string, now time.Time) error {
	var err error
	if k.serverCA, err = openCA(dir, "server-ca", "cordon server CA", trustDomain, now); err != nil {
		return err
	}
	if k.deviceCA, err = openCA(dir, "device-ca", "cordon device CA", trustDomain, now); err != nil {
		return err
	}
	if k.report, err = k.openReport(dir, trustDomain, now); err != nil {
		return err
	}
	leaf, err := k.openLeaf(dir, names, now)
	if err != nil {
		return err
	}
	k.tls = tls.Certificate{Certificate: [][]byte{leaf.cert.Raw, k.serverCA.cert.Raw}, PrivateKey: leaf.key, Leaf: leaf.cert}
	return nil
}

func newEd25519() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

func newP256() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func loadOrMake(path string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	b, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := makeKey(path, make)
		if !errors.Is(err, fs.ErrExist) {
			return key, err
		}
		b, err = readSecret(path) // another process made it just now
		if err != nil {
			return nil, err
		}
		return parseKey(path, b)
	}
	if err != nil {
		return nil, err
	}
	return parseKey(path, b)
}

// makeKey writes a new key; fs.ErrExist when somebody else was first.
func makeKey(path string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	key, err := make()
	if err != nil {
		return nil, fmt.Errorf("cannot make key %s: %w", filepath.Base(path), err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode key %s: %w", filepath.Base(path), err)
	}
	return key, writeNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func parseKey(path string, b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("key %s is not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s cannot sign", path)
	}
	return signer, nil
}

// readSecret refuses a file that others may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s can be read by others (mode %o): run 'chmod 600' on it", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

func loadOrMakeSecret(path string) ([]byte, error) {
	b, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, secretSize)
		_, _ = rand.Read(b)
		err = writeNew(path, b)
		if !errors.Is(err, fs.ErrExist) {
			return b, err
		}
		b, err = readSecret(path)
	}
	if err == nil && len(b) != secretSize {
		return nil, fmt.Errorf("secret %s does not have %d bytes", path, secretSize)
	}
	return b, err
}

// openCA opens a self-signed CA.
func openCA(dir, name, cn, trustDomain string, now time.Time) (authority, error) {
	return openCertificate(dir, name, func(key *ecdsa.PrivateKey) (*x509.Certificate, *x509.Certificate, *ecdsa.PrivateKey) {
		template := &x509.Certificate{
			Subject: pkix.Name{CommonName: cn, Organization: []string{trustDomain}}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(caYears, 0, 0),
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return template, template, key
	}, func(*x509.Certificate) bool { return true })
}

// openReport opens the leaf that signs reports: its URI SAN is its purpose.
func (k *keyring) openReport(dir, trustDomain string, now time.Time) (authority, error) {
	purpose := &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/report"}
	return openCertificate(dir, "report", func(*ecdsa.PrivateKey) (*x509.Certificate, *x509.Certificate, *ecdsa.PrivateKey) {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: "cordon report"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(leafYears, 0, 0),
			URIs: []*url.URL{purpose}, KeyUsage: x509.KeyUsageDigitalSignature,
		}, k.serverCA.cert, k.serverCA.key
	}, func(c *x509.Certificate) bool {
		return now.Before(c.NotAfter.AddDate(0, -1, 0)) && len(c.URIs) == 1 && c.URIs[0].String() == purpose.String()
	})
}

// openLeaf opens the TLS leaf and makes a new one when the names changed or it is about to end.
func (k *keyring) openLeaf(dir string, names []string, now time.Time) (authority, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(leafYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return openCertificate(dir, "server", func(*ecdsa.PrivateKey) (*x509.Certificate, *x509.Certificate, *ecdsa.PrivateKey) {
		return template, k.serverCA.cert, k.serverCA.key
	}, func(c *x509.Certificate) bool {
		return now.Before(c.NotAfter.AddDate(0, -1, 0)) && slices.Equal(c.DNSNames, template.DNSNames) &&
			slices.EqualFunc(c.IPAddresses, template.IPAddresses, net.IP.Equal)
	})
}

// openCertificate reads <name>.pem (key) and <name>.crt; it makes the key if it is missing and the certificate if it is
// missing or good says no.
func openCertificate(dir, name string, issue func(*ecdsa.PrivateKey) (template, parent *x509.Certificate, signer *ecdsa.PrivateKey), good func(*x509.Certificate) bool) (authority, error) {
	signer, err := loadOrMake(filepath.Join(dir, name+".pem"), newP256)
	if err != nil {
		return authority{}, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return authority{}, fmt.Errorf("key %s is not ECDSA", name)
	}
	path := filepath.Join(dir, name+".crt")
	place := writeFile
	switch cert, err := readCertificate(path); {
	case errors.Is(err, fs.ErrNotExist):
		place = writeNew
	case err != nil:
		return authority{}, err
	default:
		if public, ok := cert.PublicKey.(*ecdsa.PublicKey); ok && public.Equal(key.Public()) && good(cert) {
			return authority{cert, key}, nil
		}
	}
	template, parent, parentKey := issue(key)
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return authority{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return authority{}, fmt.Errorf("cannot make certificate %s: %w", name, err)
	}
	err = place(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return authority{}, err
	}
	cert, err := readCertificate(path) // perhaps that of another process, which made it just now
	return authority{cert, key}, err
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s is not a PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", path, err)
	}
	return cert, nil
}

// writeFile writes a secret file whole and durable: temp file, fsync, rename, fsync of the directory.
func writeFile(path string, data []byte) error { return placeFile(path, data, os.Rename) }

// writeNew is writeFile for a file that must not exist yet; else the error is fs.ErrExist and the file stays. Two
// processes that start on one directory so end with the same keys.
func writeNew(path string, data []byte) error { return placeFile(path, data, os.Link) }

func placeFile(path string, data []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		crash.Here(crash.KeyWritten)
		err = place(f.Name(), path)
	}
	crash.Here(crash.KeyPlaced)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	defer d.Close()
	return d.Sync()
}

// onlineKeys lists the public halves for the ceremony.
func (k *keyring) onlineKeys() ([]api.OnlineKey, error) {
	var out []api.OnlineKey
	for _, use := range []struct {
		name string
		key  ed25519.PrivateKey
	}{{api.KeySnapshot, k.snapshot}, {api.KeyTimestamp, k.timestamp}, {api.KeyProduct, k.product}, {api.KeyDirector, k.director}} {
		der, err := x509.MarshalPKIXPublicKey(use.key.Public())
		if err != nil {
			return nil, fmt.Errorf("cannot encode the %s key: %w", use.name, err)
		}
		out = append(out, api.OnlineKey{
			Use: use.name, PublicPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), Fingerprint: digest.Of(der),
		})
	}
	return out, nil
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}
