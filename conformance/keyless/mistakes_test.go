package keyless_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/keyless"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Each mistake is refused by cordon-sign before anything is uploaded and by the server for whoever goes past it, with a
// sentence that says what was wanted, what was seen and what to do. The device's part is client/keyless_test.go.
func TestEveryMistakeHasItsMessage(t *testing.T) {
	t.Parallel()
	sigstore := parts.TestSigstore(t)
	mistakes := keyless.Mistakes(t, sigstore)
	policies := map[string]string{
		keyless.Product: keyless.Publisher("ci", sigstore.OIDC.GitHub.Identity(parts.Job{})),
		"keys-only":     "[[publisher]]\nname = \"vendor\"\nkey_file = \"publisher.pub.pem\"\n",
	}
	for i, m := range mistakes {
		policies[productOf(i)] = keyless.Publisher("ci", m.Expect)
	}
	s := keyless.New(t, keyless.Config{Bin: programs.Dir(t), Sigstore: sigstore, Policies: policies})
	s.Write("app.img", "an image")
	t.Run("token", func(t *testing.T) { tokenMistakes(t, s, sigstore) })
	for i, m := range mistakes {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			if m.AtSigner != "" {
				r := s.Publish(sigstore.OIDC.ActionsEnvironment(m.Job), productOf(i), "1.0", "app=app.img,hw=board-a,installer=rauc", "--signing-config", m.Config)
				hint := lineWith(r.Stderr, "hint: ")
				if r.Code == 0 || !strings.Contains(r.Stderr, m.AtSigner) || hint == "" || strings.Contains(r.Stderr, "eyJ") {
					t.Errorf("cordon-sign: exit %d, want a refusal with %q and a hint:\n%s", r.Code, m.AtSigner, r.Stderr)
				}
				t.Logf("cordon-sign: %s\n%s", lineWith(r.Stderr, "cordon-sign: "), hint)
			}
			release := artifacts.Release{Product: productOf(i), Version: "1.0", Counter: 1, Components: []artifacts.Component{
				{Name: "app", HardwareIDs: []string{keyless.Hardware}, SHA256: digest.Of([]byte("an image")), Length: 8, Installer: "rauc"},
			}}
			_, err := s.API("ci-builder").Publish(t.Context(), api.PublishRequest{Bundles: [][]byte{m.Bundle(t, sigstore, release)}, DryRun: true})
			var refused *api.Error
			if !errors.As(err, &refused) || refused.Reason != reason.PublisherRefused || !strings.Contains(refused.Detail, m.Says) || !strings.Contains(refused.Detail, "; next: ") {
				t.Fatalf("server: %v, want publisher_refused with %q and a next step", err, m.Says)
			}
			t.Logf("server: %s", refused.Detail)
		})
	}
}

func productOf(i int) string { return fmt.Sprintf("mistake-%d", i) }

func lineWith(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// tokenMistakes: what is wrong with a token is told before an image is read, and never with the token.
func tokenMistakes(t *testing.T, s *keyless.Stage, sigstore *parts.Sigstore) {
	t.Helper()
	gitLab := func(job parts.Job) []string {
		env, err := sigstore.OIDC.GitLabEnvironment(job)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	config := []string{"--signing-config", sigstore.SigningConfig()}
	tests := map[string]struct {
		env        []string
		product    string
		args       []string
		code       int
		says, hint string
	}{
		"no Sigstore is named": {nil, keyless.Product, nil, 2, "neither --key nor --signing-config is given", "give --signing-config"},
		"no token":             {nil, keyless.Product, config, 2, "no identity token", "run in a CI that gives identity tokens"},
		"no permission":        {[]string{"GITHUB_ACTIONS=true"}, keyless.Product, config, 2, "GitHub Actions gave this job no", "permissions: id-token: write"},
		"no id_tokens":         {[]string{"GITLAB_CI=true"}, keyless.Product, config, 2, "GitLab gave this job no SIGSTORE_ID_TOKEN", "id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore"},
		"expired":              {gitLab(parts.Job{Age: 3600e9}), keyless.Product, config, 1, "identity token has expired: at", "take a new token"},
		"other audience":       {gitLab(parts.Job{Audience: "https://gitlab.com"}), keyless.Product, config, 1, "identity token is for another audience: it says", "ask the CI for a token with the audience"},
		"audience the CA does not know": {sigstore.OIDC.ActionsEnvironment(parts.Job{}), keyless.Product, append(config, "--identity-audience", "cordon"), 1,
			"the CA refused the identity token", "check that the signing config is of the Sigstore whose CA knows this CI"},
		"GitHub does not know the job": {[]string{"ACTIONS_ID_TOKEN_REQUEST_URL=" + sigstore.OIDC.GitHub.URL() + "/request?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=guessed"},
			keyless.Product, config, 3, "the CI's token service gave no identity token", "run the job again"},
		"not a token":           {[]string{"SIGSTORE_ID_TOKEN=abc"}, keyless.Product, config, 2, "identity token cannot be read", "give the JWT alone"},
		"keys only":             {gitLab(parts.Job{}), "keys-only", config, 1, "names publishers with keys only", "sign with --key"},
		"no such product":       {gitLab(parts.Job{}), "kettle", config, 1, "has signed no policy for the product", "check --product"},
		"signing config is bad": {gitLab(parts.Job{}), keyless.Product, []string{"--signing-config", "app.img"}, 2, "signing config cannot be used", "give a signing_config.json"},
		"trusted root is bad":   {gitLab(parts.Job{}), keyless.Product, append(config, "--trusted-root", "app.img"), 2, "trusted root file cannot be used", "give the trusted_root.json"},
		"key and keyless":       {nil, keyless.Product, append(config, "--key", "publisher.pem"), 2, "flags do not fit", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := s.Publish(test.env, test.product, "1.0", "app=app.img,hw=board-a,installer=rauc", test.args...)
			said, hint := lineWith(r.Stderr, "cordon-sign: "), lineWith(r.Stderr, "hint: ")
			if r.Code != test.code || !strings.Contains(said, test.says) || !strings.Contains(hint, test.hint) {
				t.Errorf("exit %d, want %d, %q and hint %q:\n%s", r.Code, test.code, test.says, test.hint, r.Stderr)
			}
			if strings.Contains(r.Stdout+r.Stderr, "eyJ") || strings.Contains(r.Stderr, "guessed") {
				t.Errorf("a token was printed:\n%s", r.Stderr)
			}
			t.Logf("%s\n%s", said, hint)
		})
	}
}

// One publisher with a key and one without, where the policy asks for two: neither is enough.
func TestKeyAndKeylessTogether(t *testing.T) {
	t.Parallel()
	sigstore := parts.TestSigstore(t)
	gitLab := sigstore.OIDC.GitLab.Identity(parts.Job{Ref: "refs/heads/main"})
	s := keyless.New(t, keyless.Config{Bin: programs.Dir(t), Sigstore: sigstore, Policies: map[string]string{
		keyless.Product: "threshold = 2\n" + keyless.Publisher("gitlab", gitLab) + "[[publisher]]\nname = \"vendor\"\nkey_file = \"publisher.pub.pem\"\n",
	}})
	component := s.Component(keyless.Factory)
	first := s.Run(nil, "cordon-sign", append([]string{"publish", "--product", keyless.Product, "--version", keyless.Factory, "--component", component, "--recovery",
		"--key", "publisher.pem", "--dry-run", "--bundle-out", "vendor.json"}, s.Server("ci-builder")...)...)
	if first.Code != 1 || !strings.Contains(first.Stderr, "1 of the 2 different publishers") {
		t.Fatalf("exit %d:\n%s", first.Code, first.Stderr)
	}
	env, err := sigstore.OIDC.GitLabEnvironment(parts.Job{Ref: "refs/heads/main"})
	if err != nil {
		t.Fatal(err)
	}
	// Whoever controls the Sigstore, and with it every identity, is one of two still.
	alone := s.Publish(env, keyless.Product, keyless.Factory, component, "--recovery", "--signing-config", sigstore.SigningConfig())
	if alone.Code != 1 || !strings.Contains(alone.Stderr, "1 of the 2 different publishers") {
		t.Fatalf("exit %d:\n%s", alone.Code, alone.Stderr)
	}
	second := s.Publish(env, keyless.Product, keyless.Factory, component, "--recovery", "--bundle", "vendor.json", "--signing-config", sigstore.SigningConfig())
	wantPublished(t, second, "gateway/0.9 counter 1: published")
	d := s.NewDevice()
	if step := d.Agent(); step.Verdict != "affirmed" {
		t.Errorf("the device should have proven the factory image: %+v", step)
	}
}
