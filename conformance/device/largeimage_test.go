//go:build device

package device_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

// largeBytes is the size of an image that has to be installed within the agent's memory budget.
const largeBytes = 256 << 20

// largeImage installs an image of 256 MiB, and pulls the network cable in the middle of its download.
func largeImage(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("1", nil)
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(c *device.Config) {
		c.ESPBytes, c.Memory = 640<<20, 1536
	})
	agentSize(t, n, f)
	pad(t, f.Build("2", nil), largeBytes)
	ctx := bounded(t)
	from := mark(t, m)
	f.Publish("2")
	countReceived(t, m)
	partial := waitDownloaded(t, m, 64<<20)
	must(t, m.Network(ctx, false))
	n.saw("the network cable is pulled with %d MiB on the disk", partial>>20)
	said, err := m.WaitText(ctx, from, "cannot complete a round")
	must(t, err)
	n.saw("the machine says: %s", said)
	must(t, m.Network(ctx, true))
	n.saw("the cable is back, %d MiB are received", received(t, m, from)>>20)
	event(t, ctx, m, from, "leave")
	d := f.WaitSeen(ctx, m, id, "the proof of the large image", proven("2"))
	n.saw("proven %s, %s", d.Proven, d.Standing)
	committed(t, m)
	all := received(t, m, from)
	n.saw("the machine received %d MiB for an image of %d MiB", all>>20, largeBytes>>20)
	must(t, m.PowerOff(ctx))
	f.Stage.Report()
	held := peak(t, m)
	n.saw("the agent held %.1f MiB at most, idle and while installing", float64(held)/1024)
	how := "went on where it stopped"
	if all > largeBytes+partial*3/4 {
		how = fmt.Sprintf("received %d MiB", all>>20)
	}
	return how + ", 2 proven, " + choose(held > 0 && held <= maxResident, "within 40 MiB", fmt.Sprintf("%.1f MiB", float64(held)/1024))
}

// pad makes an image larger with bytes behind its last section. The firmware reads and measures them; what boots is the
// same.
func pad(t *testing.T, image string, size int64) {
	t.Helper()
	w, err := os.OpenFile(image, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	info, err := w.Stat()
	must(t, err)
	noise, block := rand.NewChaCha8([32]byte{2}), make([]byte, 1<<20)
	for left := size - info.Size(); left > 0; left -= int64(len(block)) {
		block = block[:min(left, int64(len(block)))]
		_, _ = noise.Read(block) // it never fails
		_, err := w.Write(block)
		must(t, err)
	}
	must(t, w.Close())
}

// waitDownloaded waits until so much of the next image is on the machine's disk, and returns how much it is.
func waitDownloaded(t *testing.T, m *device.Machine, least int64) int64 {
	t.Helper()
	ctx := bounded(t)
	for {
		size, err := strconv.ParseInt(shell(t, ctx, m, "stat -c %s /esp/EFI/Linux/cordon-next.part 2>/dev/null || echo 0"), 10, 64)
		must(t, err)
		if size >= least {
			return size
		}
	}
}

// countReceived has the machine tell every second how much its network card has received.
func countReceived(t *testing.T, m *device.Machine) {
	t.Helper()
	must(t, m.Command(bounded(t), "sh while sleep 1; do echo received $(cat /sys/class/net/eth0/statistics/rx_bytes); done"))
}

// received is what the machine told last after a mark, and before it left.
func received(t *testing.T, m *device.Machine, after device.Mark) int64 {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	var last int64
	for _, l := range lines[int(after):] {
		if l.Event != nil && l.Event.Name == "leave" {
			break
		}
		if _, number, ok := strings.Cut(l.Text, "sh: received "); ok {
			last, err = strconv.ParseInt(strings.TrimSpace(number), 10, 64)
			must(t, err)
		}
	}
	return last
}

// maxAgent is what the agent may be as a file.
const maxAgent = 24 << 20

// agentSize checks the agent that the images hold.
func agentSize(t *testing.T, n *narrator, f *device.Fleet) {
	t.Helper()
	info, err := os.Stat(f.Programs.Agent)
	must(t, err)
	n.saw("the agent is a static binary of %.1f MB", float64(info.Size())/1e6)
	if info.Size() > maxAgent {
		t.Errorf("the agent has %d bytes, at most %d", info.Size(), maxAgent)
	}
}
