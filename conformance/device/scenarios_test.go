//go:build device

package device_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/device"
)

// scenario is one story that can happen to a machine. What play returns, in words made of what was observed, must be
// expected.
type scenario struct {
	name     string // without commas: it becomes part of paths, and swtpm_setup takes none
	expected string
	play     func(t *testing.T, n *narrator) string
}

// scenarios are all of them, one after the other: one machine runs at a time.
func scenarios(t *testing.T) []scenario {
	return slices.Concat(faultScenarios(), tamperScenarios(t))
}

// TestScenarios plays every scenario and prints the table of them. -run TestScenarios/NAME plays one.
func TestScenarios(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-24s %5s %8s  %s\n", "scenario", "boots", "seconds", "expected, and what was seen")
	for _, s := range scenarios(t) {
		n := &narrator{began: time.Now()}
		got, boots, ran := "no end", 0, false
		t.Run(s.name, func(t *testing.T) {
			ran, n.t = true, t
			defer func() { boots = n.boots() }()
			if got = s.play(t, n); got != s.expected {
				t.Errorf("got %s, want %s", got, s.expected)
			}
		})
		if !ran {
			continue
		}
		fmt.Fprintf(&table, "%-24s %5d %8.1f  expected %s\n%-40s got      %s\n", s.name, boots, time.Since(n.began).Seconds(), s.expected, "", got)
	}
	t.Log("\n" + table.String())
}

// narrator tells what a scenario sees as it sees it, and counts the boots of its machines.
type narrator struct {
	t        *testing.T
	began    time.Time
	machines []*device.Machine
	before   int // boots of machines that came to the scenario from another one
}

// cast says which machine plays in the scenario.
func (n *narrator) cast(m *device.Machine) *device.Machine {
	n.machines = append(n.machines, m)
	return m
}

// join is cast for a machine that has played in another scenario.
func (n *narrator) join(m *device.Machine) {
	if !slices.Contains(n.machines, m) {
		n.cast(m)
		n.before = n.boots()
	}
}

// saw tells one thing that happened.
func (n *narrator) saw(format string, args ...any) {
	n.t.Helper()
	n.t.Logf("%6.1f s: %s", time.Since(n.began).Seconds(), fmt.Sprintf(format, args...))
}

// boots is how often the firmware of the scenario's machines has started something.
func (n *narrator) boots() int {
	n.t.Helper()
	sum := -n.before
	for _, m := range n.machines {
		lines, err := m.Lines()
		if err != nil {
			n.t.Errorf("cannot count boots: %v", err)
		}
		for _, l := range lines {
			if strings.Contains(l.Text, "BdsDxe: starting") {
				sum++
			}
		}
	}
	return sum
}

// bounded is the time that a step may take which waits for a machine; a machine without load needs a tenth of it.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storyTime)
	t.Cleanup(cancel)
	return ctx
}
