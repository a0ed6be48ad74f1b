package installer_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// TestSlotsOfAMachineThatBoots installs on the soft machine, which reads the slots as a boot loader does.
func TestSlotsOfAMachineThatBoots(t *testing.T) {
	t.Parallel()
	m := parts.TestMachine(t, parts.MachineConfig{})
	if err := m.CopyToSlot(parts.SlotA, parts.TestUKI(t, parts.UKISpec{Version: "1.0.0"})); err != nil {
		t.Fatal(err)
	}
	ab, err := installer.NewAB(m.Dir()) // it finds the folder slots by itself
	if err != nil {
		t.Fatalf("NewAB: %v", err)
	}
	boot := func() {
		t.Helper()
		if _, err := m.Boot(t.Context()); err != nil {
			t.Fatalf("Boot: %v", err)
		}
	}
	install := func(b []byte) {
		t.Helper()
		image := installer.Image{Component: "system", SHA256: digest.Of(b), Length: int64(len(b))}
		s, err := ab.Prepare(t.Context(), image)
		if err != nil {
			t.Fatalf("Prepare: %v", err)
		}
		_, err = s.WriteAt(b, 0)
		if err := errors.Join(err, s.Sync(), s.Close(), ab.Activate(t.Context(), image)); err != nil {
			t.Fatalf("Activate: %v", err)
		}
	}
	wantRunning := func(slot string, trial bool) {
		t.Helper()
		got, err := ab.Running(t.Context())
		if err != nil || got.Slot != slot || got.Trial != trial {
			t.Errorf("Running = %+v, %v, want slot %s, trial %v", got, err, slot, trial)
		}
	}
	boot()
	wantRunning("a", false)
	install(bytes.Repeat([]byte("no image"), 1000))
	boot() // the trial does not start
	wantRunning("a", false)
	next, err := os.ReadFile(parts.TestUKI(t, parts.UKISpec{Version: "1.1.0"}))
	if err != nil {
		t.Fatal(err)
	}
	install(next)
	boot()
	wantRunning("b", true)
	boot() // nobody committed
	wantRunning("a", false)
	install(next)
	boot()
	wantRunning("b", true)
	if err := ab.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantRunning("b", false)
	boot()
	wantRunning("b", false)
}
