//go:build interop

package interop_test

import (
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/interop"
	"github.com/cordon-ota/cordon/conformance/npm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// claim is what a judge is asked about a bundle: made by this key, or by this identity under this trusted root?
type claim struct {
	bundle, artifact string // files
	key              string // PEM file; empty for keyless
	id               parts.Identity
	trustedRoot      string
}

// judge is a program of others that verifies bundles.
type judge struct {
	name string
	ask  func(t *testing.T, c claim) parts.Output
}

func judges(t *testing.T) []judge {
	js := javascript(t)
	return []judge{
		{"sigstore-js " + npm.Version("@sigstore/verify"), func(t *testing.T, c claim) parts.Output { return askJS(t, js, "3", c) }},
		{"sigstore-js " + npm.Version("sigstore-verify-4"), func(t *testing.T, c claim) parts.Output { return askJS(t, js, "4", c) }},
		{"cosign " + parts.CosignVersion(), askCosign},
	}
}

func askJS(t *testing.T, js npm.Client, engine string, c claim) parts.Output {
	t.Helper()
	args := []string{"verify-bundle", "--engine", engine, "--bundle", c.bundle}
	if c.key != "" {
		args = append(args, "--key", c.key)
	} else {
		args = append(args, "--trusted-root", c.trustedRoot, "--certificate-identity", c.id.Subject, "--certificate-oidc-issuer", c.id.Issuer)
	}
	out, err := js.Sigstore(t.Context(), append(args, c.artifact)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func askCosign(t *testing.T, c claim) parts.Output {
	t.Helper()
	args := []string{"verify-blob-attestation", "--bundle", c.bundle, "--type", artifacts.PredicateType}
	if c.key != "" {
		args = append(args, "--key", c.key, "--insecure-ignore-tlog") // a key-signed release of ours is in no log
	} else {
		args = append(args, "--trusted-root", c.trustedRoot, "--use-signed-timestamps",
			"--certificate-identity", c.id.Subject, "--certificate-oidc-issuer", c.id.Issuer)
	}
	return runCosign(t, nil, append(args, c.artifact)...)
}

func runCosign(t *testing.T, env []string, args ...string) parts.Output {
	t.Helper()
	// The key that cosign imports is in a file of the test only, so its password may be empty.
	out, err := parts.Cosign(t.Context(), t.TempDir(), append([]string{"COSIGN_PASSWORD="}, env...), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// setPolicy has the holders sign a policy, and the trusted root of a Sigstore.
func setPolicy(t *testing.T, s *demo.Stage, policy, trustedRoot string) {
	t.Helper()
	file := s.Path("interop-policy.toml")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	ceremony(t, s,
		"product trusted-root --dir ceremony --file "+trustedRoot,
		"product set --dir ceremony --policy "+file,
		"root sign --dir ceremony --key hanna.pem",
		"root sign --dir ceremony --key henry.pem",
		"root apply --dir ceremony --token-file "+s.Path("alice.token"),
	)
}

// policyOf names the story's publisher with a key and the release workflow of GitHub.
func policyOf(threshold string, id parts.Identity) string {
	return `product = "gateway"
threshold = ` + threshold + `
[[publisher]]
name = "ci"
key_file = "publisher.pub.pem"
[[publisher]]
name = "workflow"
issuer = "` + id.Issuer + `"
subject = "` + id.Subject + `"
source_repository = "` + id.SourceRepository + `"
refs = ["` + id.Ref + `"]
`
}

// changed is a bundle with another release counter in its statement.
func changed(t *testing.T, bundle string) string {
	t.Helper()
	var doc map[string]jsontext.Value
	if err := json.Unmarshal(readFile(t, bundle), &doc); err != nil {
		t.Fatal(err)
	}
	var envelope map[string]jsontext.Value
	if err := json.Unmarshal(doc["dsseEnvelope"], &envelope); err != nil {
		t.Fatal(err)
	}
	var payload []byte
	if err := json.Unmarshal(envelope["payload"], &payload); err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(string(payload), `"counter":`, `"counter":1`, 1)
	if forged == string(payload) {
		t.Fatal("the statement has no counter")
	}
	var err error
	if envelope["payload"], err = json.Marshal([]byte(forged)); err != nil {
		t.Fatal(err)
	}
	if doc["dsseEnvelope"], err = json.Marshal(envelope); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return keep(t, "forged.json", b)
}

// notAsked: sigstore-js does not look at what a statement is about; whoever calls it has to.
const notAsked = "-"

// What cordon-sign makes, others verify, and what is wrong with it they find.
func TestOthersJudgeOurBundles(t *testing.T) {
	t.Parallel()
	s := newStage(t, demo.StageConfig{})
	sigstore := parts.TestSigstore(t)
	stranger := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: sigstore.OIDC})
	id := sigstore.OIDC.GitHub.Identity(parts.Job{})
	setPolicy(t, s, policyOf("1", id), sigstore.TrustedRoot())

	kernels := parts.TestKernels(t)
	image := parts.TestUKI(t, parts.UKISpec{Version: "1.1", Kernel: kernels[1]})
	keyed := claim{bundle: release(t, s, "1.1", image, "--key", "publisher.pem"), artifact: image, key: s.Path("publisher.pub.pem")}
	token, err := sigstore.OIDC.GitHub.Token(parts.Job{})
	if err != nil {
		t.Fatal(err)
	}
	image = parts.TestUKI(t, parts.UKISpec{Version: "1.2", Kernel: kernels[0]})
	keyless := claim{
		bundle:   release(t, s, "1.2", image, "--signing-config", sigstore.SigningConfig(), "--identity-token-file", keep(t, "token", []byte(token))),
		artifact: image, id: id, trustedRoot: sigstore.TrustedRoot(),
	}
	with := func(c claim, change func(*claim)) claim { change(&c); return c }
	other := keep(t, "other", []byte("another image"))
	// The words are those of sigstore-js 3, sigstore-js 4 and cosign; empty: accepted.
	tests := []struct {
		what  string
		claim claim
		words [3]string
	}{
		{"release signed with a key", keyed, [3]string{}},
		{"release signed with a key, other key", with(keyed, func(c *claim) { c.key = s.Path("stranger.pub.pem") }), [3]string{"SIGNATURE_ERROR", "SIGNATURE_ERROR", "accepted signatures do not match threshold"}},
		{"release signed with a key, statement changed", with(keyed, func(c *claim) { c.bundle = changed(t, c.bundle) }), [3]string{"SIGNATURE_ERROR", "SIGNATURE_ERROR", "accepted signatures do not match threshold"}},
		{"release signed with a key, other image", with(keyed, func(c *claim) { c.artifact = other }), [3]string{notAsked, notAsked, "provided artifact digests do not match digests in statement"}},
		{"keyless release", keyless, [3]string{"TLOG_BODY_ERROR", "", ""}},
		{"keyless release, other subject", with(keyless, func(c *claim) { c.id.Subject += "0" }), [3]string{"TLOG_BODY_ERROR", "UNTRUSTED_SIGNER_ERROR", "expected SAN value"}},
		{"keyless release, other issuer", with(keyless, func(c *claim) { c.id.Issuer = sigstore.OIDC.GitLab.URL() }), [3]string{"TLOG_BODY_ERROR", "UNTRUSTED_SIGNER_ERROR", "expected issuer value"}},
		{"keyless release, trusted root of another Sigstore", with(keyless, func(c *claim) { c.trustedRoot = stranger.TrustedRoot() }), [3]string{"TIMESTAMP_ERROR", "TIMESTAMP_ERROR", "not enough verified log entries"}},
		{"keyless release, statement changed", with(keyless, func(c *claim) { c.bundle = changed(t, c.bundle) }), [3]string{"TLOG_BODY_ERROR", "TLOG_BODY_ERROR", "does not match expected root"}},
		{"keyless release, other image", with(keyless, func(c *claim) { c.artifact = other }), [3]string{notAsked, notAsked, "provided artifact digests do not match digests in statement"}},
	}
	var results []interop.Result
	for i, judge := range judges(t) {
		for _, test := range tests {
			want := test.words[i]
			if want == notAsked {
				continue
			}
			out := judge.ask(t, test.claim)
			said := strings.TrimSpace(out.Stdout + out.Stderr)
			if (out.Code == 0) != (want == "") || !strings.Contains(said, want) {
				t.Errorf("%s, %s: exit %d, want %q:\n%s", judge.name, test.what, out.Code, want, said)
			}
			results = append(results, interop.Result{Who: judge.name, What: test.what, Want: verdict(want), Said: want})
		}
	}
	compareTable(t, "ours", results)
}
