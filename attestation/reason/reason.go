// Package reason is the closed set of reasons why cordon refuses something.
//
// A Reason is at once the wire value, the metric label, the audit field, the console text and the anchor in the
// documentation. A reason is never renamed and never reused. Everything may import this package; it imports nothing.
package reason

import (
	"slices"
	"strings"
)

// Reason names one cause of a refusal.
type Reason string

// Effect says what a reason does to a device.
type Effect string

// The effects, from the mildest to the strongest.
const (
	// Retry: try again, perhaps after the remedy; the device's standing does not change.
	Retry Effect = "retry"
	// Hold: no update is offered until the cause is gone; the device is not restricted.
	Hold Effect = "hold"
	// Quarantine: authentic, fresh Evidence proves a wrong state. Sticky: only two people and a fresh pass end it.
	Quarantine Effect = "quarantine"
)

// Severity says how much attention a reason needs from people.
type Severity string

// The severities.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Row is what cordon says about a reason. Remedy is one sentence that tells the reader the next step.
type Row struct {
	Reason   Reason
	Severity Severity
	Effect   Effect
	Title    string
	Remedy   string
}

// Lookup returns the row of r; ok is false for a reason that is not in the table.
func Lookup(r Reason) (row Row, ok bool) {
	i, ok := slices.BinarySearchFunc(table, r, func(row Row, r Reason) int { return strings.Compare(string(row.Reason), string(r)) })
	if !ok {
		return Row{}, false
	}
	return table[i], true
}

// All returns every row, sorted by reason. The caller owns the slice.
func All() []Row { return slices.Clone(table) }

// EffectOf returns the effect of r. A reason that is not in the table counts as Hold: an unknown refusal must not
// let an update through and must not quarantine either.
func EffectOf(r Reason) Effect {
	row, ok := Lookup(r)
	if !ok {
		return Hold
	}
	return row.Effect
}

// Strongest returns the strongest effect among rs, and false if rs is empty.
func Strongest(rs []Reason) (Effect, bool) {
	var strongest Effect
	for _, r := range rs {
		if e := EffectOf(r); weight(e) > weight(strongest) {
			strongest = e
		}
	}
	return strongest, len(rs) > 0
}

func weight(e Effect) int {
	switch e {
	case Retry:
		return 1
	case Hold:
		return 2
	case Quarantine:
		return 3
	}
	return 0
}
