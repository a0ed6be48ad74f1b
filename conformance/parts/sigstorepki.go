package parts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// sigstorePKI is what the trusted root of a Sigstore names, with the keys that the parts need themselves.
type sigstorePKI struct {
	caRoot, caCert           *x509.Certificate
	caKey                    *ecdsa.PrivateKey
	tsaLeaf, tsaInter, tsaCA *x509.Certificate
	ctKey                    *ecdsa.PrivateKey
	rekorKey                 ed25519.PrivateKey
	since                    time.Time
}

// pkiLife is how long the certificates of a test Sigstore live on either side of now.
const pkiLife = 30 * 24 * time.Hour

// makeSigstorePKI makes the keys and certificates of a Sigstore and writes the files that its servers read.
func makeSigstorePKI(dir string) (*sigstorePKI, error) {
	p := &sigstorePKI{since: time.Now().Add(-pkiLife).Truncate(time.Second)}
	caRootKey, err := p.certificate(&p.caRoot, "ca root", &x509.Certificate{IsCA: true}, nil, nil)
	if err != nil {
		return nil, err
	}
	if p.caKey, err = p.certificate(&p.caCert, "ca", &x509.Certificate{IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}, p.caRoot, caRootKey); err != nil {
		return nil, err
	}
	tsaRootKey, err := p.certificate(&p.tsaCA, "tsa root", &x509.Certificate{IsCA: true}, nil, nil)
	if err != nil {
		return nil, err
	}
	tsaInterKey, err := p.certificate(&p.tsaInter, "tsa ca", &x509.Certificate{IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}}, p.tsaCA, tsaRootKey)
	if err != nil {
		return nil, err
	}
	// RFC 3161 section 2.3: the extended key usage is critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key usage: %w", err)
	}
	tsaKey, err := p.certificate(&p.tsaLeaf, "tsa", &x509.Certificate{
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, p.tsaInter, tsaInterKey)
	if err != nil {
		return nil, err
	}
	if p.ctKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	if _, p.rekorKey, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	ctPublic, err := x509.MarshalPKIXPublicKey(p.ctKey.Public())
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return p, errors.Join(
		writePEM(dir, "fulcio-chain.pem", "CERTIFICATE", p.caCert.Raw, p.caRoot.Raw),
		writePEM(dir, "tsa-chain.pem", "CERTIFICATE", p.tsaLeaf.Raw, p.tsaInter.Raw, p.tsaCA.Raw),
		writePEM(dir, "ct-pub.pem", "PUBLIC KEY", ctPublic),
		writeKey(dir, "fulcio-key.pem", p.caKey), writeKey(dir, "tsa-key.pem", tsaKey), writeKey(dir, "rekor-key.pem", p.rekorKey),
	)
}

// certificate completes a template, signs it and returns its new key. Without an issuer it is self-signed.
func (p *sigstorePKI) certificate(into **x509.Certificate, name string, template, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	template.SerialNumber = new(big.Int).SetBytes([]byte(rand.Text())[:16])
	template.Subject = pkix.Name{CommonName: "cordon test " + name, Organization: []string{"cordon.example"}}
	template.NotBefore, template.NotAfter = p.since, p.since.Add(2*pkiLife)
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if template.IsCA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	*into, err = x509.ParseCertificate(der)
	return key, err
}

func writePEM(dir, name, kind string, ders ...[]byte) error {
	var b bytes.Buffer
	for _, der := range ders {
		if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
			return fmt.Errorf("cannot encode %s: %w", name, err)
		}
	}
	return writeFile(filepath.Join(dir, name), b.Bytes(), 0o600)
}

func writeKey(dir, name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", name, err)
	}
	return writePEM(dir, name, "PRIVATE KEY", der)
}

// rekorID is the log's id as C2SP signed-note defines it for Ed25519, in full length.
func (p *sigstorePKI) rekorID() []byte {
	public := p.rekorKey.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(append([]byte(rekorOrigin+"\n\x01"), public...))
	return sum[:]
}

// writeTrust writes the two documents that name a Sigstore: one for signers, one for verifiers.
func (s *Sigstore) writeTrust() error {
	p := s.pki
	ctDER, err := x509.MarshalPKIXPublicKey(p.ctKey.Public())
	if err != nil {
		return fmt.Errorf("cannot encode a key: %w", err)
	}
	ctID, rekorID := sha256.Sum256(ctDER), p.rekorID()
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: p.caRoot, Intermediates: []*x509.Certificate{p.caCert}, ValidityPeriodStart: p.since, URI: s.FulcioURL()}},
		map[string]*root.TransparencyLog{hex.EncodeToString(ctID[:]): {
			BaseURL: s.ctLog.url() + ctPrefix, ID: ctID[:], ValidityPeriodStart: p.since, HashFunc: crypto.SHA256, PublicKey: p.ctKey.Public(), SignatureHashFunc: crypto.SHA256,
		}},
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Leaf: p.tsaLeaf, Intermediates: []*x509.Certificate{p.tsaInter}, Root: p.tsaCA, ValidityPeriodStart: p.since, URI: s.TimestampURL(),
		}},
		// Verifiers hold the host of the base URL against the checkpoint's origin; nobody connects to it.
		map[string]*root.TransparencyLog{hex.EncodeToString(rekorID): {
			BaseURL: "https://" + rekorOrigin, ID: rekorID, ValidityPeriodStart: p.since, HashFunc: crypto.SHA256, PublicKey: p.rekorKey.Public(), SignatureHashFunc: crypto.Hash(0),
		}})
	if err != nil {
		return fmt.Errorf("cannot make the trusted root: %w", err)
	}
	b, err := trusted.MarshalJSON()
	if err != nil {
		return fmt.Errorf("cannot encode the trusted root: %w", err)
	}
	if err := writeFile(s.TrustedRoot(), b, 0o644); err != nil {
		return fmt.Errorf("cannot write the trusted root: %w", err)
	}
	return s.writeSigningConfig(s.SigningConfig(), SigningChange{})
}

// SigningChange says in what a signing config differs from the Sigstore's own.
type SigningChange struct {
	CA               string // Optional: URL of another certificate authority
	WithoutLog       bool   // no transparency log
	WithoutTimestamp bool   // no timestamp authority
}

// SigningConfigWith writes a signing config that differs from the Sigstore's own to path: for signers that leave
// something out, or that ask somebody else.
func (s *Sigstore) SigningConfigWith(path string, change SigningChange) error {
	return s.writeSigningConfig(path, change)
}

func (s *Sigstore) writeSigningConfig(path string, change SigningChange) error {
	service := func(url string, version uint32) []root.Service {
		return []root.Service{{URL: url, MajorAPIVersion: version, ValidityPeriodStart: s.pki.since, Operator: "cordon.example"}}
	}
	all := root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	ca, logs, authorities := service(s.FulcioURL(), 1), service(s.RekorURL(), 2), service(s.TimestampURL(), 1)
	if change.CA != "" {
		ca = service(change.CA, 1)
	}
	if change.WithoutLog {
		logs = nil
	}
	if change.WithoutTimestamp {
		authorities = nil
	}
	config, err := root.NewSigningConfig(root.SigningConfigMediaType02, ca, service(s.OIDC.GitHub.URL(), 1), logs, all, authorities, all)
	if err != nil {
		return fmt.Errorf("cannot make the signing config: %w", err)
	}
	b, err := config.MarshalJSON()
	if err != nil {
		return fmt.Errorf("cannot encode the signing config: %w", err)
	}
	if err := writeFile(path, b, 0o644); err != nil {
		return fmt.Errorf("cannot write the signing config: %w", err)
	}
	return nil
}
