package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// reading is what one tool makes of a log, as far as both say the same things: the events ("index pcr sha256") and the
// registers of the SHA-256 bank.
type reading struct {
	Events []string
	PCRs   map[string]string
}

var (
	yamlIndex  = regexp.MustCompile(`^- EventNum: (\d+)$`)
	yamlPCR    = regexp.MustCompile(`^  PCRIndex: (\d+)$`)
	yamlBank   = regexp.MustCompile(`^  - AlgorithmId: (\w+)$`)
	yamlDigest = regexp.MustCompile(`^    Digest: "([0-9a-f]{64})"$`)
	yamlOf     = regexp.MustCompile(`^  (\w+):$`)
	yamlValue  = regexp.MustCompile(`^    (\d+) *: 0x([0-9a-f]{64})$`)
)

// byTPM2 reads the log with tpm2_eventlog.
func byTPM2(t *testing.T, file string) reading {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "tpm2_eventlog", file).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog: %v", err)
	}
	r := reading{PCRs: map[string]string{}}
	_, pcrs, _ := strings.Cut(string(out), "\npcrs:\n")
	bank := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if m := yamlIndex.FindStringSubmatch(line); m != nil {
			r.Events = append(r.Events, m[1])
		} else if m := yamlPCR.FindStringSubmatch(line); m != nil {
			r.Events[len(r.Events)-1] += " " + m[1]
		} else if m := yamlBank.FindStringSubmatch(line); m != nil {
			bank = m[1]
		} else if m := yamlDigest.FindStringSubmatch(line); m != nil && bank == "sha256" {
			r.Events[len(r.Events)-1] += " " + m[1]
		}
	}
	for line := range strings.Lines(pcrs) {
		line = strings.TrimRight(line, "\n")
		if m := yamlOf.FindStringSubmatch(line); m != nil {
			bank = m[1]
		} else if m := yamlValue.FindStringSubmatch(line); m != nil && bank == "sha256" {
			r.PCRs[m[1]] = m[2]
		}
	}
	return r
}

// byCordonctl reads the log with cordonctl eventlog --json.
func byCordonctl(t *testing.T, file string) reading {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "cordonctl", "eventlog", file, "--json").Output()
	if err != nil {
		t.Fatalf("cordonctl eventlog: %v", err)
	}
	var view struct {
		Events []struct {
			Index, PCR int
			Digests    struct{ SHA256 string }
		}
		PCRs struct{ SHA256 map[string]string }
	}
	if err := json.Unmarshal(out, &view, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	r := reading{PCRs: view.PCRs.SHA256}
	for _, e := range view.Events {
		line := strconv.Itoa(e.Index) + " " + strconv.Itoa(e.PCR)
		if e.Index > 0 { // the header is in the SHA-1 format
			line += " " + e.Digests.SHA256
		}
		r.Events = append(r.Events, line)
	}
	return r
}

// extendingNotes is PCR 0 as tpm2_eventlog 5.4 replays it: it extends EV_NO_ACTION events, which no TPM does, and starts
// from zeros whatever the startup locality was.
func extendingNotes(t *testing.T, b []byte) string {
	t.Helper()
	log, err := eventlog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var value digest.SHA256
	for _, e := range log.Events[1:] {
		if e.PCR == 0 {
			value = eventlog.Extend(value, e.Digest)
		}
	}
	return value.String()
}

// published are the values of PCR 0 that the machines had whose logs tpm2_eventlog 5.4 misreads, as far as go-tpm-tools
// publishes them (server/eventlog_test.go, also in go-eventlog).
var published = map[string]string{
	"go-eventlog/gdc-host.bin":              "dab77c454bd1",
	"go-eventlog/glinux-alex.bin":           "0e5ea849d764",
	"go-tpm-tools/eventlogwithsp800155.bin": "d0c70a9310cd",
}

// On every genuine log cordonctl and tpm2_eventlog read the same events and replay to the same registers. There are two
// exceptions: logs with SHA-1 digests only, which cordonctl refuses and says why, and PCR 0 of logs with EV_NO_ACTION
// events where tpm2_eventlog is of a version with the defect that extendingNotes repeats.
func TestEventlogAgreesWithTPM2Tools(t *testing.T) {
	t.Parallel()
	if err := parts.Require(t.Context(), t.Output(), "tpm2-tools"); err != nil {
		t.Fatal(err)
	}
	refused := map[string]bool{}
	for _, e := range eventlogtest.Expectations(t) {
		refused[e.Name] = e.Outcome != "parsed"
	}
	compared := 0
	for i, l := range eventlogtest.All(t) {
		file := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.WriteFile(file, l.Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		if refused[l.Name] {
			out, err := exec.CommandContext(t.Context(), "cordonctl", "eventlog", file).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "SHA-1 only") {
				t.Errorf("%s: got %v, %s; want a refusal that names SHA-1", l.Name, err, out)
			}
			continue
		}
		theirs, ours := byTPM2(t, file), byCordonctl(t, file)
		if theirs.PCRs["0"] != ours.PCRs["0"] && theirs.PCRs["0"] == extendingNotes(t, l.Bytes) {
			theirs.PCRs["0"] = ours.PCRs["0"]
		}
		if want := published[l.Name]; !strings.HasPrefix(ours.PCRs["0"], want) {
			t.Errorf("%s: PCR 0: got %s, want %s...", l.Name, ours.PCRs["0"], want)
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s (-tpm2_eventlog +cordonctl):\n%s", l.Name, diff)
		}
		compared++
	}
	if compared == 0 {
		t.Error("no log was compared")
	}
}

// A file that no log can be is not read to its end, and the path is doubted.
func TestEventlogDoubtsALargeFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<30); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "cordonctl", "eventlog", file).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "hint: ") {
		t.Errorf("got %v and %s, want exit 2 and a hint", err, out)
	}
}

// What a log does against the rules is said, to people and to programs, and does not keep the log from being shown.
func TestEventlogNamesBrokenRules(t *testing.T) {
	t.Parallel()
	l := evidencetest.NewLog()
	l.AddHashed(0, eventlog.TypeSCRTMVersion, []byte{0, 0})
	l.AddHashed(0, eventlog.TypeSeparator, make([]byte, 4))
	l.AddHashed(0, eventlog.TypeSeparator, make([]byte, 4))
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, l.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"eventlog", file}, []string{"REPLAYED VALUE", "in PCR 0: a second separator (separator-once)", "PCR 7 has no separator (separator-missing)"}},
		{[]string{"eventlog", file, "--json"}, []string{`"rule": "separator-once"`, `"event": 3`, `"departures": [`}},
	} {
		out, err := exec.CommandContext(t.Context(), "cordonctl", c.args...).Output()
		if err != nil {
			t.Fatalf("%v: %v", c.args, err)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%v: %q is not in\n%s", c.args, want, out)
			}
		}
	}
}
