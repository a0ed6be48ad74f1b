// Package interop holds what cordon writes against programs of others, and what they write against cordon: tuf-js reads
// the Image repository, sigstore-js and cosign judge release bundles, cosign makes bundles that cordon judges.
//
// It promises that every claim of conformance/docs/interop.md is a test here: the results are a table that the tests fill
// and compare with the page, so that a version that begins to disagree fails. The tests with the build tag interop need
// programs that take long to build and run in 'just test-interop'; the others run in 'just test'. Nobody trusts it.
package interop

import (
	"fmt"
	"slices"
	"strings"
)

// Result is one row of the table.
type Result struct {
	Who  string // program of others, with its version
	What string // what was judged, by whom
	Want string // accepted or refused
	Said string // in the judge's own words when it refused
}

// Table is the results as a Markdown table, sorted.
func Table(results []Result) string {
	results = slices.Clone(results)
	slices.SortFunc(results, func(a, b Result) int {
		return strings.Compare(a.Who+"\x00"+a.What, b.Who+"\x00"+b.What)
	})
	var b strings.Builder
	b.WriteString("| program | what | result | in its words |\n|---|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(r.Who), cell(r.What), cell(r.Want), cell(r.Said))
	}
	return b.String()
}

// cell keeps text inside one cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ").Replace(strings.TrimSpace(text))
}
