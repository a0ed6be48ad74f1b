//go:build device

package device_test

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Every change that 'device break' makes still boots, and the firmware measures it where it should.
func TestTamperedMachineBootsAndMeasuresIt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*storyTime)
	defer cancel()
	m := bareMachine(t, ctx)
	genuine := bootRegisters(t, ctx, m)
	saved := filepath.Join(t.TempDir(), "saved")
	must(t, m.Save(saved))
	for _, tampered := range []struct {
		name string
		want []int // PCRs beside 10, which follows from the others
	}{
		{"cmdline", []int{4, 9, 11, 12}},
		{"initrd", []int{4, 9, 11}},
		{"osrel", []int{4, 11}},
		{"loader", []int{4}},
		{"direct", []int{4, 12}},
		{"tpm", nil},
	} {
		must(t, m.Load(saved))
		what, err := m.Break(ctx, tampered.name)
		must(t, err)
		var changed []int
		for pcr, value := range bootRegisters(t, ctx, m) {
			if value != genuine[pcr] && pcr != 10 {
				changed = append(changed, pcr)
			}
		}
		slices.Sort(changed)
		t.Logf("%-8s %s: PCRs %v", tampered.name, what, changed)
		if diff := cmp.Diff(tampered.want, changed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tampered.name, diff)
		}
	}
	must(t, m.Load(saved))
	if again := bootRegisters(t, ctx, m); !maps.Equal(again, genuine) {
		t.Errorf("the genuine machine does not measure the same again: %v, %v", genuine, again)
	}
	for _, name := range []string{"secure-boot-off", "nonsense"} {
		if _, err := m.Break(ctx, name); !errors.Is(err, device.ErrBreak) {
			t.Errorf("break %s: %v", name, err)
		}
	}
}

// bareMachine has no server: its agent ends at once, and the machine tells what it measured.
func bareMachine(t *testing.T, ctx context.Context) *device.Machine {
	t.Helper()
	dir := t.TempDir()
	programs, err := device.BuildPrograms(ctx, parts.AMD64, dir)
	must(t, err)
	image := filepath.Join(dir, "1.efi")
	must(t, device.BuildImage(ctx, device.ImageSpec{Version: "1", Programs: programs, Trust: []byte("{}"), Out: image}))
	m, err := device.New(ctx, device.Config{Dir: filepath.Join(dir, "machine"), Image: image, Version: "1", TPM: parts.TPMConfig{Name: "bare"}})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

func bootRegisters(t *testing.T, ctx context.Context, m *device.Machine) map[int]digest.SHA256 {
	t.Helper()
	mark, err := m.Mark()
	must(t, err)
	must(t, m.Start(ctx))
	values, err := event(t, ctx, m, mark, "pcrs").PCRs()
	must(t, err)
	event(t, ctx, m, mark, "agent") // commands are heard from here on
	must(t, m.PowerOff(ctx))
	return values
}
