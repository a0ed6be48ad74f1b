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
	contestants := []bench.Contestant{cold(in), least(t, in)}
	others := peers(t, in)
	for _, p := range others {
		contestants = append(contestants, p.Contestant)
	}
	race, err := bench.Run(turns, contestants...)
	if err != nil {
		t.Fatal(err)
	}
	doc := bench.Document{Machine: bench.Here(), Turns: turns, LeftOut: []bench.LeftOut{{
		Name: "cached appraisal / " + contestants[1].Name, Why: "there is no cache of appraisals: every one is a cold one",
	}}}
	doc.Figures = append(doc.Figures, race.Time(0), race.Bytes(0, maxColdBytes), race.Ratio(0, 1, 0))
	for i, p := range others {
		doc.Figures = append(doc.Figures, race.Ratio(0, 2+i, p.ceiling), race.Bytes(2+i, 0))
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
func TestColdAppraisalAllocatesLittle(t *testing.T) {
	got, err := bench.Allocated(cold(realInput(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got > maxColdBytes {
		t.Errorf("a cold appraisal allocates %.0f bytes, want at most %d", got, maxColdBytes)
	}
}
