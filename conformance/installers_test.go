package main_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
)

// Statements, which do not import the agent's installers, and the page about them know the same kinds as the agent.
func TestInstallersAreKnownEverywhere(t *testing.T) {
	t.Parallel()
	kinds := words(installer.Kinds, `(?:^|, )([a-z]+):`)
	list := regexp.MustCompile(`installers = \[\.\.\.\]string\{(.*)\}`).FindString(page(t, "artifacts/validate.go"))
	for name, got := range map[string][]string{
		"artifacts/validate.go": words(list, `"([a-z]+)"`), "conformance/docs/installers.md": words(page(t, "conformance/docs/installers.md"), "(?m)^\\| `([a-z]+):"),
	} {
		if !slices.Equal(got, kinds) {
			t.Errorf("%s has the installers %s, the agent has %s", name, strings.Join(got, ", "), strings.Join(kinds, ", "))
		}
	}
}

// words are what an expression's group matches, in order and once each.
func words(text, expression string) []string {
	var out []string
	for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}
