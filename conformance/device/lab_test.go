//go:build device

package device_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

// labTag builds the agent so that it can be made to die at a named step.
const labTag = "cordon_crash"

// armFile of the data partition holds the steps to die at, one line for each start of the agent; an empty line, or none,
// is an ordinary start. It survives restarts and power cuts.
const armFile = "/data/arm"

// labScript starts the agent of a laboratory image. It takes the first line of armFile away before the agent runs, so that
// nobody dies twice of the same line. A machine that never ran takes the list that its image brings.
const labScript = `#!/bin/sh
[ -e /data/arm ] || cat /etc/cordon/arm > /data/arm
read -r point < /data/arm
tail -n +2 /data/arm > /data/arm.next
mv /data/arm.next /data/arm
sync
CORDON_CRASH=$point exec /bin/cordon-agent.lab "$@"
`

// labFleet is a fleet whose agents can be made to die.
func labFleet(t *testing.T) *device.Fleet {
	t.Helper()
	return device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t), Tags: labTag})
}

// labImage makes the image of a version whose agent takes steps to die at; points are the first ones.
func labImage(t *testing.T, f *device.Fleet, version string, points ...string) {
	t.Helper()
	f.Build(version, func(s *device.ImageSpec) {
		s.Files = map[string][]byte{
			"bin/cordon-agent": []byte(labScript), "bin/cordon-agent.lab": agentOf(t, f), "etc/cordon/arm": []byte(strings.Join(points, "\n") + "\n"),
		}
	})
}

// agentOf is the agent that a fleet's images hold.
func agentOf(t *testing.T, f *device.Fleet) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Programs.Agent)
	must(t, err)
	return b
}

// arm makes a later start of the agent die at a step. With now, the agent is started again for it.
func arm(t *testing.T, ctx context.Context, m *device.Machine, point string, now bool) {
	t.Helper()
	if now {
		before := mark(t, m)
		must(t, m.Command(ctx, "pause"))
		_, err := m.Wait(ctx, before, "the end of the agent", func(l device.Line) bool {
			return l.Event != nil && l.Event.Name == "done" && l.Event.Fields["command"] == "pause"
		})
		must(t, err)
	}
	if said := shell(t, ctx, m, fmt.Sprintf("echo %s > %s && sync && echo armed", point, armFile)); said != "armed" {
		t.Fatalf("arming the machine: %s", said)
	}
	if now {
		must(t, m.Command(ctx, "resume"))
	}
}

// died is what a program writes that dies at a step.
func died(point string) string {
	name, _, _ := strings.Cut(point, ":")
	return "crash: " + name
}
