//go:build interop

package interop_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/interop"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// attest has cosign sign a statement about an image, and returns the bundle's file.
func attest(t *testing.T, env []string, image string, how ...string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "cosign.json")
	if out := runCosign(t, env, append(append([]string{"attest-blob", "--yes", "--bundle", bundle}, how...), image)...); out.Code != 0 {
		t.Fatalf("cosign attest-blob: exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	return bundle
}

// statementOf is the release statement that cordon-sign would sign, and nothing is published by asking.
func statementOf(t *testing.T, s *demo.Stage, version, image string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "dry.json")
	_, said := publish(t, s, version, image, "--key", "publisher.pem", "--dry-run", "--bundle-out", bundle)
	if !strings.Contains(said, string(reason.PublisherRefused)) {
		t.Fatalf("dry run: %s", said)
	}
	var doc struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(readFile(t, bundle), &doc); err != nil {
		t.Fatal(err)
	}
	return keep(t, "statement.json", doc.Envelope.Payload)
}

// importKey gives cosign the story's publisher key in its own format.
func importKey(t *testing.T, s *demo.Stage) string {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "imported")
	if out := runCosign(t, nil, "import-key-pair", "--key", s.Path("publisher.pem"), "--output-key-prefix", prefix); out.Code != 0 {
		t.Fatalf("cosign import-key-pair: %s%s", out.Stdout, out.Stderr)
	}
	return prefix + ".key"
}

// What cosign makes, server and device take where the policy allows it, and refuse where not. The policy wants two
// publishers, so that each release is cosign's and cordon-sign's together.
func TestCosignBundlesAreJudgedByThePolicy(t *testing.T) {
	t.Parallel()
	s := newStage(t, demo.StageConfig{})
	sigstore := parts.TestSigstore(t)
	stranger := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: sigstore.OIDC})
	d := s.Updated("device")
	id := sigstore.OIDC.GitHub.Identity(parts.Job{})
	setPolicy(t, s, policyOf("2", id), sigstore.TrustedRoot())

	kernels := parts.TestKernels(t)
	image := parts.TestUKI(t, parts.UKISpec{Version: "1.1", Kernel: kernels[1]})
	statement := statementOf(t, s, "1.1", image)
	// cosign asks GitHub's token service for its identity by itself, as in a workflow.
	workflow := func(job parts.Job) []string { return sigstore.OIDC.ActionsEnvironment(job) }
	by := func(s *parts.Sigstore) []string {
		return []string{"--signing-config", s.SigningConfig(), "--trusted-root", s.TrustedRoot(), "--statement", statement}
	}
	key := importKey(t, s)
	noServices := keep(t, "none.json", []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`))
	blob := filepath.Join(t.TempDir(), "blob.json")
	signBlob := append([]string{"sign-blob", "--yes", "--bundle", blob}, by(sigstore)[:4]...)
	if out := runCosign(t, workflow(parts.Job{}), append(signBlob, image)...); out.Code != 0 {
		t.Fatalf("cosign sign-blob: %s", out.Stderr)
	}
	predicate := keep(t, "predicate.json", []byte(`{"product":"gateway","version":"1.1"}`))

	ourKey := []string{"--key", "publisher.pem"}
	token, err := sigstore.OIDC.GitHub.Token(parts.Job{})
	if err != nil {
		t.Fatal(err)
	}
	ourWorkflow := []string{"--signing-config", sigstore.SigningConfig(), "--identity-token-file", keep(t, "token", []byte(token))}
	tests := []struct {
		what, bundle string
		ours         []string // how cordon-sign adds its own bundle
		words        string   // empty: accepted
	}{
		{"attest-blob --statement from another tag", attest(t, workflow(parts.Job{Ref: "refs/tags/v1.0-rc1"}), image, by(sigstore)...), ourKey, "wrong ref"},
		{"attest-blob --statement from a fork", attest(t, workflow(parts.Job{Repository: "mallory/gateway"}), image, by(sigstore)...), ourKey, "wrong repository"},
		{"attest-blob --statement with another Sigstore", attest(t, workflow(parts.Job{}), image, by(stranger)...), ourKey, "bundle 2 of 2"},
		{"attest-blob --predicate, statement in cosign's words", attest(t, workflow(parts.Job{}), image,
			append(by(sigstore)[:4], "--predicate", predicate, "--type", artifacts.PredicateType)...), ourKey, "does not sign a release statement"},
		{"sign-blob", blob, ourKey, "it signs an image, not a statement"},
		{"attest-blob --statement with the key that signed already", attest(t, nil, image, "--key", key, "--signing-config", noServices, "--statement", statement), ourKey, "1 of the 2 different publishers"},
		{"attest-blob --statement with the publisher's key", attest(t, nil, image, "--key", key, "--signing-config", noServices, "--statement", statement), append(ourWorkflow, "--dry-run"), ""},
		{"attest-blob --statement with the publisher's key, logged", attest(t, nil, image, append(by(sigstore), "--key", key)...), append(ourWorkflow, "--dry-run"), ""},
		{"attest-blob --statement from the workflow", attest(t, workflow(parts.Job{}), image, by(sigstore)...), ourKey, ""},
	}
	var results []interop.Result
	for _, test := range tests {
		code, said := publish(t, s, "1.1", image, append(test.ours, "--bundle", test.bundle)...)
		if (code == 0) != (test.words == "") || !strings.Contains(said, test.words) || (code != 0 && !strings.Contains(said, string(reason.PublisherRefused))) {
			t.Errorf("%s: exit %d, want %q:\n%s", test.what, code, test.words, said)
		}
		results = append(results, interop.Result{Who: "cosign " + parts.CosignVersion(), What: test.what, Want: verdict(test.words), Said: test.words})
	}
	if step := d.Agent(); step.Staged != "gateway/1.1" {
		t.Errorf("the device should have verified and installed the release of both, got %s", step)
	}
	compareTable(t, "cosign", results)
}
