package parts_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/google/go-cmp/cmp"
)

// genuine is the event log of a virtual PC (OVMF 2022.11, systemd-stub 252, Debian cloud kernel, swtpm 0.7.1) that
// booted a UKI directly with Secure Boot off.
const genuine = "testdata/direct-uki-v1-no-secureboot.bin"

// genuineCmdline is the command line of the UKI that genuine was recorded with.
const genuineCmdline = "console=ttyS0,115200 quiet loglevel=4 panic=3 fw.version=1"

func boot(t *testing.T, m *parts.Machine) parts.BootReport {
	t.Helper()
	report, err := m.Boot(t.Context())
	if err != nil {
		t.Fatalf("Boot: %v", err)
	}
	return report
}

func copyToSlot(t *testing.T, m *parts.Machine, slot, path string) {
	t.Helper()
	if err := m.CopyToSlot(slot, path); err != nil {
		t.Fatalf("CopyToSlot: %v", err)
	}
}

// machine returns a machine with version 1 in slot a.
func machine(t *testing.T) *parts.Machine {
	t.Helper()
	m := parts.TestMachine(t, parts.MachineConfig{})
	copyToSlot(t, m, parts.SlotA, parts.TestUKI(t, parts.UKISpec{Version: "1"}))
	return m
}

// changed lists the PCRs in which two boots differ.
func changed(a, b map[int]digest.SHA256) []int {
	var list []int
	for pcr := range a {
		if a[pcr] != b[pcr] {
			list = append(list, pcr)
		}
	}
	slices.Sort(list)
	return list
}

func TestLogReplaysToThePCRs(t *testing.T) {
	t.Parallel()
	m := machine(t)
	report := boot(t, m)
	want := replay(parseLog(t, report.Log))
	for pcr, got := range report.PCRs {
		if got != want[pcr] {
			t.Errorf("PCR %d: got %s, want %s from the log", pcr, got, want[pcr])
		}
	}
	if diff := cmp.Diff(pcrs(t, m.TPM()), report.PCRs); diff != "" {
		t.Errorf("the report differs from the TPM:\n%s", diff)
	}
}

// tpm2_eventlog is an independent parser and replay of the log.
func TestEventLogToolAgrees(t *testing.T) {
	t.Parallel()
	if err := parts.Require(t.Context(), t.Output(), "tpm2-tools"); err != nil {
		t.Fatal(err)
	}
	report := boot(t, machine(t))
	out := tool(t, "tpm2_eventlog", report.Log)
	got := map[int]digest.SHA256{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(\d+)\s*: 0x([0-9a-f]{64})$`).FindAllStringSubmatch(out, -1) {
		pcr, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if got[pcr], err = digest.Parse(m[2]); err != nil {
			t.Fatal(err)
		}
	}
	want := maps.Clone(report.PCRs)
	maps.DeleteFunc(want, func(_ int, d digest.SHA256) bool { return d.IsZero() })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PCRs of tpm2_eventlog (-TPM +log):\n%s", diff)
	}
}

// Event by event the log is that of a real boot: same registers, types and data; only sizes and addresses that depend
// on the image or the firmware differ, and the digests of those bytes.
func TestLogHasTheShapeOfAGenuineOne(t *testing.T) {
	t.Parallel()
	m := parts.TestMachine(t, parts.MachineConfig{})
	copyToSlot(t, m, parts.SlotA, parts.TestUKI(t, parts.UKISpec{Version: "1", Cmdline: genuineCmdline}))
	got, want := parseLog(t, boot(t, m).Log), parseLog(t, genuine)
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d", len(got), len(want))
	}
	// Firmware volumes, the UKI, the contents of .linux, .osrel and .initrd, the kernel, the initrd.
	ofOurBytes := []int{2, 3, 23, 25, 27, 31, 32, 34}
	for i := range want {
		if got[i].pcr != want[i].pcr || got[i].kind != want[i].kind {
			t.Errorf("event %d: got PCR %d type %#x, want PCR %d type %#x", i, got[i].pcr, got[i].kind, want[i].pcr, want[i].kind)
		}
		if !slices.Contains(ofOurBytes, i) && got[i].digest != want[i].digest {
			t.Errorf("event %d: got digest %s, want %s", i, got[i].digest, want[i].digest)
		}
		gotData, wantData := got[i].data, want[i].data
		switch i {
		case 2, 3: // base, length
			gotData, wantData = gotData[:8], wantData[:8]
		case 23, 32: // address, length, link time, device path
			gotData, wantData = slices.Concat(gotData[:8], gotData[16:]), slices.Concat(wantData[:8], wantData[16:])
		}
		if !bytes.Equal(gotData, wantData) {
			t.Errorf("event %d: got data %x, want %x", i, gotData, wantData)
		}
	}
}

func TestSameSlotBootsToTheSamePCRs(t *testing.T) {
	t.Parallel()
	m := machine(t)
	first, log := boot(t, m), readFile(t, m.EventLog())
	second := boot(t, m)
	third, err := m.PowerCut(t.Context())
	if err != nil {
		t.Fatalf("PowerCut: %v", err)
	}
	if diff := cmp.Diff(first.PCRs, second.PCRs); diff != "" {
		t.Errorf("second boot:\n%s", diff)
	}
	if diff := cmp.Diff(first.PCRs, third.PCRs); diff != "" {
		t.Errorf("boot after a power cut:\n%s", diff)
	}
	if !bytes.Equal(log, readFile(t, m.EventLog())) {
		t.Error("the log changed from boot to boot")
	}
}

func TestEachChangeMovesItsPCRs(t *testing.T) {
	t.Parallel()
	kernels := parts.TestKernels(t)
	base := parts.UKISpec{Version: "1", Kernel: kernels[0], Cmdline: "quiet", Files: map[string][]byte{"init": []byte("1")}}
	for name, tt := range map[string]struct {
		change func(*parts.UKISpec)
		want   []int
	}{
		"nothing":    {func(*parts.UKISpec) {}, nil},
		"os-release": {func(s *parts.UKISpec) { s.Version = "2" }, []int{4, 11}},
		"cmdline":    {func(s *parts.UKISpec) { s.Cmdline = "quiet init=/bin/sh" }, []int{4, 9, 11}},
		"initrd":     {func(s *parts.UKISpec) { s.Files = map[string][]byte{"init": []byte("2")} }, []int{4, 9, 11}},
		"kernel":     {func(s *parts.UKISpec) { s.Kernel = kernels[1] }, []int{4, 11}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := parts.TestMachine(t, parts.MachineConfig{})
			other := base
			tt.change(&other)
			copyToSlot(t, m, parts.SlotA, parts.TestUKI(t, base))
			copyToSlot(t, m, parts.SlotB, parts.TestUKI(t, other))
			first := boot(t, m)
			if err := m.SetActive(parts.SlotB); err != nil {
				t.Fatal(err)
			}
			second := boot(t, m)
			if first.Slot != parts.SlotA || second.Slot != parts.SlotB {
				t.Errorf("booted slots %q, %q; want a, b", first.Slot, second.Slot)
			}
			if diff := cmp.Diff(tt.want, changed(first.PCRs, second.PCRs)); diff != "" {
				t.Errorf("changed PCRs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFirmwareProfileMovesPCR0Only(t *testing.T) {
	t.Parallel()
	m := machine(t)
	before := boot(t, m)
	if err := m.Flash(parts.FirmwareConfig{Version: "2.1"}); err != nil {
		t.Fatalf("Flash: %v", err)
	}
	after := boot(t, m)
	if diff := cmp.Diff([]int{0}, changed(before.PCRs, after.PCRs)); diff != "" {
		t.Errorf("changed PCRs (-want +got):\n%s", diff)
	}
	same := parts.TestMachine(t, parts.MachineConfig{Firmware: parts.FirmwareConfig{Version: "2.1"}})
	copyToSlot(t, same, parts.SlotA, m.SlotPath(parts.SlotA))
	if diff := cmp.Diff(after.PCRs, boot(t, same).PCRs); diff != "" {
		t.Errorf("another machine of the same profile:\n%s", diff)
	}
}

func TestTamperedSlotIsMeasured(t *testing.T) {
	t.Parallel()
	m := machine(t)
	before := boot(t, m)
	initrd, err := parts.Section(readFile(t, m.SlotPath(parts.SlotA)), ".initrd")
	if err != nil {
		t.Fatal(err)
	}
	err = m.Tamper(parts.SlotA, func(image []byte) []byte {
		image[bytes.Index(image, initrd)+len(initrd)-1] ^= 1
		return image
	})
	if err != nil {
		t.Fatalf("Tamper: %v", err)
	}
	if diff := cmp.Diff([]int{4, 9, 11}, changed(before.PCRs, boot(t, m).PCRs)); diff != "" {
		t.Errorf("changed PCRs (-want +got):\n%s", diff)
	}
}

func TestTrialBootsOnce(t *testing.T) {
	t.Parallel()
	m := machine(t)
	copyToSlot(t, m, parts.SlotB, parts.TestUKI(t, parts.UKISpec{Version: "2"}))
	if err := m.SetNext(parts.SlotB); err != nil {
		t.Fatal(err)
	}
	if got := boot(t, m); got.Slot != parts.SlotB || !got.Trial {
		t.Errorf("trial: got slot %q, trial %v", got.Slot, got.Trial)
	}
	if _, err := os.Stat(filepath.Join(m.SlotsDir(), "next")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("slots/next after the trial: got %v, want not exist", err)
	}
	if got := boot(t, m); got.Slot != parts.SlotA || got.Trial {
		t.Errorf("boot after an uncommitted trial: got slot %q, trial %v", got.Slot, got.Trial)
	}
	if err := m.SetActive(parts.SlotB); err != nil {
		t.Fatal(err)
	}
	if got := boot(t, m); got.Slot != parts.SlotB || got.Trial {
		t.Errorf("boot after the commit: got slot %q, trial %v", got.Slot, got.Trial)
	}
}

func TestTrialThatCannotStartFallsBack(t *testing.T) {
	t.Parallel()
	m := machine(t)
	want := boot(t, m).PCRs
	image := readFile(t, m.SlotPath(parts.SlotA))
	for name, bad := range map[string][]byte{"half": image[:len(image)/2], "noise": []byte("noise")} {
		if err := m.WriteSlot(parts.SlotB, bad); err != nil {
			t.Fatal(err)
		}
		if err := m.SetNext(parts.SlotB); err != nil {
			t.Fatal(err)
		}
		got := boot(t, m)
		if got.Slot != parts.SlotA || got.Trial || !errors.Is(got.Tried, parts.ErrNotBootable) {
			t.Errorf("%s: got slot %q, trial %v, tried %v", name, got.Slot, got.Trial, got.Tried)
		}
		if diff := cmp.Diff(want, got.PCRs); diff != "" {
			t.Errorf("%s: PCRs after the fallback:\n%s", name, diff)
		}
	}
}

func TestMachineWithoutImageDoesNotBoot(t *testing.T) {
	t.Parallel()
	m := machine(t)
	boot(t, m)
	if err := m.SetActive(parts.SlotB); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(t.Context()); !errors.Is(err, parts.ErrNotBootable) {
		t.Errorf("Boot: got %v, want %v", err, parts.ErrNotBootable)
	}
	if _, err := os.Stat(m.EventLog()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("event log of a boot that failed: got %v, want not exist", err)
	}
	if err := m.SetActive("c"); err == nil {
		t.Error("SetActive took a slot that no machine has")
	}
}

func TestMachineIsFoundAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := parts.NewMachine(t.Context(), parts.MachineConfig{Dir: dir, Firmware: parts.FirmwareConfig{Version: "1.0"}})
	if err != nil {
		t.Fatalf("NewMachine: %v", err)
	}
	copyToSlot(t, first, parts.SlotB, parts.TestUKI(t, parts.UKISpec{Version: "1"}))
	if err := first.SetActive(parts.SlotB); err != nil {
		t.Fatal(err)
	}
	want := boot(t, first)
	if err := first.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	second := parts.TestMachine(t, parts.MachineConfig{Dir: dir})
	if diff := cmp.Diff(want, boot(t, second)); diff != "" {
		t.Errorf("boot after a restart:\n%s", diff)
	}
}

func TestMachineUsesTheTPMItIsGiven(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	m := parts.TestMachine(t, parts.MachineConfig{TPM: tpm})
	copyToSlot(t, m, parts.SlotA, parts.TestUKI(t, parts.UKISpec{Version: "1"}))
	report := boot(t, m)
	if err := m.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if diff := cmp.Diff(report.PCRs, pcrs(t, tpm)); diff != "" {
		t.Errorf("the TPM after Close:\n%s", diff)
	}
}
