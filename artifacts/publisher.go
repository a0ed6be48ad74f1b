package artifacts

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxIdentity bounds an issuer, a subject, a repository or a ref, in bytes.
const maxIdentity = 2048

// Key returns the public key of a publisher that signs with one. It returns ErrPolicy for a publisher without a key and
// for anything but one PEM block with a PKIX ECDSA P-256 key.
func (p Publisher) Key() (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode([]byte(p.KeyPEM))
	if block == nil || block.Type != "PUBLIC KEY" || len(block.Headers) != 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("%w: publisher %.80q: key_pem is not one PEM block PUBLIC KEY", ErrPolicy, p.Name)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: publisher %.80q: %w", ErrPolicy, p.Name, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: publisher %.80q: key_pem is not an ECDSA P-256 key", ErrPolicy, p.Name)
	}
	return key, nil
}

// KeyHint is how a bundle names the key that signed it: the SHA-256 of the key's PKIX DER, as hex. It only selects a
// key of the policy; it proves nothing.
func KeyHint(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("cannot encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

func validPublishers(publishers []Publisher) error {
	if n := len(publishers); n < 1 || n > MaxPublishers {
		return fmt.Errorf("it has %d publishers, want 1 to %d", n, MaxPublishers)
	}
	var errs []error
	for i, p := range publishers {
		if err := p.validate(); err != nil {
			errs = append(errs, fmt.Errorf("publisher %d %.80q: %w", i, p.Name, err))
			continue
		}
		for _, q := range publishers[:i] {
			if p.Name == q.Name {
				errs = append(errs, fmt.Errorf("publisher %q is there twice", p.Name))
			} else if p.overlaps(q) {
				errs = append(errs, fmt.Errorf("publishers %q and %q can be the same signer, so one could count twice", q.Name, p.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func (p Publisher) validate() error {
	if err := ValidName(p.Name); err != nil {
		return err
	}
	if p.KeyPEM != "" {
		if p.Issuer != "" || p.Subject != "" || p.SourceRepository != "" || len(p.Refs) != 0 {
			return errors.New("key_pem excludes issuer, subject, source_repository and refs")
		}
		_, err := p.Key()
		return err
	}
	if p.Issuer == "" || p.Subject == "" {
		return errors.New("it needs key_pem, or issuer and subject")
	}
	for i, ref := range p.Refs {
		if ref == "" || slices.Contains(p.Refs[:i], ref) {
			return fmt.Errorf("ref %.80q is empty or there twice", ref)
		}
	}
	for _, s := range append([]string{p.Issuer, p.Subject, p.SourceRepository}, p.Refs...) {
		if len(s) > maxIdentity {
			return fmt.Errorf("an identity has %d bytes, at most %d are allowed", len(s), maxIdentity)
		}
	}
	return nil
}

// overlaps reports whether one key or one certificate could stand for both publishers; then a threshold of two would
// be met by one signer.
func (p Publisher) overlaps(q Publisher) bool {
	if p.KeyPEM != "" || q.KeyPEM != "" {
		a, errA := p.Key()
		b, errB := q.Key()
		return errA == nil && errB == nil && a.Equal(b)
	}
	sameIdentity := p.Issuer == q.Issuer && p.Subject == q.Subject
	return sameIdentity && (p.SourceRepository == q.SourceRepository || p.SourceRepository == "" || q.SourceRepository == "")
}
