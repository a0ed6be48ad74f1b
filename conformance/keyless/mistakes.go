package keyless

import (
	"path/filepath"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Mistake is one way in which a pipeline, or a Sigstore, goes wrong.
type Mistake struct {
	Name   string
	Job    parts.Job                      // who asks
	Expect parts.Identity                 // what the policy says
	Config string                         // path of the signing config
	Change func(b *protobundle.Bundle)    // Optional: what happens to the bundle after it was made
	Other  func(artifacts.Release) []byte // Optional: another payload that the bundle is given

	AtSigner string // what cordon-sign says; empty: it cannot make this mistake
	Says     string // what whoever verifies says
}

// Mistakes are those that a pipeline's owner must be able to tell apart, on a real Sigstore.
func Mistakes(t testing.TB, s *parts.Sigstore) []Mistake {
	t.Helper()
	good := s.OIDC.GitHub.Identity(parts.Job{})
	change := func(f func(*parts.Identity)) parts.Identity {
		id := good
		f(&id)
		return id
	}
	config := func(c parts.SigningChange) string {
		path := filepath.Join(t.TempDir(), "signing_config.json")
		if err := s.SigningConfigWith(path, c); err != nil {
			t.Fatal(err)
		}
		return path
	}
	faulty := func(f parts.CertificateFault) string {
		ca, err := s.StartFaultyCA(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ca.Stop)
		return config(parts.SigningChange{CA: ca.URL()})
	}
	elsewhere := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC})
	own := s.SigningConfig()
	return []Mistake{
		{Name: "wrong issuer", Expect: change(func(id *parts.Identity) { id.Issuer = s.OIDC.GitLab.URL() }), Config: own,
			AtSigner: "wrong issuer: the certificate says", Says: "wrong issuer: the certificate says \"" + good.Issuer + "\", publisher \"ci\" wants \"" + s.OIDC.GitLab.URL() + "\""},
		{Name: "wrong subject", Expect: good, Job: parts.Job{Workflow: ".github/workflows/test.yml"}, Config: own,
			AtSigner: "wrong subject: the certificate says", Says: "/test.yml@refs/tags/v1.0\", publisher \"ci\" wants \"" + good.Subject + "\""},
		{Name: "wrong repository", Expect: change(func(id *parts.Identity) { id.SourceRepository = "https://github.com/acme/other" }), Config: own,
			AtSigner: "wrong repository: the certificate says", Says: "wrong repository: the certificate says \"https://github.com/acme/gateway\", publisher \"ci\" wants \"https://github.com/acme/other\""},
		{Name: "wrong ref", Expect: change(func(id *parts.Identity) { id.Ref = "refs/heads/main" }), Config: own,
			AtSigner: "wrong ref: the certificate says", Says: "wrong ref: the certificate says \"refs/tags/v1.0\", publisher \"ci\" wants one of [\"refs/heads/main\"]"},
		{Name: "expired certificate", Expect: good, Config: faulty(parts.CertificateFault{Shift: -time.Hour}),
			AtSigner: "expired certificate: it was valid from", Says: "expired certificate: it was valid from"},
		{Name: "missing SCT", Expect: good, Config: faulty(parts.CertificateFault{WithoutSCT: true}),
			AtSigner: "missing SCT", Says: "missing SCT: the certificate was not logged"},
		{Name: "missing log entry", Expect: good, Config: config(parts.SigningChange{WithoutLog: true}),
			AtSigner: "names no transparency log", Says: "missing log entry"},
		{Name: "missing timestamp", Expect: good, Config: config(parts.SigningChange{WithoutTimestamp: true}),
			AtSigner: "names no timestamp authority", Says: "missing timestamp"},
		{Name: "log entry left out later", Expect: good, Config: own, Says: "missing log entry",
			Change: func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }},
		{Name: "timestamp left out later", Expect: good, Config: own, Says: "missing timestamp",
			Change: func(b *protobundle.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil }},
		{Name: "untrusted instance", Expect: good, Config: elsewhere.SigningConfig(),
			AtSigner: "untrusted instance: the certificate", Says: "untrusted instance: the log entry is of the log"},
		{Name: "tampered statement", Expect: good, Config: own, Says: "tampered statement: the signature does not fit",
			Other: func(r artifacts.Release) []byte { r.Floor = 1; return Payload(t, r) }},
		{Name: "log entry of another bundle", Expect: good, Config: own, Says: "wrong log entry",
			Change: func(b *protobundle.Bundle) {
				b.VerificationMaterial.TlogEntries = another(t, s).VerificationMaterial.TlogEntries
			}},
	}
}

// another is a good bundle over another statement.
func another(t testing.TB, s *parts.Sigstore) *protobundle.Bundle {
	t.Helper()
	m := Mistake{Config: s.SigningConfig()}
	raw := m.Bundle(t, s, artifacts.Release{Product: "another", Version: "1.0", Counter: 1, Components: []artifacts.Component{
		{Name: "app", HardwareIDs: []string{Hardware}, SHA256: digest.Of([]byte("another")), Length: 7, Installer: "rauc"},
	}})
	var bundle protobundle.Bundle
	if err := protojson.Unmarshal(raw, &bundle); err != nil {
		t.Fatal(err)
	}
	return &bundle
}

// Payload is the statement that is signed for a release.
func Payload(t testing.TB, r artifacts.Release) []byte {
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

// Bundle makes the mistake, with everybody looking away.
func (m Mistake) Bundle(t testing.TB, s *parts.Sigstore, r artifacts.Release) []byte {
	t.Helper()
	token, err := s.OIDC.GitHub.Token(m.Job)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parts.SignUnchecked(t.Context(), m.Config, token, Payload(t, r), artifacts.PayloadType)
	if err != nil {
		t.Fatal(err)
	}
	if m.Change == nil && m.Other == nil {
		return b
	}
	var bundle protobundle.Bundle
	if err := protojson.Unmarshal(b, &bundle); err != nil {
		t.Fatal(err)
	}
	if m.Change != nil {
		m.Change(&bundle)
	}
	if m.Other != nil {
		bundle.GetDsseEnvelope().Payload = m.Other(r)
	}
	if b, err = protojson.Marshal(&bundle); err != nil {
		t.Fatal(err)
	}
	return b
}
