package npm_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/conformance/npm"
)

func read(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// What npm fetches is named by digest, from whatever registry this machine uses, and runs nothing when it is installed.
func TestLockNamesExactlyWhatRuns(t *testing.T) {
	t.Parallel()
	var lock struct {
		Packages map[string]map[string]jsontext.Value `json:"packages"`
	}
	read(t, "package-lock.json", &lock)
	if len(lock.Packages) < 2 {
		t.Fatalf("got %d packages in the lock", len(lock.Packages))
	}
	for name, p := range lock.Packages {
		if name == "" {
			continue
		}
		if !strings.HasPrefix(string(p["integrity"]), `"sha512-`) {
			t.Errorf("%s has no SHA-512: %s", name, p["integrity"])
		}
		for _, member := range []string{"resolved", "hasInstallScript", "link"} {
			if _, ok := p[member]; ok {
				t.Errorf("%s has %q", name, member)
			}
		}
	}
	// Each direct dependency is pinned to one version, which is the one that results are told for.
	var manifest struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	read(t, "package.json", &manifest)
	for name := range manifest.Dependencies {
		version := npm.Version(name)
		locked := string(lock.Packages["node_modules/"+name]["version"])
		if version == "" || locked != `"`+version+`"` {
			t.Errorf("%s: package.json says %q, the lock %s", name, version, locked)
		}
	}
	if npm.Version("no-such-package") != "" {
		t.Error("a package that is not there has a version")
	}
}

func TestProgramsSayHowTheyAreUsed(t *testing.T) {
	t.Parallel()
	c, err := npm.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]func(args ...string) (int, string, error){
		"tuf": func(args ...string) (int, string, error) {
			out, err := c.TUF(t.Context(), "", args...)
			return out.Code, out.Stderr, err
		},
		"sigstore": func(args ...string) (int, string, error) {
			out, err := c.Sigstore(t.Context(), args...)
			return out.Code, out.Stderr, err
		},
	} {
		code, said, err := run("no-such-command")
		if err != nil || code != 2 || !slices.Contains(strings.FieldsFunc(said, func(r rune) bool { return r == ':' }), name+".mjs") {
			t.Errorf("%s: got exit %d, %q, %v, want usage", name, code, said, err)
		}
	}
}
