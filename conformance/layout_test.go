package main_test

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the generated files that the tests compare")

const (
	module = "github.com/cordon-ota/cordon"
	root   = ".." // of the repository, seen from this package
)

// row says what the packages at and below a path may import of ours. An entry that ends in /... means the path and
// everything below it. The row with the longest path decides.
type row struct {
	path string
	may  []string
	why  string
}

// table is design section 4 (ADR 0001). A new edge needs a row here and an ADR.
var table = []row{
	{"attestation", []string{"attestation/..."}, "verdicts depend on nothing but their input"},
	{"artifacts", []string{"artifacts/...", "attestation/..."}, "artifacts may use attestation's plain types and nothing else"},
	{"client", []string{"attestation/...", "artifacts/...", "client", "client/wire", "client/tpm", "client/installer"}, "the device library stays embeddable"},
	{"client/wire", []string{"attestation/...", "artifacts/...", "client/wire"}, "wire types belong to both sides"},
	{"client/api", []string{"attestation/...", "artifacts/...", "client/wire", "client/api"}, "API types belong to both sides"},
	{"client/tpm", []string{"attestation/...", "artifacts/...", "client/wire", "client/tpm"}, "below the library"},
	{"client/installer", []string{"attestation/...", "artifacts/...", "client/wire", "client/installer"}, "below the library"},
	{"client/agent", []string{"attestation/...", "artifacts/...", "client", "client/wire", "client/tpm", "client/installer", "client/agent/..."}, "the agent is the library with a command line"},
	{"client/gateway", []string{"attestation/...", "artifacts/...", "client", "client/wire", "client/tpm", "client/installer", "client/gateway/..."}, "the gateway is a client"},
	{"client/ctl", []string{"attestation/...", "artifacts/...", "client/wire", "client/api", "client/ctl/..."}, "an auditor's tool never shares code with the server that it checks"},
	{"signer", []string{"attestation/...", "artifacts/...", "client/wire", "client/api", "signer/..."}, "the signer never imports the server"},
	{"server", []string{"attestation/...", "artifacts/...", "client/wire", "client/api", "server/..."}, "no path leads from the server to code that signs root or targets"},
	{"server/fleet", []string{"attestation/...", "artifacts/...", "server/fleet"}, "decisions are pure"},
	{"server/rollout", []string{"attestation/...", "artifacts/...", "server/fleet", "server/rollout"}, "decisions are pure"},
	{"conformance", []string{"attestation/...", "artifacts/...", "client/...", "signer/...", "conformance/...", "server/app"}, "conformance sees the server from outside, or through server/app"},
	{"conformance/parts", []string{"attestation/...", "artifacts/...", "conformance/parts"}, "the parts know nothing of what is tested with them"},
}

// pure packages decide: they have no clock, no network, no database, no logger.
var pure = []string{"attestation/...", "server/fleet", "server/rollout"}

type pkg struct {
	ImportPath   string
	Name         string
	Dir          string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func (p pkg) path() string { return short(p.ImportPath) }

func (p pkg) tests() bool { return strings.HasSuffix(p.Name, "test") }

// short is the path inside the module, "" for a package of others.
func short(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return rest
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out := command(t, "go", "list", "-json=ImportPath,Name,Dir,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	d := jsontext.NewDecoder(bytes.NewReader(out))
	var pkgs []pkg
	for {
		var p pkg
		err := json.UnmarshalDecode(d, &p)
		if err == io.EOF {
			return pkgs
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

func command(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

func matches(pattern, path string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == below || strings.HasPrefix(path, below+"/")
	}
	return path == pattern
}

func rowOf(path string) (row, bool) {
	var best row
	for _, r := range table {
		if matches(r.path+"/...", path) && len(r.path) > len(best.path) {
			best = r
		}
	}
	return best, best.path != ""
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		r, ok := rowOf(p.path())
		if !ok {
			t.Errorf("%s has no row in the import table", p.path())
			continue
		}
		for _, imported := range p.Imports {
			path := short(imported)
			if path == "" {
				continue
			}
			if !slices.ContainsFunc(r.may, func(pattern string) bool { return matches(pattern, path) }) {
				t.Errorf("%s imports %s: %s (row %s)", p.path(), path, r.why, r.path)
			}
			made := p.path() == "conformance/suite" && path == "attestation/evidencetest" // it asks servers about made evidence
			if strings.HasSuffix(path, "test") && !p.tests() && !made {
				t.Errorf("%s imports %s, which is for tests", p.path(), path)
			}
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if path := short(imported); matches("conformance/...", path) && path != "conformance/parts" && !matches("conformance/...", p.path()) {
				t.Errorf("a test of %s imports %s: only conformance/parts is for everybody's tests", p.path(), path)
			}
		}
	}
}

// Longest row wins, and an edge that the design forbids is found: the test of the test.
func TestImportTableForbids(t *testing.T) {
	t.Parallel()
	for _, edge := range [][2]string{
		{"server/app", "signer/ceremony"}, {"client/ctl/verify", "server/report"}, {"signer", "server/store"}, {"attestation", "artifacts"},
		{"artifacts/tufrepo", "client/wire"}, {"client", "client/api"}, {"client", "client/agent"}, {"server/fleet", "server/store"},
		{"conformance/demo", "server/store"}, {"conformance/parts", "client"}, {"client/wire", "client"},
	} {
		r, ok := rowOf(edge[0])
		if !ok || slices.ContainsFunc(r.may, func(pattern string) bool { return matches(pattern, edge[1]) }) {
			t.Errorf("the table allows %s to import %s", edge[0], edge[1])
		}
	}
}

var clocks = regexp.MustCompile(`\b(time\.(Now|Since|Until|After|AfterFunc|Sleep|NewTimer|NewTicker|Tick)|rand\.(Read|Reader|Int|N))\b`)

func TestDecisionsArePure(t *testing.T) {
	t.Parallel()
	forbidden := []string{"net", "net/http", "os", "os/exec", "io/ioutil", "database/sql", "log", "log/slog", "syscall", "crypto/tls", "context"}
	for _, p := range packages(t) {
		if p.tests() || !slices.ContainsFunc(pure, func(pattern string) bool { return matches(pattern, p.path()) }) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(forbidden, imported) {
				t.Errorf("%s is pure and imports %s", p.path(), imported)
			}
		}
		for _, file := range p.GoFiles {
			source := read(t, filepath.Join(p.Dir, file))
			// Making a credential is the one decision that needs randomness: it draws the seed that only the TPM can read.
			if found := clocks.Find(source); found != nil && p.path()+"/"+file != "attestation/identity/credential.go" {
				t.Errorf("%s/%s is pure and uses %s", p.path(), file, found)
			}
		}
	}
}

func TestEveryPackageSaysWhatItPromises(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 && p.path() != "conformance" {
			t.Errorf("%s holds nothing but tests", p.path())
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment begins with %q, want %q", p.path(), p.Doc, want)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tracked(t *testing.T) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(string(command(t, "git", "ls-files", "-z")), "\x00"), "\x00")
}

func TestTopLevelIsTheDesigns(t *testing.T) {
	t.Parallel()
	want := []string{"LICENSE", "README.md", "SECURITY.md", "artifacts", "attestation", "client", "conformance", "go.mod", "go.sum", "justfile", "server", "signer"}
	var got []string
	for _, path := range tracked(t) {
		top, _, _ := strings.Cut(path, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(got, top) {
			got = append(got, top)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("top-level entries differ (-design +repository):\n%s", diff)
	}
}

// The client goes into other people's products: each module that it brings along was looked at.
func TestClientBringsOnlyReviewedModules(t *testing.T) {
	t.Parallel()
	list := string(command(t, "go", "list", "-deps", "-f", "{{if not .Standard}}{{with .Module}}{{.Path}}{{end}}{{end}}", "./client"))
	modules := strings.Fields(list)
	slices.Sort(modules)
	compareFile(t, "client-deps.txt", strings.Join(slices.Compact(modules), "\n")+"\n")
	for _, p := range strings.Fields(string(command(t, "go", "list", "-deps", "./client"))) {
		for _, bad := range []string{"github.com/labstack/...", "github.com/minio/...", "database/sql", "modernc.org/...", "github.com/jackc/...", module + "/server/...", module + "/signer/..."} {
			if matches(bad, p) {
				t.Errorf("the client library brings %s along", p)
			}
		}
	}
}

// compareFile holds a file of this folder against what it has to be; -update writes it.
func compareFile(t *testing.T, name, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Errorf("%v; run: go test ./conformance -update", err)
		return
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not current (-want +file); run: go test ./conformance -update\n%s", name, diff)
	}
}

func TestSourceHasNoBackDoors(t *testing.T) {
	t.Parallel()
	// Written in two parts so that this file does not hold them.
	inTests := []string{"t." + "Skip(", "t." + "SkipNow(", "t." + "Skipf(", "b." + "Skip(", "testing." + "Short("}
	inProduct := []string{"Insecure" + "SkipVerify", "Without" + "IdentitiesUnsafe", "Without" + "ArtifactUnsafe", "Without" + "Integrated", "math/" + "rand\""}
	// The API client pins the server's CA by its digest: the standard check is replaced by the same check with that CA,
	// and client_test.go attacks it.
	pinned, check := "client/api/client.go", "VerifyConnection:   func(s tls.ConnectionState) error { return verifyPinned("
	unowned := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	owned := regexp.MustCompile(`TODO\(#[0-9]+\):`)
	for _, p := range packages(t) {
		for _, path := range goFiles(t, p.Dir) {
			name := p.path() + "/" + filepath.Base(path)
			source := string(read(t, path))
			isTest := strings.HasSuffix(path, "_test.go")
			for _, bad := range inTests {
				if isTest && strings.Contains(source, bad) {
					t.Errorf("%s has %s: a missing part fails the test, it does not skip it", name, bad)
				}
			}
			for _, bad := range inProduct {
				if name == pinned && bad == inProduct[0] && strings.Count(source, bad) == 1 && strings.Contains(source, check) {
					continue
				}
				if !isTest && !p.tests() && strings.Contains(source, bad) {
					t.Errorf("%s has %s", name, bad)
				}
			}
			for _, line := range strings.Split(source, "\n") {
				if unowned.MatchString(line) && !owned.MatchString(line) && name != "conformance/layout_test.go" {
					t.Errorf("%s: %q has no issue: write TODO(#123):", name, strings.TrimSpace(line))
				}
			}
		}
	}
}

func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
