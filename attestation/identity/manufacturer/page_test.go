package manufacturer_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/identity/manufacturer"
)

var update = flag.Bool("update", false, "rewrite the table in conformance/docs/manufacturers.md")

const page = "../../../conformance/docs/manufacturers.md"

// The page lists every certificate with where it came from.
func TestPageListsEveryCertificate(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- certificates -->\n", "<!-- end of certificates -->\n"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table")
	}
	var table strings.Builder
	table.WriteString("| name | speaks for | subject | ends | SHA-256 | taken from | the same at |\n|---|---|---|---|---|---|---|\n")
	for _, e := range manufacturer.Table() {
		cert, err := e.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		confirmed := e.Confirmed
		if confirmed == "" {
			confirmed = "nobody else who was asked"
		}
		fmt.Fprintf(&table, "| %s | `%s` | %s | %s | `%s` | %s | %s |\n", e.Name, e.Manufacturer, cert.Subject.CommonName, e.NotAfter, e.SHA256, e.Source, confirmed)
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("run: go test ./attestation/identity/manufacturer -update (-want +page)\n%s", diff)
	}
}
