package provenance_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/signer/keys"
)

func release() artifacts.Release {
	return artifacts.Release{
		Product: "thermostat", Version: "1.2.0", Counter: 12, Floor: 10, MinimumTier: 1,
		Components: []artifacts.Component{
			{Name: "system", HardwareIDs: []string{"rev-b"}, SHA256: digest.Of([]byte("system image")), Length: 12, Installer: "uki",
				ReferenceValues: digest.Of([]byte("{}")), ReferenceLength: 2},
			{Name: "radio", HardwareIDs: []string{"rev-a", "rev-b"}, SHA256: digest.Of([]byte("radio image")), Length: 11, Installer: "script"},
		},
	}
}

func payload(t testing.TB, r artifacts.Release) []byte {
	t.Helper()
	s, err := artifacts.NewStatement(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keyPublisher(t testing.TB, name string, key *ecdsa.PrivateKey) artifacts.Publisher {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return artifacts.Publisher{Name: name, KeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func policy(threshold int, publishers ...artifacts.Publisher) artifacts.Policy {
	return artifacts.Policy{Version: artifacts.PolicyVersion, Product: "thermostat", Publishers: publishers, Threshold: threshold}
}

func signed(t testing.TB, payload []byte, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := keys.SignBundle(t.Context(), payload, artifacts.PayloadType, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantRefused checks that the one reason is given, that no statement leaks out, and that the text helps.
func wantRefused(t *testing.T, res provenance.Result, err error, words ...string) {
	t.Helper()
	if err != nil {
		t.Fatalf("got error %v, want a refusal", err)
	}
	if len(res.Refusals) == 0 {
		t.Fatalf("it was accepted, signed by %q", res.Signers)
	}
	var text strings.Builder
	for _, r := range res.Refusals {
		if r.Reason != reason.PublisherRefused {
			t.Errorf("got reason %s, want %s", r.Reason, reason.PublisherRefused)
		}
		text.WriteString(r.Detail + "\n")
	}
	for _, w := range words {
		if !strings.Contains(text.String(), w) {
			t.Errorf("got details %q, want them to say %q", text.String(), w)
		}
	}
	if res.Statement.Type != "" {
		t.Error("a refused result carries a statement")
	}
}

func TestAcceptsKeySignedRelease(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	res, err := provenance.Verify(signed(t, payload(t, release()), key),
		policy(1, keyPublisher(t, "other", other), keyPublisher(t, "ci", key)), provenance.Options{})
	if err != nil || len(res.Refusals) != 0 {
		t.Fatalf("got %v, %v", res.Refusals, err)
	}
	if !slices.Equal(res.Signers, []string{"ci"}) {
		t.Errorf("signers: got %q, want ci", res.Signers)
	}
	if got := payload(t, res.Statement.Predicate); !bytes.Equal(got, payload(t, release())) {
		t.Errorf("statement: got %s", got)
	}
}

func TestRefusesKeyOutsideThePolicy(t *testing.T) {
	t.Parallel()
	res, err := provenance.Verify(signed(t, payload(t, release()), newKey(t)), policy(1, keyPublisher(t, "ci", newKey(t))), provenance.Options{})
	wantRefused(t, res, err, "no publisher of the policy (ci ")
}

// change decodes a bundle, lets f break it, and encodes it again.
func change(t testing.TB, b []byte, f func(*protobundle.Bundle)) []byte {
	t.Helper()
	var pb protobundle.Bundle
	if err := protojson.Unmarshal(b, &pb); err != nil {
		t.Fatal(err)
	}
	f(&pb)
	out, err := protojson.Marshal(&pb)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRefusesBrokenKeySignedBundles(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	good := signed(t, payload(t, release()), key)
	hint, err := artifacts.KeyHint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	higher := release()
	higher.Counter = 13
	tests := map[string]struct {
		bundle []byte
		words  string
	}{
		"payload of another release": {change(t, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Payload = payload(t, higher) }), "changed after signing"},
		"payload with one bit changed": {change(t, good, func(b *protobundle.Bundle) {
			p := b.GetDsseEnvelope().Payload
			p[bytes.Index(p, []byte("1.2.0"))+2] = '3'
		}), "release statement"},
		"signature with one bit changed": {change(t, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures[0].Sig[20] ^= 1 }), "changed after signing"},
		"empty signature":                {change(t, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures[0].Sig = nil }), "changed after signing"},
		"no signature":                   {change(t, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures = nil }), "0 signatures"},
		"two signatures": {change(t, good, func(b *protobundle.Bundle) {
			e := b.GetDsseEnvelope()
			e.Signatures = append(e.Signatures, e.Signatures[0])
		}), "2 signatures"},
		"key that borrows the hint": {change(t, signed(t, payload(t, release()), newKey(t)), func(b *protobundle.Bundle) {
			b.GetVerificationMaterial().GetPublicKey().Hint = hint
		}), "changed after signing"},
		"other payload type": {change(t, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().PayloadType = "text/plain" }), "payload type"},
		"older bundle version": {change(t, good, func(b *protobundle.Bundle) {
			b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2"
		}), "v0.3"},
		"no material":         {change(t, good, func(b *protobundle.Bundle) { b.VerificationMaterial = nil }), "not a Sigstore bundle"},
		"no envelope":         {change(t, good, func(b *protobundle.Bundle) { b.Content = &protobundle.Bundle_DsseEnvelope{} }), ""},
		"unknown member":      {bytes.Replace(good, []byte(`{`), []byte(`{"extra":1,`), 1), "not a Sigstore bundle"},
		"repeated member":     {bytes.Replace(good, []byte(`{`), []byte(`{"mediaType":"x",`), 1), "cannot be read"},
		"empty":               {nil, "0 bundles"},
		"garbage":             {[]byte("not json"), "cannot be read"},
		"null":                {[]byte("null"), "not a Sigstore bundle"},
		"null members":        {[]byte(`{"mediaType":null,"verificationMaterial":null,"dsseEnvelope":null}`), "not a Sigstore bundle"},
		"other JSON":          {[]byte(`[]`), "not a Sigstore bundle"},
		"trailing bytes":      {append(bytes.Clone(good), '}'), "cannot be read"},
		"oversized":           {append(bytes.Clone(good), bytes.Repeat([]byte(" "), artifacts.MaxBundleBytes)...), "at most"},
		"statement of nobody": {signed(t, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`), key), "release statement"},
		"spaces in statement": {signed(t, append(payload(t, release()), ' '), key), "release statement"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := provenance.Verify(test.bundle, policy(1, keyPublisher(t, "ci", key)), provenance.Options{})
			wantRefused(t, res, err, test.words)
		})
	}
}

func TestRefusesMessageSignature(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	b := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"AAAA"},"signature":"AAAA"}}`)
	res, err := provenance.Verify(b, policy(1, keyPublisher(t, "ci", key)), provenance.Options{})
	wantRefused(t, res, err, "use 'cordon-sign publish'")
}

func TestRefusesReleaseOfOtherProduct(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	r := release()
	r.Product = "boiler"
	res, err := provenance.Verify(signed(t, payload(t, r), key), policy(1, keyPublisher(t, "ci", key)), provenance.Options{})
	wantRefused(t, res, err, `product "boiler"`)
}

func TestThresholdCountsDifferentPublishers(t *testing.T) {
	t.Parallel()
	a, b, c := newKey(t), newKey(t), newKey(t)
	p := policy(2, keyPublisher(t, "a", a), keyPublisher(t, "b", b), keyPublisher(t, "c", c))
	body := payload(t, release())

	res, err := provenance.VerifyAll([][]byte{signed(t, body, c), signed(t, body, a)}, p, provenance.Options{})
	if err != nil || len(res.Refusals) != 0 || !slices.Equal(res.Signers, []string{"a", "c"}) {
		t.Errorf("two of three: got %q, %v, %v", res.Signers, res.Refusals, err)
	}
	lines := bytes.Join([][]byte{signed(t, body, b), signed(t, body, a)}, []byte("\n"))
	res, err = provenance.Verify(lines, p, provenance.Options{})
	if err != nil || len(res.Refusals) != 0 || !slices.Equal(res.Signers, []string{"a", "b"}) {
		t.Errorf("two of three as lines: got %q, %v, %v", res.Signers, res.Refusals, err)
	}

	res, err = provenance.VerifyAll([][]byte{signed(t, body, a), signed(t, body, a)}, p, provenance.Options{})
	wantRefused(t, res, err, "1 of the 2 different publishers")
	res, err = provenance.Verify(signed(t, body, a), p, provenance.Options{})
	wantRefused(t, res, err, "1 of the 2 different publishers")

	other := release()
	other.Components[0].SHA256 = digest.Of([]byte("another build"))
	res, err = provenance.VerifyAll([][]byte{signed(t, body, a), signed(t, payload(t, other), b)}, p, provenance.Options{})
	wantRefused(t, res, err, "signs other bytes")

	// A stranger's bundle beside enough good ones is no accident either.
	res, err = provenance.VerifyAll([][]byte{signed(t, body, a), signed(t, body, b), signed(t, body, newKey(t))}, p, provenance.Options{})
	wantRefused(t, res, err, "bundle 3 of 3")

	many := slices.Repeat([][]byte{signed(t, body, a)}, provenance.MaxBundles+1)
	res, err = provenance.VerifyAll(many, p, provenance.Options{})
	wantRefused(t, res, err, "bundles, want 1 to")
}

func TestUnusablePolicyIsAnError(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	b := signed(t, payload(t, release()), key)
	twice := policy(2, keyPublisher(t, "a", key), keyPublisher(t, "b", key))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]artifacts.Policy{
		"zero": {}, "threshold 0": policy(0, keyPublisher(t, "ci", key)), "same key twice": twice,
		"P-384": policy(1, keyPublisher(t, "ci", p384)),
	} {
		res, err := provenance.Verify(b, p, provenance.Options{})
		if !errors.Is(err, artifacts.ErrPolicy) || len(res.Signers) != 0 {
			t.Errorf("%s: got %v, %v, want %v", name, res, err, artifacts.ErrPolicy)
		}
	}
	for _, tr := range [][]byte{[]byte("{}"), []byte("null"), []byte("x"), bytes.Repeat([]byte(" "), provenance.MaxTrustedRootBytes+1)} {
		_, err := provenance.Verify(b, policy(1, keyPublisher(t, "ci", key)), provenance.Options{TrustedRootJSON: tr})
		if !errors.Is(err, provenance.ErrTrustedRoot) {
			t.Errorf("trusted root %.20q: got %v, want %v", tr, err, provenance.ErrTrustedRoot)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	good := signed(f, payload(f, release()), key)
	f.Add(good)
	f.Add(append(append(bytes.Clone(good), '\n'), good...))
	f.Add(change(f, good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures = []*protodsse.Signature{nil} }))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"MAA="},"tlogEntries":[{"canonicalizedBody":"e30="}]},"dsseEnvelope":{"payload":"e30="}}`))
	p := policy(1, keyPublisher(f, "ci", key))
	want := payload(f, release())
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := provenance.Verify(b, p, provenance.Options{})
		if err != nil {
			t.Fatalf("a bundle made an error: %v", err)
		}
		if len(res.Refusals) == 0 && !bytes.Equal(payload(t, res.Statement.Predicate), want) {
			t.Errorf("accepted a statement that was never signed: %s", b)
		}
	})
}
