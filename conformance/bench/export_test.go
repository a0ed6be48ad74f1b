package bench

// NewRace is a race that was run already: microseconds per contestant and turn.
func NewRace(contestants []Contestant, turns ...[]float64) *Race {
	return &Race{contestants: contestants, turns: turns}
}
