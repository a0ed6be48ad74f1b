package tpm_test

import (
	"testing"

	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// The base of the counter is written once: whoever can call the agent again cannot move it, and it goes with the counter.
func TestBaseIsWrittenOnce(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	device := open(t, p)
	if base, ok, err := device.CounterBase(); ok || err != nil {
		t.Fatalf("CounterBase = %d, %t, %v, want none", base, ok, err)
	}
	if _, err := device.EnsureCounter(); err != nil {
		t.Fatal(err)
	}
	for _, told := range []uint64{41, 42, 0} {
		if got, err := device.AnchorBase(told); err != nil || got != 41 {
			t.Errorf("AnchorBase(%d) = %d, %v, want the first one, 41", told, got, err)
		}
	}
	if base, ok, err := device.CounterBase(); base != 41 || !ok || err != nil {
		t.Errorf("CounterBase = %d, %t, %v, want 41", base, ok, err)
	}
	rw, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.NVWrite(rw, tpm2.HandleOwner, tpm.BaseIndex, "", make([]byte, 8), 0); err == nil {
		t.Error("the base could be written a second time")
	}
	if err := tpm2.NVUndefineSpace(rw, "", tpm2.HandleOwner, tpm.CounterIndex); err != nil {
		t.Fatalf("NVUndefineSpace: %v", err)
	}
	if _, err := device.EnsureCounter(); err != nil {
		t.Fatal(err)
	}
	if base, ok, err := device.CounterBase(); ok || err != nil {
		t.Errorf("CounterBase of a new counter = %d, %t, %v, want none", base, ok, err)
	}
}
