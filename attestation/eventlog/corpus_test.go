package eventlog_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
)

var update = flag.Bool("update", false, "rewrite conformance/vectors/logs/corpus.json and the tables of conformance/docs/event-logs.md")

// examine is what the parser makes of one log.
func examine(l eventlogtest.Log) (eventlogtest.Expectation, []eventlog.Violation, error) {
	e := eventlogtest.Expectation{Name: l.Name, SHA256: l.SHA256, Outcome: "parsed"}
	log, err := eventlog.Parse(l.Bytes)
	if errors.Is(err, eventlog.ErrFormat) {
		e.Outcome = "refused by policy: SHA-1 only"
		return e, nil, nil
	}
	if err != nil {
		return e, nil, err
	}
	e.Events = len(log.Events)
	for _, event := range log.Events {
		if strings.HasPrefix(event.Explain(), eventlog.Unexplained) {
			e.Unexplained = append(e.Unexplained, fmt.Sprintf("%d %s", event.Index, event.TypeName()))
		}
	}
	for _, v := range log.Departures() {
		if !slices.Contains(e.Departures, v.Rule) {
			e.Departures = append(e.Departures, v.Rule)
		}
	}
	e.PCRs = map[string]digest.SHA256{}
	for pcr, value := range log.Replay() {
		e.PCRs[strconv.Itoa(pcr)] = value
	}
	return e, log.Violations(), nil
}

// Every genuine log is parsed, replayed and explained as corpus.json says, none breaks a rule, and none is refused except
// by the policy against SHA-1.
func TestGenuineLogsAreAccepted(t *testing.T) {
	t.Parallel()
	var got []eventlogtest.Expectation
	for _, l := range eventlogtest.All(t) {
		e, violations, err := examine(l)
		if err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
		for _, v := range violations {
			t.Errorf("%s breaks rule %s: %s", l.Name, v.Rule, v.Detail)
		}
		got = append(got, e)
	}
	if *update {
		b, err := json.Marshal(got, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(eventlogtest.ExpectationsFile(t), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(eventlogtest.Expectations(t), got); diff != "" {
		t.Errorf("go test ./attestation/eventlog -update rewrites corpus.json (-corpus +got):\n%s", diff)
	}
}

const (
	docsPage  = "../../conformance/docs/event-logs.md"
	generated = "<!-- what follows is written by: go test ./attestation/eventlog -update -->\n"
)

// tables are the tables of the page: rules and corpus.
func tables(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	parse, violations, departures := eventlog.Rules()
	for _, part := range []struct {
		title string
		rules []eventlog.Rule
	}{
		{"Rules for EV_NO_ACTION: the log is refused as malformed", parse},
		{"Rules of agreement and grammar", violations},
		{"Rules of PC Client firmware", departures},
	} {
		fmt.Fprintf(&b, "## %s\n\n| rule | what it demands |\n|---|---|\n", part.title)
		for _, r := range part.rules {
			fmt.Fprintf(&b, "| %s | %s |\n", r.Name, r.Demands)
		}
		b.WriteString("\n")
	}
	b.WriteString("## Genuine logs\n\n| log | events | not explained | departs from |\n|---|---|---|---|\n")
	for _, e := range eventlogtest.Expectations(t) {
		if e.Outcome != "parsed" {
			fmt.Fprintf(&b, "| %s | %s | | |\n", e.Name, e.Outcome)
			continue
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", e.Name, e.Events, strings.Join(e.Unexplained, ", "), strings.Join(e.Departures, ", "))
	}
	return b.String()
}

func TestPageHasTheRulesAndTheLogs(t *testing.T) {
	page, err := os.ReadFile(docsPage)
	if err != nil {
		t.Fatal(err)
	}
	hand, got, ok := strings.Cut(string(page), generated)
	if !ok {
		t.Fatalf("the page does not say what is generated: %q", generated)
	}
	want := tables(t)
	if *update {
		if err := os.WriteFile(docsPage, []byte(hand+generated+"\n"+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff("\n"+want, got); diff != "" {
		t.Errorf("go test ./attestation/eventlog -update rewrites the tables (-want +got):\n%s", diff)
	}
}
