package provenance_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

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
		"issuer":                     {func(i *identity) { i.issuer = "https://evil.example" }, `wrong issuer: the certificate says "https://evil.example", publisher "ci" wants "https://ci.example"; next: take the identity token`},
		"issuer with suffix":         {func(i *identity) { i.issuer += ".evil.example" }, "wrong issuer"},
		"subject":                    {func(i *identity) { i.subject = "https://ci.example/acme/firmware/test.yml@refs/tags/v1" }, "wrong subject"},
		"subject prefix":             {func(i *identity) { i.subject += "0" }, "wrong subject"},
		"repository":                 {func(i *identity) { i.repository = "https://ci.example/fork/firmware" }, `wrong repository: the certificate says "https://ci.example/fork/firmware", publisher "ci" wants "https://ci.example/acme/firmware"`},
		"ref":                        {func(i *identity) { i.ref = "refs/heads/main" }, `wrong ref: the certificate says "refs/heads/main", publisher "ci" wants one of ["refs/tags/v0" "refs/tags/v1"]`},
		"issuer with a slash":        {func(i *identity) { i.issuer += "/" }, "wrong issuer"},
		"case of the subject":        {func(i *identity) { i.subject = strings.Replace(i.subject, "acme", "Acme", 1) }, "wrong subject"},
		"dots in the subject":        {func(i *identity) { i.subject = strings.Replace(i.subject, "acme/", "fork/../acme/", 1) }, "wrong subject"},
		"escapes in the subject":     {func(i *identity) { i.subject = strings.Replace(i.subject, "acme", "%61cme", 1) }, "wrong subject"},
		"case of the repository":     {func(i *identity) { i.repository = strings.Replace(i.repository, "acme", "Acme", 1) }, "wrong repository"},
		"letter of another alphabet": {func(i *identity) { i.repository = strings.Replace(i.repository, "acme", "\u0430cme", 1) }, "wrong repository"},
		"no repository":              {func(i *identity) { i.repository = "" }, "wrong repository"},
		"a branch called like a tag": {func(i *identity) { i.ref = "refs/heads/" + i.ref }, "wrong ref"},
		"no ref":                     {func(i *identity) { i.ref = "" }, "wrong ref"},
		"no SCT":                     {func(i *identity) { i.withoutSCT = true }, "missing SCT"},
		"expired before it was used": {func(i *identity) { i.notAfter = time.Now().Add(-time.Hour) }, "expired certificate: it was valid from"},
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
		"no log entry":    {func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }, "missing log entry"},
		"no timestamp":    {func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil }, "missing timestamp"},
		"other payload":   {func(b *protobundle.Bundle) { b.GetDsseEnvelope().Payload = payload(t, higher) }, "tampered statement"},
		"other signature": {func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures[0].Sig[20] ^= 1 }, "tampered statement"},
		"broken certificate": {func(b *protobundle.Bundle) {
			c := b.VerificationMaterial.GetCertificate()
			c.RawBytes = c.RawBytes[:len(c.RawBytes)-3]
		}, "certificate cannot be read"},
		"broken inclusion proof": {func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash[0] ^= 1
		}, "wrong log entry"},
		"timestamp of another signature": {func(b *protobundle.Bundle) {
			other := must(s.virtual.TimestampResponse([]byte("another signature")))(t)
			b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps[0].SignedTimestamp = other
		}, "wrong timestamp"},
		"timestamp of another authority": {func(b *protobundle.Bundle) {
			other := must(newStack(t).virtual.TimestampResponse(b.GetDsseEnvelope().Signatures[0].Sig))(t)
			b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps[0].SignedTimestamp = other
		}, "untrusted instance: the timestamp is of none of the 1 authorities"},
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
	wantRefused(t, res, err, "untrusted instance: the log entry is of the log")
}

// Each of the parts alone must be ours: a log and an authority that we trust do not make a foreign CA good.
func TestRefusesForeignCA(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	foreign := newStack(t)
	foreign.virtual, foreign.ctKey = s.virtual, s.ctKey
	res, err := provenance.Verify(foreign.sign(t, ci, payload(t, release()), nil), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	wantRefused(t, res, err, "untrusted instance: the certificate of issuer")
}

func TestRefusesForeignCTLog(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	foreign := *s
	foreign.ctKey = newKey(t)
	res, err := provenance.Verify(foreign.sign(t, ci, payload(t, release()), nil), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	wantRefused(t, res, err, "untrusted instance: the certificate's SCT")
}

// With several publishers the message is about the one that comes closest.
func TestNamesTheClosestPublisher(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	other := ciPublisher()
	other.Name, other.Issuer = "other", "https://other.example"
	main := ciPublisher()
	main.Name, main.Refs = "main", []string{"refs/heads/main"}
	for _, publishers := range [][]artifacts.Publisher{{other, main}, {main, other}} {
		res, err := provenance.Verify(s.sign(t, ci, payload(t, release()), nil), policy(1, publishers...), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
		wantRefused(t, res, err, `wrong ref: the certificate says "refs/tags/v1", publisher "main" wants one of ["refs/heads/main"]`)
	}
}

// However long the names are, what to do is said, and the server does not have to cut the sentence.
func TestLongIdentitiesDoNotHideTheNextStep(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	long := identity{
		issuer: "https://" + strings.Repeat("i", 400), subject: "https://" + strings.Repeat("s", 400), repository: "https://" + strings.Repeat("r", 400), ref: strings.Repeat("f", 400),
	}
	res, err := provenance.Verify(s.sign(t, long, payload(t, release()), nil), policy(1, ciPublisher()), provenance.Options{TrustedRootJSON: s.trustedRootJSON})
	wantRefused(t, res, err, "wrong issuer", "wrong subject", "next: take the identity token from the CI")
	if n := len(res.Refusals[0].Detail); n > 1024 {
		t.Errorf("the detail has %d bytes", n)
	}
}

// A signer asks about its certificate before it uses it.
func TestIdentify(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	p := policy(1, keyPublisher(t, "vendor", newKey(t)), ciPublisher())
	opts := provenance.Options{TrustedRootJSON: s.trustedRootJSON}
	if got, err := provenance.Identify(s.leaf(t, ci, newKey(t)).Raw, p, opts); err != nil || got != "ci" {
		t.Errorf("got %q, %v", got, err)
	}
	stranger := ci
	stranger.subject = "https://ci.example/fork/firmware/release.yml@refs/tags/v1"
	_, err := provenance.Identify(s.leaf(t, stranger, newKey(t)).Raw, p, opts)
	if !errors.Is(err, provenance.ErrIdentity) || !strings.Contains(err.Error(), "wrong subject") || !strings.HasPrefix(provenance.NextStep(err.Error()), "publish from the workflow") {
		t.Errorf("got %v", err)
	}
	for _, der := range [][]byte{nil, []byte("x")} {
		if _, err := provenance.Identify(der, p, opts); !errors.Is(err, provenance.ErrIdentity) {
			t.Errorf("%q: got %v", der, err)
		}
	}
	if _, err := provenance.Identify(s.leaf(t, ci, newKey(t)).Raw, policy(1, keyPublisher(t, "vendor", newKey(t))), opts); !errors.Is(err, provenance.ErrIdentity) {
		t.Errorf("keys only: got %v", err)
	}
	for name, other := range map[string]provenance.Options{"no trusted root": {}, "untrusted instance": {TrustedRootJSON: newStack(t).trustedRootJSON}} {
		if _, err := provenance.Identify(s.leaf(t, ci, newKey(t)).Raw, p, other); !errors.Is(err, provenance.ErrIdentity) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Whoever reads a refusal of a baseline looks for its signer in the policy's list of baseline signers.
func TestRefusalsSayWhoWasAskedFor(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	stranger, late, unlogged := ci, ci, ci
	stranger.subject += "0"
	late.notAfter = time.Now().Add(-time.Hour)
	unlogged.withoutSCT = true
	asked := policy(1, keyPublisher(t, "vendor", newKey(t)))
	asked.Baselines = &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{ciPublisher()}}
	opts := provenance.Options{TrustedRootJSON: s.trustedRootJSON}
	body := baselinePayload(t, "thermostat")
	withImage := func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures = nil }
	for name, row := range map[string]struct {
		bundle []byte
		want   string
	}{
		"another subject": {s.sign(t, stranger, body, nil), `baseline signer "ci" wants "https://ci.example`},
		"what to do":      {s.sign(t, stranger, body, nil), "; next: sign from the workflow"},
		"late":            {s.sign(t, late, body, nil), "; next: sign again"},
		"not logged":      {s.sign(t, unlogged, body, nil), "then sign again"},
		"no signature":    {s.sign(t, ci, body, withImage), "give each signer an own bundle"},
	} {
		res, err := provenance.VerifyBaseline([][]byte{row.bundle}, asked, opts)
		if err != nil || len(res.Refusals) == 0 || !strings.Contains(res.Refusals[0].Detail, row.want) {
			t.Errorf("%s: got %+v, %v, want %q", name, res.Refusals, err, row.want)
			continue
		}
		for _, r := range res.Refusals {
			if strings.Contains(r.Detail, "publish") {
				t.Errorf("%s: a baseline signer is called a publisher: %s", name, r.Detail)
			}
		}
	}
	keys := asked
	keys.Baselines = &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{keyPublisher(t, "platform", newKey(t))}}
	res, err := provenance.VerifyBaseline([][]byte{s.sign(t, ci, body, nil)}, keys, opts)
	if err != nil || len(res.Refusals) == 0 || !strings.Contains(res.Refusals[0].Detail, "names baseline signers with keys only") {
		t.Errorf("keys only: got %+v, %v", res.Refusals, err)
	}
	_, err = provenance.IdentifyBaseline(s.leaf(t, stranger, newKey(t)).Raw, policy(1, ciPublisher()), opts)
	if !errors.Is(err, provenance.ErrIdentity) || !strings.Contains(err.Error(), `baseline signer "ci" wants`) || strings.Contains(err.Error(), "publish") {
		t.Errorf("got %v", err)
	}
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
