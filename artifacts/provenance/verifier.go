package provenance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/cordon-ota/cordon/artifacts"
)

// verifier holds one policy, ready for use.
type verifier struct {
	read    reader
	role    role
	product string
	keyed   map[string]string // hint -> publisher
	keyless []artifacts.Publisher
	keys    root.TrustedMaterial
	trusted root.TrustedMaterial // nil without a trusted root
}

// role is what those are called who may sign, and what they do when they do it again.
type role struct{ who, do, command string }

var (
	publishers      = role{"publisher", "publish", "cordon-sign publish"}
	baselineSigners = role{"baseline signer", "sign", "cordon-sign baseline sign"}
)

// signed is what one bundle proves.
type signed struct {
	publisher string
	payload   []byte
}

// claim is what the parts of a statement that every kind has say.
type claim struct {
	product  string
	subjects []artifacts.Subject
}

// reader decodes one kind of statement strictly.
type reader func(payload []byte) (claim, error)

func readRelease(payload []byte) (claim, error) {
	s, err := artifacts.DecodeStatement(payload)
	if err != nil {
		return claim{}, fmt.Errorf("it does not sign a release statement: %w", err)
	}
	return claim{s.Predicate.Product, s.Subject}, nil
}

func readBaseline(payload []byte) (claim, error) {
	s, err := artifacts.DecodeBaselineStatement(payload)
	if err != nil {
		return claim{}, fmt.Errorf("it does not sign a baseline statement: %w", err)
	}
	return claim{s.Predicate.Product, s.Subject}, nil
}

func newVerifier(policy artifacts.Policy, role role, read reader, opts Options) (*verifier, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	tr, err := parseTrustedRoot(opts.TrustedRootJSON)
	if err != nil {
		return nil, err
	}
	v := &verifier{read: read, role: role, product: policy.Product, keyed: map[string]string{}}
	if tr != nil {
		v.trusted = tr
	}
	keys := map[string]*root.ExpiringKey{}
	for _, p := range policy.Publishers {
		if p.KeyPEM == "" {
			v.keyless = append(v.keyless, p)
			continue
		}
		hint, key, err := expiringKey(p)
		if err != nil {
			return nil, err
		}
		keys[hint], keys[otherHint(hint)], v.keyed[hint] = key, key, p.Name
	}
	v.keys = root.NewTrustedPublicKeyMaterialFromMapping(keys)
	return v, nil
}

// expiringKey gives a publisher's key the form that sigstore-go wants. The policy that lists it says how long it counts.
func expiringKey(p artifacts.Publisher) (hint string, key *root.ExpiringKey, err error) {
	public, err := p.Key()
	if err != nil {
		return "", nil, err
	}
	if hint, err = artifacts.KeyHint(public); err != nil {
		return "", nil, err
	}
	ecdsaVerifier, err := signature.LoadECDSAVerifier(public, crypto.SHA256)
	if err != nil {
		return "", nil, fmt.Errorf("%w: publisher %q: %w", artifacts.ErrPolicy, p.Name, err)
	}
	return hint, root.NewExpiringKey(ecdsaVerifier, time.Time{}, time.Time{}), nil
}

// verify checks one bundle. Every error is a refusal in plain words.
func (v *verifier) verify(bundleJSON []byte) (out signed, err error) {
	if len(bundleJSON) > artifacts.MaxBundleBytes {
		return signed{}, fmt.Errorf("it has %d bytes, at most %d are allowed", len(bundleJSON), artifacts.MaxBundleBytes)
	}
	// A bundle comes from outside, and sigstore-go parses much of it before it checks a signature.
	defer func() {
		if p := recover(); p != nil {
			out, err = signed{}, fmt.Errorf("it crashed the verifier (%v): make the bundle again with a current cordon-sign", p)
		}
	}()
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(bundleJSON); err != nil {
		return signed{}, fmt.Errorf("it is not a Sigstore bundle: %w", err)
	}
	payload, err := v.role.payloadOf(b)
	if err != nil {
		return signed{}, err
	}
	// sigstore-go wants to know the artifacts that the statement must name. This first look serves that only; what
	// counts is decoded again from the payload after its signature was verified.
	claimed, err := v.read(payload)
	if err != nil {
		return signed{}, err
	}
	publisher, err := v.verifySigner(b, subjectsOf(claimed.subjects))
	if err != nil {
		return signed{}, err
	}
	statement, err := v.read(payload)
	if err != nil {
		return signed{}, err
	}
	if statement.product != v.product {
		return signed{}, fmt.Errorf("it signs something of product %q, the policy is for %q", statement.product, v.product)
	}
	return signed{publisher: publisher, payload: payload}, nil
}

// payloadOf returns the signed bytes of a bundle that has the one form that cordon accepts.
func (r role) payloadOf(b *bundle.Bundle) ([]byte, error) {
	if version, err := b.Version(); err != nil || version != "v0.3" {
		return nil, fmt.Errorf("it is a bundle of media type %.100q, want v0.3: sign with a current cordon-sign or cosign", b.GetMediaType())
	}
	envelope := b.GetDsseEnvelope()
	if envelope == nil {
		return nil, fmt.Errorf("it signs an image, not a statement: use '%s', or sign the statement as a DSSE envelope", r.command)
	}
	if envelope.GetPayloadType() != artifacts.PayloadType {
		return nil, fmt.Errorf("its payload type is %.100q, want %q", envelope.GetPayloadType(), artifacts.PayloadType)
	}
	if n := len(envelope.GetSignatures()); n != 1 {
		return nil, fmt.Errorf("it has %d signatures, want exactly 1: give each signer an own bundle", n)
	}
	return envelope.GetPayload(), nil
}

func subjectsOf(subjects []artifacts.Subject) verify.ArtifactPolicyOption {
	digests := make([]verify.ArtifactDigest, 0, len(subjects))
	for _, subject := range subjects {
		digests = append(digests, verify.ArtifactDigest{Algorithm: "sha256", Digest: subject.Digest.SHA256[:]})
	}
	return verify.WithArtifactDigests(digests)
}

// verifySigner returns the publisher that made the bundle's signature.
func (v *verifier) verifySigner(b *bundle.Bundle, subjects verify.ArtifactPolicyOption) (string, error) {
	switch material := b.GetVerificationMaterial().GetContent().(type) {
	case *protobundle.VerificationMaterial_PublicKey:
		return v.verifyKeyed(b, material.PublicKey.GetHint(), subjects)
	case *protobundle.VerificationMaterial_Certificate:
		return v.verifyKeyless(b, subjects)
	default:
		return "", errors.New("it carries a certificate chain: a v0.3 bundle carries one certificate or a key hint")
	}
}

// verifyKeyed and verifyKeyless need two configurations: a key has no certificate that could carry an SCT.
func (v *verifier) verifyKeyed(b *bundle.Bundle, hint string, subjects verify.ArtifactPolicyOption) (string, error) {
	publisher, ok := v.keyed[ownHint(hint)]
	if !ok {
		return "", fmt.Errorf("it was signed with the key %.80q, which is no %s of the policy (%s): sign with one of those, or add the key with 'cordon-sign product set'", hint, v.role.who, v.knownKeys())
	}
	sigstore, err := verify.NewVerifier(v.keys, verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate())
	if err != nil {
		return "", fmt.Errorf("cannot prepare verification: %w", err)
	}
	if _, err := sigstore.Verify(b, verify.NewPolicy(subjects, verify.WithKey())); err != nil {
		return "", fmt.Errorf("it names the key of %s %q, but %w", v.role.who, publisher, v.explainKeyed(err))
	}
	return publisher, nil
}

func (v *verifier) knownKeys() string {
	if len(v.keyed) == 0 {
		return "it lists no keys"
	}
	var known []string
	for hint, name := range v.keyed {
		known = append(known, name+" "+hint[:16]+"...")
	}
	slices.Sort(known)
	return strings.Join(known[:min(len(known), 5)], ", ")
}

func (v *verifier) verifyKeyless(b *bundle.Bundle, subjects verify.ArtifactPolicyOption) (string, error) {
	if len(v.keyless) == 0 {
		return "", fmt.Errorf("it was signed with a certificate, and the policy names %ss with keys only: sign with one of those keys", v.role.who)
	}
	if v.trusted == nil {
		return "", fmt.Errorf("it was signed with a certificate, and there is no %s to check that with: let the offline role add it as a target", artifacts.TrustedRootPath)
	}
	if err := checkLeafKey(b); err != nil {
		return "", err
	}
	sigstore, err := verify.NewVerifier(v.trusted, verify.WithSignedTimestamps(1), verify.WithTransparencyLog(1),
		verify.WithSignedCertificateTimestamps(1), verify.WithoutStatementPredicate())
	if err != nil {
		return "", fmt.Errorf("cannot prepare verification: %w", err)
	}
	var identities []verify.PolicyOption
	for _, p := range v.keyless {
		identity, err := identityOf(p)
		if err != nil {
			return "", fmt.Errorf("cannot prepare %s %q: %w", v.role.who, p.Name, err)
		}
		identities = append(identities, verify.WithCertificateIdentity(identity))
	}
	result, err := sigstore.Verify(b, verify.NewPolicy(subjects, identities...))
	if err != nil {
		return "", v.explain(b, sigstore, err)
	}
	return v.publisherOf(result)
}

// identityOf asks for exact values only: sigstore-go's patterns are not anchored.
func identityOf(p artifacts.Publisher) (verify.CertificateIdentity, error) {
	san, err := verify.NewSANMatcher(p.Subject, "")
	if err != nil {
		return verify.CertificateIdentity{}, err
	}
	issuer, err := verify.NewIssuerMatcher(p.Issuer, "")
	if err != nil {
		return verify.CertificateIdentity{}, err
	}
	return verify.NewCertificateIdentity(san, issuer, certificate.Extensions{SourceRepositoryURI: p.SourceRepository})
}

// publisherOf finds the publisher that the verified certificate stands for. It repeats what sigstore-go compared, since
// a policy can name several identities and refs are ours to check.
func (v *verifier) publisherOf(result *verify.VerificationResult) (string, error) {
	if result == nil || result.Signature == nil || result.Signature.Certificate == nil {
		return "", errors.New("the verifier returned no certificate")
	}
	return v.role.match(*result.Signature.Certificate, v.keyless)
}

// checkLeafKey keeps one algorithm: ECDSA P-256, which is also what cordon-sign and cosign use.
func checkLeafKey(b *bundle.Bundle) error {
	leaf, err := leafOf(b)
	if err != nil {
		return err
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("its certificate is not for an ECDSA P-256 key: sign with that algorithm")
	}
	return nil
}
