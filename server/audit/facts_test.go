package audit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// literals returns the strings in a Go file that keep says are wanted.
func literals(t *testing.T, path string, keep func(ast.Node) []ast.Expr) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		for _, e := range keep(n) {
			if text, ok := e.(*ast.BasicLit); ok && text.Kind == token.STRING {
				out = append(out, strings.Trim(text.Value, `"`))
			}
		}
		return true
	})
	return out
}

// Package fleet is pure and cannot import the list of events, so it spells the types of its facts itself. A type that is
// not on the list would be in the log for good, and no auditor would look for it.
func TestFactsOfFleetAreOnTheList(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	for _, text := range literals(t, "audit.go", func(n ast.Node) []ast.Expr {
		if spec, ok := n.(*ast.ValueSpec); ok {
			return spec.Values
		}
		return nil
	}) {
		if listed[text] {
			t.Errorf("the event type %q is listed twice", text)
		}
		listed[text] = true
	}
	facts := literals(t, "../fleet/next.go", func(n ast.Node) []ast.Expr {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return nil
		}
		if method, ok := call.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "fact" {
			return call.Args[:1]
		}
		return nil
	})
	if len(facts) < 10 {
		t.Fatalf("found %d facts in package fleet, want at least 10", len(facts))
	}
	for _, text := range facts {
		if !listed[text] {
			t.Errorf("the fact %q of package fleet is no event type of the list", text)
		}
	}
}
