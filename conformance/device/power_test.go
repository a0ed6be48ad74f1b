package device_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// unbootable is a machine whose firmware finds nothing to start: it is on until somebody ends it.
func unbootable(t *testing.T, deadline time.Duration) *device.Machine {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "nothing.efi")
	must(t, os.WriteFile(image, []byte("nothing"), 0o600))
	m, err := device.New(t.Context(), device.Config{
		Dir: filepath.Join(dir, "machine"), Image: image, Version: "0", Loader: device.Direct, TPM: parts.TPMConfig{Name: "unbootable"},
		ESPBytes: 64 << 20, DataBytes: 8 << 20, Deadline: deadline,
	})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

func TestMachineIsCutOffAtItsDeadline(t *testing.T) {
	t.Parallel()
	m := unbootable(t, 2*time.Second)
	must(t, m.Start(t.Context()))
	_, err := m.Wait(t.Context(), 0, "something it never says", func(device.Line) bool { return false })
	if err == nil || m.On() {
		t.Errorf("the machine is on: %v, error %v", m.On(), err)
	}
	if err := m.Command(t.Context(), "off"); err == nil {
		t.Error("a machine that is off takes commands")
	}
	must(t, m.Start(t.Context())) // the lock is free, and so are disk, variables and TPM
	m.PowerCut()
}

func TestOneMachineRunsAtATime(t *testing.T) {
	t.Parallel()
	one, other := unbootable(t, 0), unbootable(t, 0)
	must(t, one.Start(t.Context()))
	if err := one.Start(t.Context()); err == nil {
		t.Error("a machine that is on was switched on")
	}
	if err := one.Save(t.TempDir()); err == nil {
		t.Error("the disk of a machine that is on was copied")
	}
	if _, err := one.Break(t.Context(), "loader"); err == nil || errors.Is(err, device.ErrBreak) {
		t.Errorf("a machine that is on was tampered with: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := other.Start(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second machine was switched on: %v", err)
		other.PowerCut()
	}
	one.PowerCut()
	must(t, other.Start(t.Context()))
	other.PowerCut()
}

func TestClonedAndRestoredMachine(t *testing.T) {
	t.Parallel()
	m := unbootable(t, 0)
	agent := filepath.Join(programs.Dir(t), "cordon-agent")
	id := deviceID(t, m, agent)
	saved := filepath.Join(t.TempDir(), "saved")
	must(t, m.Save(saved))
	same, err := m.Clone(t.Context(), filepath.Join(t.TempDir(), "same"), nil)
	must(t, err)
	if got := deviceID(t, same, agent); got != id {
		t.Errorf("a copy of everything is device %s, not %s", got, id)
	}
	other, err := m.Clone(t.Context(), filepath.Join(t.TempDir(), "other"), &parts.TPMConfig{Name: "other"})
	must(t, err)
	if got := deviceID(t, other, agent); got == id {
		t.Error("a copy of the disk has the TPM of the original")
	}
	esp, err := other.ESP()
	must(t, err)
	if b, err := esp.Read(t.Context(), "EFI/BOOT/BOOTX64.EFI"); err != nil || string(b) != "nothing" {
		t.Errorf("the copied disk holds %q: %v", b, err)
	}
	must(t, esp.Write(t.Context(), "EFI/BOOT/BOOTX64.EFI", []byte("changed")))
	must(t, other.Load(saved, device.Disk))
	if b, err := esp.Read(t.Context(), "EFI/BOOT/BOOTX64.EFI"); err != nil || string(b) != "nothing" {
		t.Errorf("the restored disk holds %q: %v", b, err)
	}
	reopened, err := device.Open(t.Context(), same.Dir())
	must(t, err)
	if got := deviceID(t, reopened, agent); got != id {
		t.Errorf("opened again it is device %s, not %s", got, id)
	}
	if _, err := device.Open(t.Context(), t.TempDir()); !errors.Is(err, device.ErrNoMachine) {
		t.Errorf("an empty folder: %v", err)
	}
}

func deviceID(t *testing.T, m *device.Machine, agent string) string {
	t.Helper()
	id, err := m.DeviceID(t.Context(), agent)
	must(t, err)
	return id
}
