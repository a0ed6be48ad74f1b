package provenance_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"net/url"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctutil "github.com/google/certificate-transparency-go/x509util"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
)

// stack is a whole Sigstore in memory: the log and the timestamp authority are sigstore-go's virtual ones; the CA and
// the CT log are ours, because the virtual CA makes no SCTs and no source repository.
type stack struct {
	virtual         *ca.VirtualSigstore
	caRoot, caCert  *x509.Certificate
	caKey, ctKey    *ecdsa.PrivateKey
	trustedRootJSON []byte
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newStack(t testing.TB) *stack {
	t.Helper()
	s := &stack{virtual: must(ca.NewVirtualSigstore())(t), ctKey: newKey(t)}
	var rootKey *ecdsa.PrivateKey
	var err error
	if s.caRoot, rootKey, err = ca.GenerateRootCa(); err != nil {
		t.Fatal(err)
	}
	if s.caCert, s.caKey, err = ca.GenerateFulcioIntermediate(s.caRoot, rootKey); err != nil {
		t.Fatal(err)
	}
	s.trustedRootJSON = s.trust(t)
	return s
}

func (s *stack) trust(t testing.TB) []byte {
	t.Helper()
	authority := &root.FulcioCertificateAuthority{
		Root: s.caRoot, Intermediates: []*x509.Certificate{s.caCert}, URI: "https://ca.example",
		ValidityPeriodStart: time.Now().Add(-time.Hour),
	}
	rekor := map[string]*root.TransparencyLog{}
	for id, log := range s.virtual.RekorLogs() {
		log.ID = must(hex.DecodeString(id))(t)
		rekor[id] = log
	}
	ctID := s.ctLogID(t)
	ctLogs := map[string]*root.TransparencyLog{hex.EncodeToString(ctID[:]): {
		ID: ctID[:], BaseURL: "https://ct.example", HashFunc: crypto.SHA256, PublicKey: s.ctKey.Public(),
		SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}
	tr := must(root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{authority}, ctLogs,
		s.virtual.TimestampingAuthorities(), rekor))(t)
	return must(tr.MarshalJSON())(t)
}

func (s *stack) ctLogID(t testing.TB) [32]byte {
	t.Helper()
	return sha256.Sum256(must(x509.MarshalPKIXPublicKey(s.ctKey.Public()))(t))
}

// identity is what a CI's certificate says.
type identity struct {
	issuer, subject, repository, ref string
	withoutSCT                       bool
	notAfter                         time.Time // zero: it lives ten minutes from now on
}

func (s *stack) leaf(t *testing.T, id identity, key crypto.Signer) *x509.Certificate {
	t.Helper()
	extension := func(last int, value string) pkix.Extension {
		der := must(asn1.MarshalWithParams(value, "utf8"))(t)
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, last}, Value: der}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{must(url.Parse(id.subject))(t)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{extension(8, id.issuer), extension(12, id.repository), extension(14, id.ref)},
	}
	if !id.notAfter.IsZero() {
		template.NotBefore, template.NotAfter = id.notAfter.Add(-10*time.Minute), id.notAfter
	}
	create := func() *x509.Certificate {
		der := must(x509.CreateCertificate(rand.Reader, template, s.caCert, key.Public(), s.caKey))(t)
		return must(x509.ParseCertificate(der))(t)
	}
	cert := create()
	if id.withoutSCT {
		return cert
	}
	template.ExtraExtensions = append(template.ExtraExtensions, s.sct(t, cert))
	return create()
}

// sct is RFC 6962 section 3.3: the CT log's signature over the certificate without this extension.
func (s *stack) sct(t *testing.T, cert *x509.Certificate) pkix.Extension {
	t.Helper()
	sct := &ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: s.ctLogID(t)}, Timestamp: uint64(time.Now().UnixMilli()),
	}
	input := must(ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(s.caCert.RawSubjectPublicKeyInfo), TBSCertificate: cert.RawTBSCertificate},
		},
	}}))(t)
	signature := must(cttls.CreateSignature(*s.ctKey, cttls.SHA256, input))(t)
	sct.Signature = ct.DigitallySigned(signature)
	list := must(ctutil.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{sct}))(t)
	der := must(asn1.Marshal(must(cttls.Marshal(*list))(t)))(t)
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: der}
}

// sign makes a keyless bundle; change, if not nil, breaks it.
func (s *stack) sign(t *testing.T, id identity, payload []byte, change func(*protobundle.Bundle)) []byte {
	t.Helper()
	key := newKey(t)
	leaf := s.leaf(t, id, key)
	sum := sha256.Sum256(dsse.PAE(artifacts.PayloadType, payload))
	signature := must(key.Sign(rand.Reader, sum[:], crypto.SHA256))(t)
	envelope := &dsse.Envelope{
		PayloadType: artifacts.PayloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(signature)}},
	}
	entry := must(s.virtual.GenerateTlogEntry(leaf, envelope, signature, time.Now().Unix(), true))(t).TransparencyLogEntry()
	entry.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: leaf.Raw}},
			TimestampVerificationData: &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{
				{SignedTimestamp: must(s.virtual.TimestampResponse(signature))(t)},
			}},
			TlogEntries: []*protorekor.TransparencyLogEntry{entry},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: payload, PayloadType: artifacts.PayloadType, Signatures: []*protodsse.Signature{{Sig: signature}},
		}},
	}
	if change != nil {
		change(b)
	}
	return must(protojson.Marshal(b))(t)
}
