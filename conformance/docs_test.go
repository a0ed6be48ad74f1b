package main_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
)

// pages returns every Markdown file of the repository's face, as paths from the root.
func pages(t *testing.T) []string {
	t.Helper()
	out := []string{"README.md", "SECURITY.md"}
	err := filepath.WalkDir(filepath.Join(root, "conformance", "docs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var rel string
			if rel, err = filepath.Rel(root, path); err == nil {
				out = append(out, filepath.ToSlash(rel))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func page(t *testing.T, path string) string {
	t.Helper()
	return string(read(t, filepath.Join(root, filepath.FromSlash(path))))
}

var (
	fence   = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the fragments that a page offers, as GitHub makes them.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		var b strings.Builder
		for _, r := range strings.ToLower(m[1]) {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '-':
				b.WriteRune(r)
			case r == ' ':
				b.WriteByte('-')
			}
		}
		out = append(out, b.String())
	}
	return out
}

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	for _, path := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page(t, path), ""), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: link %q: %v", path, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue
			}
			target := path
			if u.Path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(path), u.Path))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: link %q leads nowhere", path, m[1])
				continue
			}
			if u.Fragment != "" && !slices.Contains(anchors(page(t, target)), u.Fragment) {
				t.Errorf("%s: link %q: %s has no such heading", path, m[1], target)
			}
		}
	}
}

func TestREADMELinksEveryPage(t *testing.T) {
	t.Parallel()
	_, section, ok := strings.Cut(page(t, "README.md"), "\n## Documentation\n")
	if !ok {
		t.Fatal("README.md has no section Documentation")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, path := range pages(t)[2:] {
		if !strings.Contains(section, "]("+path+")") {
			t.Errorf("the Documentation table does not link %s", path)
		}
	}
}

var recipe = regexp.MustCompile(`(?m)^([a-z][a-z-]*)(?: [^:=\n]*)?:(?:[^=]|$)`)

func TestCommandsOfTheREADMEAreRecipes(t *testing.T) {
	t.Parallel()
	var recipes []string
	for _, m := range recipe.FindAllStringSubmatch(page(t, "justfile"), -1) {
		recipes = append(recipes, m[1])
	}
	used := regexp.MustCompile("(?:rust-just|`just|^just) ([a-z][a-z-]*)")
	for _, path := range pages(t) {
		for _, line := range strings.Split(page(t, path), "\n") {
			for _, m := range used.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(recipes, m[1]) {
					t.Errorf("%s: %q is no recipe of the justfile (%q)", path, m[1], recipes)
				}
			}
		}
	}
	readme := page(t, "README.md")
	for _, command := range []string{"npx --yes rust-just demo", "npx --yes rust-just test"} {
		if !strings.Contains(readme, "\n"+command+"\n") {
			t.Errorf("README.md does not give the command %q", command)
		}
	}
	if ci := page(t, ".ci/run"); !strings.Contains(ci, "npx --yes rust-just test") {
		t.Error(".ci/run does not run the README's test command")
	}
}

// The README's device section is compiled: it is the body of the package's example.
func TestREADMEShowsTheCompiledExample(t *testing.T) {
	t.Parallel()
	set := token.NewFileSet()
	source := page(t, "client/example_test.go")
	file, err := parser.ParseFile(set, "example_test.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "Example" {
			continue
		}
		body := source[set.Position(f.Body.Lbrace).Offset+2 : set.Position(f.Body.Rbrace).Offset]
		var want []string
		for _, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
			want = append(want, strings.TrimPrefix(line, "\t"))
		}
		block := "```go\n" + strings.Join(want, "\n") + "\n```"
		if !strings.Contains(page(t, "README.md"), block) {
			t.Errorf("README.md does not hold the body of client.Example:\n%s", block)
		}
		return
	}
	t.Error("client/example_test.go has no function Example")
}

func TestReasonPageIsTheTable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(reasonsHead)
	for _, row := range reason.All() {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n- Severity: %s\n- Effect: %s\n- Remedy: %s\n", row.Reason, row.Title, row.Severity, row.Effect, row.Remedy)
	}
	compareFile(t, filepath.Join("docs", "reasons.md"), b.String())
}

const reasonsHead = `# Reasons

This page is made from the table in ` + "`attestation/reason/table.go`" + `; a test compares them. A reason is wire value, metric
label, audit field and anchor of this page at once. It is never renamed and never reused.

| effect | what it does |
|---|---|
| retry | try again, perhaps after the remedy; the device's standing does not change |
| hold | no update is offered until the cause is gone; the device is not restricted |
| quarantine | authentic, fresh Evidence proves a wrong state; sticky: only two people and a fresh pass end it |

A reason that a program does not know counts as hold: it must not let an update through, and must not quarantine either.
A device is told the reason and its remedy; what was expected and seen is for operators (` + "`cordonctl why`" + `).
`

const (
	configBegin = "<!-- made from server/config/config.go by: go test ./conformance -update -->\n"
	configEnd   = "<!-- end of the configuration -->\n"
)

// The configuration reference is made from the comments of the Config struct, which is its manual.
func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	path := filepath.Join("docs", "operations.md")
	text := string(read(t, path))
	head, rest, ok := strings.Cut(text, configBegin)
	_, tail, ok2 := strings.Cut(rest, configEnd)
	if !ok || !ok2 {
		t.Fatal("operations.md has no place for the configuration")
	}
	compareFile(t, path, head+configBegin+configuration(t)+configEnd+tail)
}

func configuration(t *testing.T) string {
	t.Helper()
	structs := map[string]*ast.StructType{}
	for _, path := range goFiles(t, filepath.Join(root, "server", "config")) {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	var b strings.Builder
	b.WriteString("\n| key | meaning |\n|---|---|\n")
	writeKeys(t, &b, structs, "Config", "")
	b.WriteString("\n")
	return b.String()
}

func writeKeys(t *testing.T, b *strings.Builder, structs map[string]*ast.StructType, name, prefix string) {
	t.Helper()
	for _, field := range structs[name].Fields.List {
		tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("toml")
		if ident, ok := field.Type.(*ast.Ident); ok && structs[ident.Name] != nil {
			writeKeys(t, b, structs, ident.Name, prefix+tag+".")
			continue
		}
		if list, ok := field.Type.(*ast.ArrayType); ok {
			if ident, ok := list.Elt.(*ast.Ident); ok && structs[ident.Name] != nil {
				writeKeys(t, b, structs, ident.Name, prefix+tag+"[].")
				continue
			}
		}
		meaning := strings.Join(strings.Fields(field.Doc.Text()), " ")
		if meaning == "" {
			t.Errorf("config key %s%s has no comment", prefix, tag)
		}
		fmt.Fprintf(b, "| `%s%s` | %s |\n", prefix, tag, strings.NewReplacer("<", "&lt;", ">", "&gt;", "|", "\\|").Replace(meaning))
	}
}

// Every metric is described, and every metric that is described exists.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`\bcordon_[a-z_]+\b`)
	var code, doc []string
	for _, path := range goFiles(t, filepath.Join(root, "server", "observe")) {
		for _, m := range regexp.MustCompile(`Name: "(cordon_[a-z_]+)"`).FindAllStringSubmatch(string(read(t, path)), -1) {
			code = append(code, m[1])
		}
	}
	doc = name.FindAllString(page(t, "conformance/docs/operations.md"), -1)
	slices.Sort(code)
	slices.Sort(doc)
	if doc = slices.Compact(doc); !slices.Equal(code, doc) {
		t.Errorf("operations.md has the metrics %q, the server has %q", doc, code)
	}
}

// The threat model names the test that proves each row; a name that no longer exists proves nothing.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile("`([a-z0-9/_]+\\.go):((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)`")
	found := 0
	for _, path := range pages(t) {
		for _, m := range named.FindAllStringSubmatch(page(t, path), -1) {
			found++
			source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m[1])))
			if err != nil || !strings.Contains(string(source), "func "+m[2]+"(") {
				t.Errorf("%s names %s in %s, which is not there", path, m[2], m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no page names a test")
	}
	threats := fence.ReplaceAllString(page(t, "conformance/docs/threat-model.md"), "")
	for _, line := range strings.Split(threats, "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 5 || strings.TrimSpace(cells[0]) == "asset" {
			continue
		}
		if last := cells[len(cells)-1]; !named.MatchString(last) && !strings.Contains(last, "**open**") {
			t.Errorf("threat-model.md: a row has neither a test nor the word open: %s", line)
		}
	}
}

// Commands in the pages use flags that exist.
func TestCommandsOfThePagesHaveTheirFlags(t *testing.T) {
	t.Parallel()
	folders := map[string][]string{
		"cordon-sign": {"signer"}, "cordond": {"server/app"}, "cordon-agent": {"client/agent"}, "cordonctl": {"client/ctl"},
		"conformance": {"conformance", "conformance/device"},
	}
	flags := regexp.MustCompile(`--([a-z][a-z0-9-]*)`)
	for _, path := range pages(t) {
		for _, block := range fence.FindAllStringSubmatch(page(t, path), -1) {
			if block[1] == "text" {
				continue // a picture
			}
			for _, line := range strings.Split(strings.ReplaceAll(block[2], "\\\n", " "), "\n") {
				fields := strings.Fields(line)
				if len(fields) == 0 || folders[fields[0]] == nil {
					continue
				}
				source := sources(t, folders[fields[0]])
				for _, m := range flags.FindAllStringSubmatch(line, -1) {
					if !strings.Contains(source, `"`+m[1]+`"`) {
						t.Errorf("%s: %s has no flag --%s: %s", path, fields[0], m[1], line)
					}
				}
				for _, word := range fields[1:] {
					if strings.HasPrefix(word, "-") || word != strings.ToLower(word) || strings.ContainsAny(word, "./:=") {
						break
					}
					if !strings.Contains(source, `"`+word) {
						t.Errorf("%s: %s has no command %s: %s", path, fields[0], word, line)
					}
					if regexp.MustCompile(`"` + word + ` [A-Z]`).MatchString(source) {
						break // what follows are its arguments
					}
				}
			}
		}
	}
}

func sources(t *testing.T, folders []string) string {
	t.Helper()
	var b strings.Builder
	for _, folder := range folders {
		for _, path := range goFiles(t, filepath.Join(root, folder)) {
			b.Write(read(t, path))
		}
	}
	return b.String()
}
