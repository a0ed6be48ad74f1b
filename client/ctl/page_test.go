package main_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

var update = flag.Bool("update", false, "rewrite the outputs in conformance/docs/verdicts.md, and make conformance/vectors/report if it is not there")

const (
	repository  = "../.."
	verdictPage = repository + "/conformance/docs/verdicts.md"
	reportKept  = repository + "/conformance/vectors/report"
)

// example is a command of a page and what the page says that it prints.
var example = regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```text\n(.*?)```\n")

// The worked example of the auditor's page is what the program prints, character by character, about files that are
// kept: a report of years ago must stay verifiable, so nothing makes them anew.
func TestVerdictPageShowsWhatIsPrinted(t *testing.T) {
	t.Parallel()
	keepReport(t)
	page, err := os.ReadFile(verdictPage)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	examples := example.FindAllStringSubmatch(text, -1)
	for _, x := range examples {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", x[1])
		cmd.Dir = repository
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", x[1], err)
		}
		if *update {
			text = strings.Replace(text, x[0], strings.Replace(x[0], "```text\n"+x[2], "```text\n"+string(out), 1), 1)
			continue
		}
		if diff := cmp.Diff(x[2], string(out)); diff != "" {
			t.Errorf("%s\n(-page +printed; run: go test ./client/ctl -update)\n%s", x[1], diff)
		}
	}
	if len(examples) < 5 || strings.Count(text, "```sh\n") != len(examples) {
		t.Errorf("the page has %d commands with an output, want one for each of at least 5", len(examples))
	}
	if *update {
		if err := os.WriteFile(verdictPage, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// keepReport makes the kept report once.
func keepReport(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(reportKept, "day.json")); !*update || !errors.Is(err, fs.ErrNotExist) {
		return
	}
	w := world()
	trust, err := json.Marshal(w.Trust)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"day.json": w.Sign(w.Report()), "trust.json": trust, "ek-roots.pem": w.EKRootPEM} {
		if err := os.WriteFile(filepath.Join(reportKept, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What the page reckons by hand is what a TPM does: the events of PCR 4 lead, step by step, to a value that the quote of
// the example covers.
func TestVerdictPageReckonsAsATPMDoes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(verdictPage)
	if err != nil {
		t.Fatal(err)
	}
	day, err := os.ReadFile(filepath.Join(reportKept, "day.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, report, err := verify.Decode(day)
	if err != nil {
		t.Fatal(err)
	}
	evidence := report.Appraisals[3].Input.Evidence
	log, err := eventlog.Parse(report.Logs[evidence.LogDigest.String()])
	if err != nil {
		t.Fatal(err)
	}
	var value digest.SHA256
	steps := "| event | its digest | PCR 4 afterwards |\n|---|---|---|\n"
	for _, e := range log.Events {
		if e.PCR == 4 && e.Extends() {
			value = sha256.Sum256(append(value[:], e.Digest[:]...))
			steps += fmt.Sprintf("| %d | %s | %s |\n", e.Index, e.Digest, value)
		}
	}
	var values []byte
	for _, p := range evidence.PCRs {
		values = append(values, p.Value[:]...)
		if p.Index == 4 && p.Value != value {
			t.Errorf("PCR 4: reckoned %s, quoted %s", value, p.Value)
		}
	}
	if composite := sha256.Sum256(values); !bytes.HasSuffix(evidence.Quote, composite[:]) || len(evidence.PCRs) != 12 {
		t.Errorf("the quote ends with %x, want the SHA-256 of 12 values, %x", evidence.Quote, composite)
	}
	if !strings.Contains(string(page), "<!-- PCR 4 by hand -->\n"+steps+"<!-- end -->\n") {
		t.Errorf("the page does not reckon with\n%s", steps)
	}
}

// A kept report is as good as a new one: one changed byte is found.
func TestKeptReportCannotBeChanged(t *testing.T) {
	t.Parallel()
	day, err := os.ReadFile(filepath.Join(reportKept, "day.json"))
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.json")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(day), verifytest.Product+"/1.1.0", verifytest.Product+"/1.1.1", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "cordonctl", "verify", changed, "--trust", filepath.Join(reportKept, "trust.json")).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "FAIL signature") {
		t.Errorf("got %v, %s; want exit 1 at step signature", err, out)
	}
}
