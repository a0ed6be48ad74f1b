package parts

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// SecureBootKeys are a machine owner's own keys: platform key, key exchange key and signature database, one certificate
// each, in a folder.
type SecureBootKeys struct {
	dir string
}

// ownerGUID says whose keys they are; firmware keeps it beside them and measures it.
const ownerGUID = "dddddddd-2222-3333-4444-555555555555"

// NewSecureBootKeys makes keys in dir; a folder that holds keys already keeps them.
func NewSecureBootKeys(ctx context.Context, dir string) (*SecureBootKeys, error) {
	if err := Require(ctx, os.Stderr, "efitools", "sbsigntool"); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot make Secure Boot keys: %w", err)
	}
	k := &SecureBootKeys{dir: dir}
	if _, err := os.Stat(k.auth("db")); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make Secure Boot keys: %w", err)
	}
	for _, name := range []string{"PK", "KEK", "db"} {
		if err := newSigningKey(name, k.key(name), k.certificate(name)); err != nil {
			return nil, err
		}
		if _, err := run(ctx, "cert-to-efi-sig-list", "-g", ownerGUID, k.certificate(name), k.file(name, "esl")); err != nil {
			return nil, err
		}
	}
	for _, update := range [][2]string{{"PK", "PK"}, {"PK", "KEK"}, {"KEK", "db"}} {
		by, name := update[0], update[1]
		if _, err := run(ctx, "sign-efi-sig-list", "-g", ownerGUID, "-k", k.key(by), "-c", k.certificate(by), name, k.file(name, "esl"), k.auth(name)); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *SecureBootKeys) file(name, kind string) string { return filepath.Join(k.dir, name+"."+kind) }

func (k *SecureBootKeys) key(name string) string { return k.file(name, "key") }

func (k *SecureBootKeys) certificate(name string) string { return k.file(name, "crt") }

func (k *SecureBootKeys) auth(name string) string { return k.file(name, "auth") }

// Dir is the folder of the keys.
func (k *SecureBootKeys) Dir() string { return k.dir }

// Sign signs a program with the key of the signature database.
func (k *SecureBootKeys) Sign(ctx context.Context, program, out string) error {
	_, err := run(ctx, "sbsign", "--key", k.key("db"), "--cert", k.certificate("db"), "--output", out, program)
	return err
}

// OnESP returns the files by which systemd-boot enrolls the keys in a machine that is in setup mode.
func (k *SecureBootKeys) OnESP() map[string]string {
	files := map[string]string{}
	for _, name := range []string{"PK", "KEK", "db"} {
		files["loader/keys/auto/"+name+".auth"] = k.auth(name)
	}
	return files
}

// newSigningKey writes an RSA key and its own certificate for ten years.
func newSigningKey(name, keyFile, certificateFile string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("cannot make Secure Boot key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Acme " + name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(10, 0, 0), BasicConstraintsValid: true, IsCA: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("cannot make Secure Boot certificate: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot encode Secure Boot key: %w", err)
	}
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600); err != nil {
		return fmt.Errorf("cannot keep Secure Boot key: %w", err)
	}
	if err := writeFile(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o644); err != nil {
		return fmt.Errorf("cannot keep Secure Boot certificate: %w", err)
	}
	return nil
}
