package device_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/device"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// storyTime bounds one story; a machine without load needs a tenth of it.
const storyTime = 12 * time.Minute

// TestTwoBoots is the story that every run of the tests plays: a machine leaves the factory, enrolls, proves its boot, is
// offered the next release, installs it, restarts into it and proves it.
func TestTwoBoots(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	defer func() { t.Log("\n" + tableHead + table.String()) }()
	story := scenario{"two boots", twoBootsExpected, func(t *testing.T, n *narrator) string {
		return twoBoots(t, n, device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)}), "off")
	}}
	story.tell(t, &table)
}

const twoBootsExpected = "enrolled, 1 proven, 2 tried with a count, proven, blessed; PCR 4 9 11 12 13 as predicted in both boots, of which 2 changed 4 9 11 12"

func twoBoots(t *testing.T, n *narrator, f *device.Fleet, secureBoot string) string {
	t.Helper()
	f.Build("1", nil)
	f.Publish("1")
	m := n.cast(f.Machine("two-boots", "1"))
	id := f.ID(m)
	ctx := switchOn(t, m)
	if got := event(t, ctx, m, 0, "firmware").Fields["secure_boot"]; got != secureBoot {
		t.Errorf("Secure Boot is %s, want %s", got, secureBoot)
	}
	first := event(t, ctx, m, 0, "pcrs")
	f.Platform(first)
	f.Claim(id)
	f.WaitSeen(ctx, m, id, "the proof of the factory image", proven("1"))
	n.saw("enrolled, and the first boot is proven")
	inFirst := registers(t, f, id, "1", first)

	// The next release says another thing in its initial file system, its description and its command line.
	f.Build("2", func(s *device.ImageSpec) { s.Files = map[string][]byte{"etc/motd": []byte("the second release\n")} })
	before, err := m.Mark()
	must(t, err)
	f.Publish("2")
	boot := event(t, ctx, m, before, "boot")
	n.saw("the machine restarted into the release it was offered")
	if got := boot.Fields["version"]; got != "2" {
		t.Fatalf("after the restart version %q runs", got)
	}
	if got := event(t, ctx, m, before, "firmware").Fields["counter"]; !strings.Contains(got, "+2-1.efi") {
		t.Errorf("the boot loader counts the try in %q, want +2-1", got)
	}
	second := event(t, ctx, m, before, "pcrs")
	d := f.WaitSeen(ctx, m, id, "the proof of the update", proven("2"))
	if d.Standing != "affirmed" || d.Offered != "" || d.Quarantine != nil {
		t.Errorf("after the update the server says %+v", d)
	}
	blessed(t, ctx, m)
	n.saw("proven and blessed")
	inSecond := registers(t, f, id, "2", second)
	memory(t, m)
	must(t, m.PowerOff(ctx))
	quotesAccepted(t, n, f, id)
	f.Stage.Report()
	if len(inFirst) != len(inSecond) {
		t.Fatalf("version 1 predicts %d registers, version 2 %d", len(inFirst), len(inSecond))
	}
	return fmt.Sprintf("enrolled, 1 proven, 2 tried with a count, proven, blessed; PCR %s as predicted in both boots, of which 2 changed %s",
		numbers(inSecond, func(i int) bool { return inSecond[i].Equal() && inFirst[i].Equal() }),
		numbers(inSecond, func(i int) bool { return inSecond[i].Quoted != inFirst[i].Quoted }))
}

// blessed waits until no image in EFI/Linux carries a count of tries any more.
func blessed(t *testing.T, ctx context.Context, m *device.Machine) {
	t.Helper()
	for {
		mark, err := m.Mark()
		must(t, err)
		must(t, m.Command(ctx, "ls /esp/EFI/Linux"))
		names := event(t, ctx, m, mark, "ls").Fields["names"]
		if !strings.Contains(names, "+") && strings.Contains(names, "cordon-") {
			t.Logf("EFI/Linux holds %s", names)
			return
		}
	}
}

// registers prints predicted and quoted registers side by side, and fails when one differs.
func registers(t *testing.T, f *device.Fleet, id, version string, boot device.Event) []device.Register {
	t.Helper()
	rows := f.Compare(id, version, boot)
	var out strings.Builder
	device.PrintRegisters(&out, "release "+version, rows)
	t.Log(out.String())
	for _, r := range rows {
		if !r.Equal() {
			t.Errorf("PCR %d of version %s: predicted %s, quoted %s, kernel %s", r.PCR, version, r.Predicted, r.Quoted, r.Kernel)
		}
	}
	return rows
}

// numbers are the registers whose place in rows fits.
func numbers(rows []device.Register, fits func(i int) bool) string {
	var out []string
	for i, r := range rows {
		if fits(i) {
			out = append(out, strconv.Itoa(r.PCR))
		}
	}
	return strings.Join(out, " ")
}

// maxResident is what the agent may hold resident, in KiB.
const maxResident = 40 << 10

// memory checks the most that the agent ever held.
func memory(t *testing.T, m *device.Machine) {
	t.Helper()
	held := peak(t, m)
	t.Logf("the agent held %d KiB at most, idle and while installing", held)
	if held == 0 || held > maxResident {
		t.Errorf("the agent held %d KiB, at most %d", held, maxResident)
	}
}

// peak is the most that the agent ever held resident, in KiB.
func peak(t *testing.T, m *device.Machine) int {
	t.Helper()
	lines, err := m.Lines()
	must(t, err)
	most := 0
	for _, l := range lines {
		if l.Event == nil || l.Event.Name != "memory" {
			continue
		}
		held, err := strconv.Atoi(l.Event.Fields["peak_kib"])
		must(t, err)
		most = max(most, held)
	}
	return most
}

func proven(version string) func(api.Device) bool {
	return func(d api.Device) bool { return d.Proven == device.Product+"/"+version }
}

// switchOn switches a machine on, and bounds what it does in that life. Waiting for another machine to end does not count.
func switchOn(t *testing.T, m *device.Machine) context.Context {
	t.Helper()
	must(t, m.Start(t.Context()))
	return bounded(t)
}

// bounded is the time that a step may take which waits for a machine; a machine without load needs a tenth of it.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storyTime)
	t.Cleanup(cancel)
	return ctx
}

func event(t *testing.T, ctx context.Context, m *device.Machine, after device.Mark, name string) device.Event {
	t.Helper()
	e, err := m.WaitEvent(ctx, after, name)
	must(t, err)
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
