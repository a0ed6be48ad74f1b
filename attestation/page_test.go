package attestation_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

var update = flag.Bool("update", false, "rewrite the tables of rules in conformance/docs/verdicts.md")

const verdictPage = "../conformance/docs/verdicts.md"

// given lists which reasons each rule gives in the negative cases; "" stands for an error.
func given() map[string][]reason.Reason {
	out := map[string][]reason.Reason{}
	for _, c := range evidencetest.CasesOf(evidencetest.StageInput, evidencetest.StageAuthentic, evidencetest.StageState) {
		for rule, reasons := range attestation.Heard(c.Input()) {
			for _, r := range reasons {
				if !slices.Contains(out[rule], r) {
					out[rule] = append(out[rule], r)
				}
			}
		}
	}
	for _, reasons := range out {
		slices.Sort(reasons)
	}
	return out
}

// The auditor's page lists every rule, in the order in which they are asked.
func TestVerdictPageListsEveryRule(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(verdictPage)
	if err != nil {
		t.Fatal(err)
	}
	got, reasons := string(page), given()
	want := got
	for _, stage := range []string{"input", "authentic", "state"} {
		var b strings.Builder
		b.WriteString("| rule | what must hold | otherwise |\n|---|---|---|\n")
		for _, row := range attestation.RuleRows() {
			if row.Stage == stage {
				if len(reasons[row.ID]) == 0 {
					t.Errorf("no negative case is refused by %s", row.ID)
				}
				fmt.Fprintf(&b, "| %s | %s | %s |\n", row.ID, row.About, otherwise(reasons[row.ID]))
			}
		}
		begin, end := "<!-- rules of "+stage+" -->\n", "<!-- end of "+stage+" -->\n"
		head, rest, ok := strings.Cut(want, begin)
		_, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("the page has no place for the rules of %s", stage)
		}
		want = head + begin + b.String() + end + tail
	}
	if *update {
		if err := os.WriteFile(verdictPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("run: go test ./attestation -update (-want +page)\n%s", diff)
	}
}

func otherwise(reasons []reason.Reason) string {
	var links []string
	for _, r := range reasons {
		if r == "" {
			links = append(links, "error: could not decide")
			continue
		}
		links = append(links, fmt.Sprintf("[%s](reasons.md#%s)", r, r))
	}
	return strings.Join(links, ", ")
}
