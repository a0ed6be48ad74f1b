package interop_test

import (
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/interop"
	"github.com/cordon-ota/cordon/conformance/npm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

func newStage(t *testing.T, c demo.StageConfig) *demo.Stage {
	t.Helper()
	c.Bin = programs.Dir(t)
	return demo.NewStage(t, c)
}

func javascript(t *testing.T) npm.Client {
	t.Helper()
	c, err := npm.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// trustOf is the trust bundle of a stage: what a device starts from, and these clients too.
func trustOf(t *testing.T, s *demo.Stage) wire.Trust {
	t.Helper()
	trust, err := wire.DecodeTrust(readFile(t, s.Path("trust.json")))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keep writes a file of the test's own and returns its path.
func keep(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// release publishes with cordon-sign and returns the bundle's file.
func release(t *testing.T, s *demo.Stage, version, image string, how ...string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle.json")
	if code, said := publish(t, s, version, image, append(how, "--bundle-out", bundle)...); code != 0 {
		t.Fatalf("publish %s: exit %d\n%s", version, code, said)
	}
	return bundle
}

func publish(t *testing.T, s *demo.Stage, version, image string, how ...string) (code int, said string) {
	t.Helper()
	args := append([]string{
		"publish", "--server", s.AdminURL(), "--ca-sha256", pin(t, trustOf(t, s)), "--token-file", s.Path("ci-builder.token"), "--product", "gateway",
		"--version", version, "--component", "system=" + image + ",hw=board-a,installer=ab",
	}, how...)
	code, stdout, stderr := s.Run("cordon-sign", args...)
	return code, stdout + stderr
}

// ceremony runs lines of cordon-sign in the folder of the holders.
func ceremony(t *testing.T, s *demo.Stage, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if code, stdout, stderr := s.Run("cordon-sign", strings.Fields(line)...); code != 0 {
			t.Fatalf("cordon-sign %s: exit %d\n%s%s", line, code, stdout, stderr)
		}
	}
}

// pin is the SHA-256 of the server's CA.
func pin(t *testing.T, trust wire.Trust) string {
	t.Helper()
	block, _ := pem.Decode([]byte(trust.ServerCA))
	if block == nil {
		t.Fatal("the server's CA is not PEM")
	}
	return digest.Of(block.Bytes).String()
}

var update = flag.Bool("update", false, "rewrite the tables of conformance/docs/interop.md")

// page is where the results stand.
var page = filepath.Join("..", "docs", "interop.md")

// tables keeps two tests from writing the page at once.
var tables sync.Mutex

// compareTable holds the named table of the page against results; -update writes it.
func compareTable(t *testing.T, name string, results []interop.Result) {
	t.Helper()
	tables.Lock()
	defer tables.Unlock()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	text := string(readFile(t, page))
	head, rest, ok := strings.Cut(text, begin)
	have, tail, found := strings.Cut(rest, end)
	if !ok || !found {
		t.Fatalf("%s has no table %q", page, name)
	}
	want := interop.Table(results)
	if *update {
		if err := os.WriteFile(page, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("table %q of %s is not current (-want +page); run: go test -tags interop ./conformance/interop -update\n%s", name, page, diff)
	}
}

// The first table of the page names the versions that the tests run.
func TestPageNamesTheVersions(t *testing.T) {
	t.Parallel()
	text := string(readFile(t, page))
	for program, version := range map[string]string{
		"tuf-js": npm.Version("tuf-js"), "sigstore-js (`@sigstore/verify`)": npm.Version("@sigstore/verify") + " and " + npm.Version("sigstore-verify-4"),
		"cosign": parts.CosignVersion(), "Fulcio": parts.FulcioVersion(), "Rekor v2": parts.RekorVersion(),
		"timestamp-authority": parts.TimestampVersion(), "versitygw": parts.VersityVersion(), "MinIO": parts.MinIOVersion(),
	} {
		if row := "| " + program + " | " + version + " |"; version == "" || !strings.Contains(text, row) {
			t.Errorf("%s has no row %q", page, row)
		}
	}
}

// verdict: a judge that has nothing to say accepts.
func verdict(words string) string {
	if words == "" {
		return "accepted"
	}
	return "refused"
}
