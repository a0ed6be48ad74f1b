package evidencetest

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"
)

// CA is a TPM manufacturer that issues endorsement certificates for tests.
type CA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// EK is an endorsement key in software.
type EK struct {
	Private     *rsa.PrivateKey
	Certificate []byte // DER
	SPKI        []byte // DER
}

// NewCA makes a manufacturer with a new key, valid from 2020 to 2060.
func NewCA(name string) CA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return newCA(name, key)
}

// CAOfWords makes a manufacturer whose key is made from words; the same words give the same certificates to the byte.
func CAOfWords(name, words string) CA {
	return newCA(name, steady{NewKey(Seed(words), GoodTLS()).Private})
}

func newCA(name string, key crypto.Signer) CA {
	template := authority(1, name)
	return CA{Certificate: parsed(issue(template, template, key.Public(), key)), key: key}
}

func authority(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: date(2020), NotAfter: date(2060),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// steady signs the same bytes with the same signature (RFC 6979), whoever brings randomness.
type steady struct{ *ecdsa.PrivateKey }

// Sign implements crypto.Signer.
func (s steady) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, options)
}

// Intermediate makes a CA that ca has issued; change may alter its certificate.
func (ca CA) Intermediate(name string, change func(*x509.Certificate)) CA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return ca.intermediate(name, key, change)
}

// IntermediateOfWords is Intermediate with a key that is made from words.
func (ca CA) IntermediateOfWords(name, words string, change func(*x509.Certificate)) CA {
	return ca.intermediate(name, steady{NewKey(Seed(words), GoodTLS()).Private}, change)
}

func (ca CA) intermediate(name string, key crypto.Signer, change func(*x509.Certificate)) CA {
	template := authority(2, name)
	if change != nil {
		change(template)
	}
	return CA{Certificate: parsed(issue(template, ca.Certificate, key.Public(), ca.key)), key: key}
}

// Pool holds the CA's certificate alone.
func (ca CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// NewEK makes an RSA-2048 endorsement key and its certificate; change may alter the certificate before it is signed.
func (ca CA) NewEK(change func(*x509.Certificate)) EK {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	return ca.Certify(key, change)
}

// Certify makes an endorsement certificate for key.
func (ca CA) Certify(key *rsa.PrivateKey, change func(*x509.Certificate)) EK {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(err)
	return EK{Private: key, Certificate: ca.Endorse(key.Public(), change), SPKI: spki}
}

// Endorse makes an endorsement certificate, in DER, for a public key of any kind; change may alter it before it is
// signed.
func (ca CA) Endorse(public crypto.PublicKey, change func(*x509.Certificate)) []byte {
	return issue(endorsement(change), ca.Certificate, public, ca.key)
}

func endorsement(change func(*x509.Certificate)) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{}, NotBefore: date(2021), NotAfter: date(2050),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{TPMName("id:54534D00", "evidencetest", "id:00010002")},
	}
	if change != nil {
		change(template)
	}
	return template
}

// TPMName is the critical subject alternative name of an endorsement certificate.
func TPMName(manufacturer, model, version string) pkix.Extension {
	set := pkix.RelativeDistinguishedNameSET{
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: manufacturer},
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: model},
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: version},
	}
	rdn, err := asn1.Marshal(pkix.RDNSequence{set})
	must(err)
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: rdn}})
	must(err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}
}

// ErrActivation is returned by Activate, as TPM2_ActivateCredential would fail.
var ErrActivation = errors.New("the credential is not for this endorsement key and this attestation key")

// Activate does what TPM2_ActivateCredential does (TPM 2.0 Part 1, section 24) with a TPM2B_ID_OBJECT and a
// TPM2B_ENCRYPTED_SECRET, for the loaded key with akName. It returns ErrActivation when they are for other keys.
func (ek EK) Activate(credentialBlob, encryptedSecret, akName []byte) ([]byte, error) {
	object, ok1 := unsized(credentialBlob)
	sealed, ok2 := unsized(encryptedSecret)
	if !ok1 || !ok2 || len(object) < 2+sha256.Size {
		return nil, ErrActivation
	}
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, ek.Private, sealed, []byte("IDENTITY\x00"))
	if err != nil {
		return nil, ErrActivation
	}
	tag, identity := object[2:2+sha256.Size], object[2+sha256.Size:]
	mac := hmac.New(sha256.New, kdf(seed, "INTEGRITY", nil, 256))
	mac.Write(identity)
	mac.Write(akName)
	if !hmac.Equal(mac.Sum(nil), tag) {
		return nil, ErrActivation
	}
	secret, ok := unsized(decryptCFB(kdf(seed, "STORAGE", akName, 128), identity))
	if !ok {
		return nil, ErrActivation
	}
	return secret, nil
}

// kdf is KDFa with SHA-256 for at most 256 bits (TPM 2.0 Part 1, 11.4.10.2).
func kdf(key []byte, label string, context []byte, bits uint32) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte{0, 0, 0, 1})
	mac.Write(append([]byte(label), 0))
	mac.Write(context)
	mac.Write(binary.BigEndian.AppendUint32(nil, bits))
	return mac.Sum(nil)[:bits/8]
}

// decryptCFB is AES in CFB mode with an IV of zeros.
func decryptCFB(key, in []byte) []byte {
	block, err := aes.NewCipher(key)
	must(err)
	out := make([]byte, len(in))
	register := make([]byte, aes.BlockSize)
	stream := make([]byte, aes.BlockSize)
	for i, c := range in {
		if i%aes.BlockSize == 0 {
			block.Encrypt(stream, register)
		}
		out[i] = c ^ stream[i%aes.BlockSize]
		register[i%aes.BlockSize] = c
	}
	return out
}

func unsized(b []byte) ([]byte, bool) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return nil, false
	}
	return b[2:], true
}

func issue(template, parent *x509.Certificate, public any, signer crypto.Signer) []byte {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	must(err)
	return der
}

func parsed(der []byte) *x509.Certificate {
	cert, err := x509.ParseCertificate(der)
	must(err)
	return cert
}

func date(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("evidencetest: %v", err))
	}
}
