package bench_test

import (
	"flag"
	"os"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/conformance/bench"
)

var out = flag.String("out", "", "write the figures to `FILE` (just bench); without it every contestant has one turn, to see that all can run")

// Budgets of the design, section 9.
const (
	coldToTPMTools      = 0.25
	coldToGoAttestation = 1.0
	maxColdBytes        = 100 << 10
	cachedToLeast       = 1.3
	maxCachedBytes      = 4 << 10
)

// turnsOfARecord is how many turns recorded figures are made of; the design asks for at least 7.
const turnsOfARecord = 11

// peer is a verifier of others in the race, with the ratio that cordon may reach.
type peer struct {
	bench.Contestant
	ceiling float64
}

// figures makes the document.
func figures(t *testing.T, turns int) bench.Document {
	t.Helper()
	in := realInput(t)
	contestants := []bench.Contestant{
		cold(in), least(t, in, "the log", in.Log),
		cached(t, in), least(t, in, "the Evidence without its log", withoutLog(t, in)),
	}
	own, others := len(contestants), peers(t, in)
	for _, p := range others {
		contestants = append(contestants, p.Contestant)
	}
	race, err := bench.Run(turns, contestants...)
	if err != nil {
		t.Fatal(err)
	}
	doc := bench.Document{Machine: bench.Here(), Turns: turns}
	doc.Figures = append(doc.Figures, race.Time(2), race.Bytes(2, maxCachedBytes), race.Ratio(2, 3, cachedToLeast),
		race.Time(0), race.Bytes(0, maxColdBytes), race.Ratio(0, 1, 0))
	for i, p := range others {
		doc.Figures = append(doc.Figures, race.Ratio(0, own+i, p.ceiling), race.Bytes(own+i, 0))
	}
	if len(others) == 0 {
		doc.LeftOut = append(doc.LeftOut, bench.LeftOut{
			Name: "cold appraisal against go-tpm-tools and go-attestation", Why: "built without the tag interop",
		})
	}
	return doc
}

// TestFigures makes the figures. No figure fails it.
func TestFigures(t *testing.T) {
	turns := 1
	if *out != "" {
		turns = turnsOfARecord
	}
	doc := figures(t, turns)
	b, err := json.Marshal(doc, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range doc.Figures {
		if f.Name == "" || f.Unit == "" || f.Value <= 0 || f.Unit == "ratio" && len(f.Of) != 2 {
			t.Errorf("an incomplete figure: %+v", f)
		}
	}
	if *out == "" {
		return
	}
	if err := os.WriteFile(*out, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What an appraisal allocates does not depend on the machine, so it is asserted.
func TestAppraisalsAllocateLittle(t *testing.T) {
	in := realInput(t)
	for _, c := range []struct {
		bench.Contestant
		most float64
	}{{cold(in), maxColdBytes}, {cached(t, in), maxCachedBytes}} {
		got, err := bench.Allocated(c.Contestant)
		if err != nil {
			t.Fatal(err)
		}
		if got > c.most {
			t.Errorf("%s: %.0f bytes, want at most %.0f", c.Name, got, c.most)
		}
	}
}
