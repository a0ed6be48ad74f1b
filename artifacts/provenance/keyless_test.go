package provenance_test

import (
	"slices"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
)

var ci = identity{
	issuer: "https://ci.example", subject: "https://ci.example/acme/firmware/release.yml@refs/tags/v1",
	repository: "https://ci.example/acme/firmware", ref: "refs/tags/v1",
}

func ciPublisher() artifacts.Publisher {
	return artifacts.Publisher{Name: "ci", Issuer: ci.issuer, Subject: ci.subject, SourceRepository: ci.repository, Refs: []string{"refs/tags/v0", ci.ref}}
}

func TestAcceptsKeylessRelease(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	b := s.sign(t, ci, payload(t, release()), nil)
	opts := provenance.Options{TrustedRootJSON: s.trustedRootJSON}
	anyRef := ciPublisher()
	anyRef.SourceRepository, anyRef.Refs = "", nil
	for _, p := range []artifacts.Publisher{ciPublisher(), anyRef} {
		res, err := provenance.Verify(b, policy(1, keyPublisher(t, "vendor", newKey(t)), p), opts)
		if err != nil || len(res.Refusals) != 0 || !slices.Equal(res.Signers, []string{"ci"}) {
			t.Errorf("got %q, %v, %v", res.Signers, res.Refusals, err)
		}
	}
}

func TestAcceptsKeyAndKeylessTogether(t *testing.T) {
	t.Parallel()
	s, key := newStack(t), newKey(t)
	body := payload(t, release())
	res, err := provenance.VerifyAll([][]byte{s.sign(t, ci, body, nil), signed(t, body, key)},
		policy(2, keyPublisher(t, "vendor", key), ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	if err != nil || len(res.Refusals) != 0 || !slices.Equal(res.Signers, []string{"ci", "vendor"}) {
		t.Errorf("got %q, %v, %v", res.Signers, res.Refusals, err)
	}
}

func TestRefusesKeylessOfOthers(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	tests := map[string]struct {
		change func(*identity)
		words  string
	}{
		"issuer":             {func(i *identity) { i.issuer = "https://evil.example" }, "no publisher of the policy"},
		"issuer with suffix": {func(i *identity) { i.issuer += ".evil.example" }, "no publisher of the policy"},
		"subject":            {func(i *identity) { i.subject = "https://ci.example/acme/firmware/test.yml@refs/tags/v1" }, "no publisher of the policy"},
		"subject prefix":     {func(i *identity) { i.subject += "0" }, "no publisher of the policy"},
		"repository":         {func(i *identity) { i.repository = "https://ci.example/fork/firmware" }, "no publisher of the policy"},
		"ref":                {func(i *identity) { i.ref = "refs/heads/main" }, `from ref "refs/heads/main"`},
		"no SCT":             {func(i *identity) { i.withoutSCT = true }, "certificate transparency log"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := ci
			test.change(&id)
			res, err := provenance.Verify(s.sign(t, id, payload(t, release()), nil), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
			wantRefused(t, res, err, test.words)
		})
	}
}

func TestRefusesBrokenKeylessBundles(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	higher := release()
	higher.Counter = 13
	tests := map[string]struct {
		change func(*protobundle.Bundle)
		words  string
	}{
		"no log entry":    {func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }, "transparency log"},
		"no timestamp":    {func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil }, "timestamp authority"},
		"other payload":   {func(b *protobundle.Bundle) { b.GetDsseEnvelope().Payload = payload(t, higher) }, "for other bytes"},
		"other signature": {func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures[0].Sig[20] ^= 1 }, "for other bytes"},
		"broken certificate": {func(b *protobundle.Bundle) {
			c := b.VerificationMaterial.GetCertificate()
			c.RawBytes = c.RawBytes[:len(c.RawBytes)-3]
		}, "certificate cannot be read"},
		"broken inclusion proof": {func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash[0] ^= 1
		}, "transparency log"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := provenance.Verify(s.sign(t, ci, payload(t, release()), test.change), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
			wantRefused(t, res, err, test.words)
		})
	}
}

func TestRefusesKeylessFromOtherSigstore(t *testing.T) {
	t.Parallel()
	b := newStack(t).sign(t, ci, payload(t, release()), nil)
	res, err := provenance.Verify(b, policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: newStack(t).trustedRootJSON})
	wantRefused(t, res, err, "transparency log")
}

// Each of the parts alone must be ours: a log and an authority that we trust do not make a foreign CA good.
func TestRefusesForeignCA(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	foreign := newStack(t)
	foreign.virtual, foreign.ctKey = s.virtual, s.ctKey
	res, err := provenance.Verify(foreign.sign(t, ci, payload(t, release()), nil), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	wantRefused(t, res, err, "does not chain to a CA")
}

func TestKeylessNeedsTrustedRoot(t *testing.T) {
	t.Parallel()
	b := newStack(t).sign(t, ci, payload(t, release()), nil)
	res, err := provenance.Verify(b, policy(1, ciPublisher()), provenance.Options{})
	wantRefused(t, res, err, artifacts.TrustedRootPath)
	res, err = provenance.Verify(b, policy(1, keyPublisher(t, "vendor", newKey(t))), provenance.Options{})
	wantRefused(t, res, err, "publishers with keys only")
}

func TestRefusesKeyWhereCertificateIsAsked(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	res, err := provenance.Verify(signed(t, payload(t, release()), newKey(t)), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	wantRefused(t, res, err, "it lists no keys")
}
