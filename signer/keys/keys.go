// Package keys keeps and uses the keys of people and publishers: Ed25519 for the holders of the offline roles, ECDSA
// P-256 for publishers, PKCS#8 in PEM files. It never overwrites a private key, never writes one where others can read
// it, and refuses a file that others can read. The files are not encrypted: the standard library has no encrypted
// PKCS#8, so keep them on an encrypted or removable volume.
//
// Trusted: whoever reads a holder's key is that holder; whoever reads a publisher's key publishes as that publisher.
package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Type is what a key is for; each has one algorithm.
type Type string

// The types of keys.
const (
	Holder    Type = "holder"    // Ed25519; signs root and targets payloads
	Publisher Type = "publisher" // ECDSA P-256; signs release statements
)

// Errors that a caller tests for.
var (
	ErrType       = errors.New("wrong type of key")
	ErrNotKey     = errors.New("not a key file")
	ErrPermission = errors.New("key file can be read by others")
	ErrExists     = errors.New("file exists and keys are never overwritten")
)

const maxKeyBytes = 16 << 10

const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// Fingerprint is the SHA-256 of the key's DER SPKI: the name by which people compare keys.
func Fingerprint(pub crypto.PublicKey) (digest.SHA256, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("%w: %w", ErrNotKey, err)
	}
	return digest.Of(der), nil
}

// TypeOf returns the type that a public key can have; ErrType for an algorithm that cordon does not use.
func TypeOf(pub crypto.PublicKey) (Type, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return Holder, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return Publisher, nil
		}
	}
	return "", fmt.Errorf("%w: %T is neither Ed25519 (holder) nor ECDSA P-256 (publisher)", ErrType, pub)
}

// PublicPath is where New writes the public half: alice.pem gives alice.pub.pem.
func PublicPath(path string) string {
	return strings.TrimSuffix(path, ".pem") + ".pub.pem"
}

// New makes a key and writes both halves; it returns the public one. ErrExists: one of the files is there already.
func New(t Type, path string) (crypto.PublicKey, error) {
	private, err := generate(t)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("cannot encode key: %w", err)
	}
	text, err := EncodePublic(private.Public())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(PublicPath(path)); err == nil {
		return nil, fmt.Errorf("%w: %q", ErrExists, PublicPath(path))
	}
	if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(PublicPath(path), text, 0o644); err != nil {
		return nil, err
	}
	return private.Public(), nil
}

func generate(t Type) (crypto.Signer, error) {
	switch t {
	case Holder:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case Publisher:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return nil, fmt.Errorf("%w: %q, want holder or publisher", ErrType, t)
}

// writeNew writes a file that must not be there, durably.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %q", ErrExists, path)
	}
	if err != nil {
		return fmt.Errorf("cannot write key: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write key: %w", err), os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot make directory durable: %w", err)
	}
	return nil
}

// Load reads a private key of type t. ErrPermission, ErrNotKey and ErrType say what is wrong with the file.
func Load(path string, t Type) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read key %q: %w: it is no regular file", path, ErrNotKey)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot read key %q: %w: mode %#o", path, ErrPermission, info.Mode().Perm())
	}
	b, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read key %q: %w", path, err)
	}
	key, err := ParsePrivate(b)
	if err == nil {
		err = wantType(key.Public(), t)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read key %q: %w", path, err)
	}
	return key, nil
}

// LoadPublic reads a public key of type t; a private key file gives its public half.
func LoadPublic(path string, t Type) (crypto.PublicKey, error) {
	pub, err := loadAnyPublic(path)
	if err == nil {
		err = wantType(pub, t)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read key %q: %w", path, err)
	}
	return pub, nil
}

// Show reads the public half of a key file of either type.
func Show(path string) (crypto.PublicKey, Type, error) {
	pub, err := loadAnyPublic(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read key %q: %w", path, err)
	}
	t, err := TypeOf(pub)
	return pub, t, err
}

func loadAnyPublic(path string) (crypto.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readBounded(f)
	if err != nil {
		return nil, err
	}
	if private, err := ParsePrivate(b); err == nil {
		return private.Public(), nil
	}
	return ParsePublic(b)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrNotKey, maxKeyBytes)
	}
	return b, nil
}

func wantType(pub crypto.PublicKey, want Type) error {
	got, err := TypeOf(pub)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: it is a %s key, a %s key is needed here", ErrType, got, want)
	}
	return nil
}

// ParsePrivate reads one PKCS#8 key in PEM; it returns ErrNotKey or ErrType for anything else.
func ParsePrivate(b []byte) (crypto.Signer, error) {
	der, err := oneBlock(b, privateBlock)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotKey, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %T cannot sign", ErrType, parsed)
	}
	if _, err := TypeOf(key.Public()); err != nil {
		return nil, err
	}
	return key, nil
}

// ParsePublic reads one PKIX public key in PEM; it returns ErrNotKey or ErrType for anything else.
func ParsePublic(b []byte) (crypto.PublicKey, error) {
	der, err := oneBlock(b, publicBlock)
	if err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotKey, err)
	}
	if _, err := TypeOf(pub); err != nil {
		return nil, err
	}
	return pub, nil
}

// EncodePublic writes a public key as ParsePublic reads it.
func EncodePublic(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("cannot encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), nil
}

func oneBlock(b []byte, kind string) ([]byte, error) {
	if len(b) > maxKeyBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrNotKey, maxKeyBytes)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%w: no PEM block", ErrNotKey)
	}
	if block.Type != kind {
		return nil, fmt.Errorf("%w: its PEM block is %q, want %q", ErrNotKey, block.Type, kind)
	}
	if len(block.Headers) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: more than one PEM block without headers", ErrNotKey)
	}
	return block.Bytes, nil
}
