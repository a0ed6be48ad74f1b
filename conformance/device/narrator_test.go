package device_test

import (
	"fmt"
	"io"
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

// tableHead stands above the rows that tell writes.
var tableHead = fmt.Sprintf("%-26s %5s %8s  %s\n", "scenario", "boots", "seconds", "expected, and what was seen")

// tell plays a scenario and writes its row of the table, also when it ends early.
func (s scenario) tell(t *testing.T, table io.Writer) {
	t.Helper()
	n, got := &narrator{t: t, began: time.Now()}, "no end"
	defer func() {
		fmt.Fprintf(table, "%-26s %5d %8.1f  expected %s\n%-42s got      %s\n", s.name, n.boots(), time.Since(n.began).Seconds(), s.expected, "", got)
	}()
	if got = s.play(t, n); got != s.expected {
		t.Errorf("got %s, want %s", got, s.expected)
	}
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
