// Package bench compares what things cost: several contestants, turn by turn in one run, as figures in one JSON object.
//
// It promises that a ratio is the median of the ratios of interleaved turns, so that a busy machine disturbs both sides
// alike, and that every figure carries its spread. It counts processor time of the whole process, collection of garbage
// included, not the time of the clock. Beside a figure it prints the ceiling that it has, and whether it keeps it; it
// refuses to fail because a machine was slow. Nobody trusts it.
package bench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// turn is how much processor time one turn of a contestant takes at least: long enough that counting costs nothing.
const turn = 20 * time.Millisecond

// Contestant is something that is measured.
type Contestant struct {
	Name string
	Do   func() error
}

// Figure is one number. Spread is the least and the greatest turn. Of is set for a ratio: what was divided by what.
type Figure struct {
	Name    string     `json:"name"`
	Value   float64    `json:"value"`
	Unit    string     `json:"unit"`
	Spread  [2]float64 `json:"spread"`
	Ceiling float64    `json:"ceiling,omitzero"` // the design's budget; what is above it has to be explained
	Met     *bool      `json:"met,omitempty"`    // whether Value is not above Ceiling; absent when there is none
	Of      []Figure   `json:"of,omitempty"`
}

// under returns f with its budget; 0 is none.
func (f Figure) under(ceiling float64) Figure {
	if ceiling > 0 {
		f.Ceiling, f.Met = ceiling, new(f.Value <= ceiling)
	}
	return f
}

// LeftOut is a figure that could not be made, and why.
type LeftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Machine says where figures were made.
type Machine struct {
	Go         string `json:"go"`
	Platform   string `json:"platform"`
	Processors int    `json:"processors"`
}

// Document is all figures of a run.
type Document struct {
	Machine Machine   `json:"machine"`
	Turns   int       `json:"turns"`
	Figures []Figure  `json:"figures"`
	LeftOut []LeftOut `json:"left_out,omitempty"`
}

// Here is the machine that this program runs on.
func Here() Machine {
	return Machine{Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.NumCPU()}
}

// Race is what came out of turns: per contestant the microseconds of processor time of each turn.
type Race struct {
	contestants []Contestant
	turns       [][]float64
	bytes       []float64
}

// Run lets each contestant have turns turns, one after the other. It fails when one of them does.
func Run(turns int, contestants ...Contestant) (*Race, error) {
	r := &Race{contestants: contestants, turns: make([][]float64, len(contestants))}
	repeat := make([]int, len(contestants))
	for i, c := range contestants {
		n, bytes, err := prepare(c)
		if err != nil {
			return nil, err
		}
		repeat[i], r.bytes = n, append(r.bytes, bytes)
	}
	for range turns {
		for i, c := range contestants {
			runtime.GC() // nobody pays for the garbage of the one before
			spent, err := times(repeat[i], c)
			if err != nil {
				return nil, err
			}
			r.turns[i] = append(r.turns[i], float64(spent.Nanoseconds())/1e3/float64(repeat[i]))
		}
	}
	return r, nil
}

// prepare warms a contestant up: how often it is repeated in a turn, and how many bytes it allocates each time.
func prepare(c Contestant) (repeat int, bytes float64, err error) {
	for repeat = 1; ; repeat *= 2 {
		spent, err := times(repeat, c)
		if err != nil {
			return 0, 0, err
		}
		if spent >= turn {
			break
		}
	}
	bytes, err = Allocated(c)
	return repeat, bytes, err
}

// Allocated is how many bytes c allocates each time.
func Allocated(c Contestant) (float64, error) {
	const often = 16
	var before, after runtime.MemStats
	if err := c.Do(); err != nil {
		return 0, fmt.Errorf("%s: %w", c.Name, err)
	}
	runtime.ReadMemStats(&before)
	for range often {
		if err := c.Do(); err != nil {
			return 0, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / often, nil
}

func times(n int, c Contestant) (time.Duration, error) {
	before, err := processor()
	if err != nil {
		return 0, err
	}
	for range n {
		if err := c.Do(); err != nil {
			return 0, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	after, err := processor()
	return after - before, err
}

// processor is the time that this process has had on all processors.
func processor() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("cannot read the processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// Time is what contestant i costs.
func (r *Race) Time(i int) Figure { return figure(r.contestants[i].Name, "us", r.turns[i]) }

// Bytes is what contestant i allocates.
func (r *Race) Bytes(i int, ceiling float64) Figure {
	return figure(r.contestants[i].Name+", allocated", "bytes", []float64{r.bytes[i]}).under(ceiling)
}

// Ratio is what contestant i costs in parts of contestant j: the median over the turns.
func (r *Race) Ratio(i, j int, ceiling float64) Figure {
	ratios := make([]float64, 0, len(r.turns[i]))
	for n, spent := range r.turns[i] {
		ratios = append(ratios, spent/r.turns[j][n])
	}
	f := figure(r.contestants[i].Name+" / "+r.contestants[j].Name, "ratio", ratios)
	f.Of = []Figure{r.Time(i), r.Time(j)}
	return f.under(ceiling)
}

// figure is the median with its spread, rounded to what can be told apart.
func figure(name, unit string, values []float64) Figure {
	sorted := slices.Sorted(slices.Values(values))
	median := sorted[len(sorted)/2]
	if len(sorted)%2 == 0 {
		median = (median + sorted[len(sorted)/2-1]) / 2
	}
	return Figure{Name: name, Unit: unit, Value: round(median), Spread: [2]float64{round(sorted[0]), round(sorted[len(sorted)-1])}}
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }
