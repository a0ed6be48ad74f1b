package bench_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/conformance/bench"
)

// A machine that becomes slow in the middle disturbs both sides of a turn: the ratio is that of the turns, not of the
// medians, which here would be 5.
func TestRatioIsTheMedianOfTheTurns(t *testing.T) {
	t.Parallel()
	r := bench.NewRace([]bench.Contestant{{Name: "a"}, {Name: "b"}}, []float64{10, 20, 30}, []float64{1, 4, 5})
	want := bench.Figure{Name: "a / b", Value: 6, Unit: "ratio", Spread: [2]float64{5, 10}, Ceiling: 0.5, Of: []bench.Figure{
		{Name: "a", Value: 20, Unit: "us", Spread: [2]float64{10, 30}}, {Name: "b", Value: 4, Unit: "us", Spread: [2]float64{1, 5}},
	}}
	if diff := cmp.Diff(want, r.Ratio(0, 1, 0.5)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A contestant that does not do its work is not fast.
func TestContestantThatFailsEndsTheRace(t *testing.T) {
	t.Parallel()
	broken := errors.New("refused")
	_, err := bench.Run(1, bench.Contestant{Name: "quick", Do: func() error { return broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "quick") {
		t.Errorf("got %v, want the error of the contestant with its name", err)
	}
}
