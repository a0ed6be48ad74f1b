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
	want := bench.Figure{Name: "a / b", Value: 6, Unit: "ratio", Spread: [2]float64{5, 10}, Ceiling: 0.5, Met: new(false), Of: []bench.Figure{
		{Name: "a", Value: 20, Unit: "us", Spread: [2]float64{10, 30}}, {Name: "b", Value: 4, Unit: "us", Spread: [2]float64{1, 5}},
	}}
	if diff := cmp.Diff(want, r.Ratio(0, 1, 0.5)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A budget is met by what it allows, and a figure without one says nothing about it.
func TestFiguresSayWhetherTheyKeepTheirBudget(t *testing.T) {
	t.Parallel()
	r := bench.NewRace([]bench.Contestant{{Name: "a"}, {Name: "b"}}, []float64{3}, []float64{2})
	for ceiling, want := range map[float64]*bool{0: nil, 1.4: new(false), 1.5: new(true), 2: new(true)} {
		if got := r.Ratio(0, 1, ceiling).Met; !cmp.Equal(got, want) {
			t.Errorf("1.5 with a budget of %v: got %v, want %v", ceiling, got, want)
		}
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
