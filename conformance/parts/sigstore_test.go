package parts_test

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// signWith signs a statement with a new key, certified for the token, as the signing config says.
func signWith(t *testing.T, config, token string) *bundle.Bundle {
	t.Helper()
	signed, err := parts.SignUnchecked(t.Context(), config, token, []byte(`{"_type":"https://in-toto.io/Statement/v1"}`), "application/vnd.in-toto+json")
	if err != nil {
		t.Fatalf("signing: %v", err)
	}
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(signed); err != nil {
		t.Fatal(err)
	}
	return b
}

// judge verifies a bundle against a trusted root, with everything that a release needs.
func judge(t *testing.T, b *bundle.Bundle, trustedRoot string, id parts.Identity) error {
	t.Helper()
	trusted, err := root.NewTrustedRootFromPath(trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(trusted, verify.WithSignedTimestamps(1), verify.WithTransparencyLog(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	san, err := verify.NewSANMatcher(id.Subject, "")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := verify.NewIssuerMatcher(id.Issuer, "")
	if err != nil {
		t.Fatal(err)
	}
	want, err := verify.NewCertificateIdentity(san, issuer, certificate.Extensions{SourceRepositoryURI: id.SourceRepository, SourceRepositoryRef: id.Ref})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithCertificateIdentity(want)))
	return err
}

func token(t *testing.T, issuer *parts.Issuer, job parts.Job) string {
	t.Helper()
	token, err := issuer.Token(job)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestSigstoreCertifiesJobs(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	tests := map[string]struct {
		issuer *parts.Issuer
		job    parts.Job
		want   parts.Identity
	}{
		"GitHub tag": {s.OIDC.GitHub, parts.Job{}, parts.Identity{
			Subject:          "https://github.com/acme/gateway/.github/workflows/release.yml@refs/tags/v1.0",
			SourceRepository: "https://github.com/acme/gateway", Ref: "refs/tags/v1.0",
		}},
		"GitHub branch": {s.OIDC.GitHub, parts.Job{Repository: "evil/fork", Workflow: ".github/workflows/ci.yml", Ref: "refs/heads/main"}, parts.Identity{
			Subject:          "https://github.com/evil/fork/.github/workflows/ci.yml@refs/heads/main",
			SourceRepository: "https://github.com/evil/fork", Ref: "refs/heads/main",
		}},
		"GitLab tag": {s.OIDC.GitLab, parts.Job{}, parts.Identity{
			Subject:          "https://gitlab.com/acme/gateway//.gitlab-ci.yml@refs/tags/v1.0",
			SourceRepository: "https://gitlab.com/acme/gateway", Ref: "refs/tags/v1.0",
		}},
		"GitLab branch": {s.OIDC.GitLab, parts.Job{Ref: "refs/heads/main"}, parts.Identity{
			Subject:          "https://gitlab.com/acme/gateway//.gitlab-ci.yml@refs/heads/main",
			SourceRepository: "https://gitlab.com/acme/gateway", Ref: "refs/heads/main",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.want.Issuer = test.issuer.URL()
			if got := test.issuer.Identity(test.job); got != test.want {
				t.Errorf("got identity %+v, want %+v", got, test.want)
			}
			b := signWith(t, s.SigningConfig(), token(t, test.issuer, test.job))
			if err := judge(t, b, s.TrustedRoot(), test.want); err != nil {
				t.Errorf("bundle: %v", err)
			}
			other := test.want
			other.Ref += "0"
			if err := judge(t, b, s.TrustedRoot(), other); err == nil {
				t.Error("the bundle is accepted for another ref")
			}
		})
	}
}

// Each fault that a test of cordon needs is a fault in the eyes of sigstore-go, and the right one.
func TestSigstoreMakesEveryFault(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	other := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC})
	config := func(name string, change parts.SigningChange) string {
		path := filepath.Join(t.TempDir(), name)
		if err := s.SigningConfigWith(path, change); err != nil {
			t.Fatal(err)
		}
		return path
	}
	faulty := func(fault parts.CertificateFault) string {
		ca, err := s.StartFaultyCA(fault)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ca.Stop)
		return config("faulty.json", parts.SigningChange{CA: ca.URL()})
	}
	id := s.OIDC.GitHub.Identity(parts.Job{})
	for name, test := range map[string]struct{ config, words string }{
		"nothing":             {faulty(parts.CertificateFault{}), ""},
		"expired certificate": {faulty(parts.CertificateFault{Shift: -time.Hour}), "failed to verify leaf certificate"},
		"no SCT":              {faulty(parts.CertificateFault{WithoutSCT: true}), "failed to verify signed certificate timestamp"},
		"no log entry":        {config("c.json", parts.SigningChange{WithoutLog: true}), "failed to verify log inclusion"},
		"no timestamp":        {config("c.json", parts.SigningChange{WithoutTimestamp: true}), "failed to verify timestamps"},
		"other Sigstore":      {other.SigningConfig(), "failed to verify"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := judge(t, signWith(t, test.config, token(t, s.OIDC.GitHub, parts.Job{})), s.TrustedRoot(), id)
			if (err == nil) != (test.words == "") || (err != nil && !strings.Contains(err.Error(), test.words)) {
				t.Errorf("got %v, want %q", err, test.words)
			}
		})
	}
}

func TestSigstoreStopsAndComesBack(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstoreWith(t, parts.SigstoreConfig{})
	id := s.OIDC.GitHub.Identity(parts.Job{})
	b := signWith(t, s.SigningConfig(), token(t, s.OIDC.GitHub, parts.Job{}))
	before := s.PIDs()
	s.StopServices()
	for _, pid := range before {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("stopped service: got %v, want no such process", err)
		}
	}
	if err := judge(t, b, s.TrustedRoot(), id); err != nil {
		t.Errorf("with all services stopped: %v", err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := signWith(t, s.SigningConfig(), token(t, s.OIDC.GitHub, parts.Job{}))
	if err := judge(t, again, s.TrustedRoot(), id); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	entries, err := again.TlogEntries()
	if err != nil || len(entries) != 1 || entries[0].LogIndex() < 1 {
		t.Errorf("after the restart: got entries %v, %v, want one that continues the log", entries, err)
	}
}
