package keyless_test

import (
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/keyless"
	"github.com/cordon-ota/cordon/conformance/parts"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// The whole road: GitHub's job publishes without a key, a device installs it; then the Sigstore is gone, and everything
// that was signed goes on: on devices, on the server after a restart, and for an auditor.
func TestKeylessRoad(t *testing.T) {
	t.Parallel()
	sigstore := parts.TestSigstoreWith(t, parts.SigstoreConfig{})
	job := parts.Job{}
	s := keyless.New(t, keyless.Config{Bin: programs.Dir(t), Sigstore: sigstore, Policies: map[string]string{
		keyless.Product: keyless.Publisher("github", sigstore.OIDC.GitHub.Identity(job)),
	}})
	env := sigstore.OIDC.ActionsEnvironment(job)
	publish := func(version string, more ...string) keyless.Result {
		return s.Publish(env, keyless.Product, version, s.Component(version), append(more, "--signing-config", sigstore.SigningConfig())...)
	}
	wantPublished(t, publish(keyless.Factory, "--recovery"), "gateway/0.9 counter 1: published")
	dry := publish("1.0", "--dry-run", "--json", "--bundle-out", s.Path("dry.json"))
	wantPublished(t, dry, `"dry_run":true`)
	first := publish("1.0", "--bundle-out", s.Path("kept.json"))
	wantPublished(t, first, "gateway/1.0 counter 2: published")
	for _, words := range []string{"asking the CA", `is of publisher "github"`, "asking the timestamp authority", "asking the log", "the bundle verifies against policy and trusted root"} {
		if !strings.Contains(first.Stderr, words) {
			t.Errorf("stderr does not say %q:\n%s", words, first.Stderr)
		}
	}
	if strings.Contains(first.Stdout+first.Stderr, "eyJ") {
		t.Errorf("a token was printed:\n%s%s", first.Stdout, first.Stderr)
	}
	for _, kept := range []string{"dry.json", "kept.json"} {
		if b, err := os.ReadFile(s.Path(kept)); err != nil || !strings.Contains(string(b), "tlogEntries") {
			t.Errorf("%s: %v, %.100s", kept, err, b)
		}
	}
	wantPublished(t, publish("1.0"), "is there already (published); nothing changed")
	s.NewDevice().Update("gateway/1.0")

	sigstore.StopServices()
	s.NewDevice().Update("gateway/1.0")
	s.StopServer()
	s.StartServer()
	s.NewDevice().Update("gateway/1.0")

	s.Ctl("dave", "report", "--from", "2020-01-01", "--out", s.Path("report.json"))
	s.Must(nil, "cordonctl", "verify", s.Path("report.json"), "--trust", s.Path("trust.json"), "--ek-roots", s.Path("ek-roots.pem"))

	gone := publish("1.1", "--timeout", "1m")
	if gone.Code != 3 || !strings.Contains(gone.Stderr, "a Sigstore service is not available") || !strings.Contains(gone.Stderr, "hint: check the address in the signing config") {
		t.Errorf("without a Sigstore: exit %d\n%s", gone.Code, gone.Stderr)
	}
	if err := sigstore.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantPublished(t, publish("1.1"), "gateway/1.1 counter 3: published")
}

func wantPublished(t *testing.T, r keyless.Result, words string) {
	t.Helper()
	if r.Code != 0 || !strings.Contains(r.Stdout, words) {
		t.Fatalf("exit %d, want 0 and %q:\n%s%s", r.Code, words, r.Stdout, r.Stderr)
	}
}
