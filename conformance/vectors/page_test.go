package vectors_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

func compact(t *testing.T, b []byte) []byte {
	t.Helper()
	v := jsontext.Value(b)
	if len(v) == 0 {
		return nil
	}
	if err := v.Compact(); err != nil {
		t.Fatal(err)
	}
	return v
}

const pageHead = `# Negative cases

What an attestation verifier must refuse, case by case, and what cordon says. This page is generated from the cases in
` + "`attestation/evidencetest`" + ` and from ` + "`conformance/vectors`" + `; a test compares them. The same cases lie as files in
` + "`conformance/vectors/negative`" + `, so that any verifier can be asked about them.

- **refused**: a verdict with the reasons beside it, all of them, in this order.
- **undecidable**: an error. The verifier's own side is incomplete: nobody passes and nobody is quarantined.
- **affirmed**: it looks odd and nothing is wrong. Strictness must not mean refusing everything.

Nothing of the stages document, input and authentic can quarantine a device, because anybody can send bad bytes in its
name: a test combines each of those cases with a device that really booted something else.

Each rule of the verifier is a row of one table. A test drops each row in turn and demands that a case below notices; it
fails for a rule without such a case.

## Asking another verifier

A vector file holds one ` + "`question`" + ` and its ` + "`answer`" + `. A verifier that reads one question per line on its standard input
and writes one answer per line on its standard output can be asked all of them:
` + "`go run ./conformance run --vectors conformance/vectors/negative -- COMMAND ARGS`" + `. Without a command cordon's own verifier
is asked.

| member of a question | what |
|---|---|
| ` + "`name`" + ` | name of the vector; the answer repeats it |
| ` + "`input`" + ` | Evidence with what the verifier knows beside it: registered key, binding, last accepted quote, expected releases, baseline, policy |
| ` + "`log`" + ` | the event log that the verifier has, base64; absent when it has none |
| ` + "`document`" + ` | instead of input: bytes that are said to be an Evidence document, base64 |
| ` + "`ek`, `certify`" + ` | instead of input: an endorsement certificate or a certified key; see [the suite](suite.md#what-a-case-file-holds) |

An answer is ` + "`{\"name\": ..., \"outcome\": \"affirmed\" | \"refused\" | \"undecidable\", \"reasons\": [...]}`" + `; a verifier with other
reasons, or none, leaves them out. Exit 0 when nothing was wrongly accepted and nothing wrongly refused, 1 otherwise, 3
when the verifier could not be asked.
`

func TestPageIsCurrent(t *testing.T) {
	t.Parallel()
	want := page(t, readRecorded(t))
	if *update {
		if err := os.WriteFile(pagePath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not current; run: go test ./conformance/vectors -update\n%s", pagePath, diff)
	}
}

func page(t *testing.T, r recorded) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString(r.chapter(t))
	for _, s := range []struct {
		stage evidencetest.Stage
		title string
	}{
		{evidencetest.StageDocument, "Bytes that are no Evidence"}, {evidencetest.StageInput, "A verifier that does not know what to look for"},
		{evidencetest.StageAuthentic, "Evidence that is not authentic, not fresh, or covers too little"},
		{evidencetest.StageState, "Authentic Evidence of a wrong state, or of an open one"}, {evidencetest.StageAffirmed, "Odd and not wrong"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| case | what is done | outcome | %s |\n|---|---|---|---|---|\n", s.title, strings.Join(libraries, " | "))
		for _, c := range evidencetest.CasesOf(s.stage) {
			about := c.About
			if c.Note != "" {
				about += " (" + c.Note + ")"
			}
			fmt.Fprintf(&b, "| %s %s | %s | %s%s%s |\n", c.ID, c.Name, about, c.Outcome(), reasons(c.Reasons), r.cells(c))
		}
	}
	b.WriteString(identityChapter())
	b.WriteString("\n## Held by tests of other layers\n\nEnrollment, challenges, the server's state and the road of an artifact are no matter of one appraisal.\n\n| case | what | tests |\n|---|---|---|\n")
	for _, p := range vectors.Elsewhere() {
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", p.Case, p.About, strings.Join(p.Tests, "`, `"))
	}
	if len(vectors.NotHeld()) > 0 {
		b.WriteString("\n## Held by nothing yet\n\n| case | what | why |\n|---|---|---|\n")
	}
	for _, m := range vectors.NotHeld() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.Case, m.About, m.Why)
	}
	return b.String()
}

func reasons(rs []reason.Reason) string {
	var out string
	for _, r := range rs {
		out += fmt.Sprintf(" [%s](reasons.md#%s)", r, r)
	}
	return out
}
