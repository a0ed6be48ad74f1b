//go:build device

package device_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// tpmLockout guesses a password of the machine's TPM until it locks itself, as many power cuts can lead to, and lets the
// machine prove a boot in that state.
func tpmLockout(t *testing.T, n *narrator) string {
	f := device.NewFleet(t, device.FleetConfig{Bin: programs.Dir(t)})
	f.Build("1", nil)
	f.Publish("1")
	m, id, _ := proveFirst(t, n, f, func(*device.Config) {})
	must(t, m.PowerOff(bounded(t)))
	lockOut(t, m)
	n.saw("the TPM's lockout counter: %d", lockoutCounter(t, m))
	again := time.Now()
	ctx := switchOn(t, m)
	d := f.WaitSeen(ctx, m, id, "a proof in lockout", provenAfter("1", again))
	n.saw("proven %s, %s", d.Proven, d.Standing)
	told := ""
	f.WaitSeen(ctx, m, id, "the report of the lockout", func(api.Device) bool {
		for _, e := range f.Why(id).Events {
			if strings.Contains(string(e.Data), "tpm_locked_out") {
				told = strings.Join(strings.Fields(string(e.Data)), " ")
			}
		}
		return told != ""
	})
	n.saw("the server knows: %s", told)
	quotesAccepted(t, n, f, id)
	must(t, m.PowerOff(ctx))
	f.Stage.Report()
	return "locked out, affirmed all the same, reported as tpm_locked_out, " + quarantined(f, id)
}

// withTPM opens the TPM of a machine that is off.
func withTPM(t *testing.T, m *device.Machine, use func(*parts.TPM)) {
	t.Helper()
	p, err := parts.StartTPM(t.Context(), parts.TPMConfig{Dir: filepath.Join(m.Dir(), device.TPM)})
	must(t, err)
	use(p)
	must(t, p.Stop())
}

// lockOut guesses the password of a key until the TPM answers nobody any more.
func lockOut(t *testing.T, m *device.Machine) {
	t.Helper()
	withTPM(t, m, func(p *parts.TPM) {
		rw, err := p.Open()
		must(t, err)
		defer rw.Close()
		h, _, err := tpm2.CreatePrimary(rw, tpm2.HandleOwner, tpm2.PCRSelection{}, "", "secret", tpm2.Public{
			Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: tpm2.FlagSignerDefault &^ tpm2.FlagRestricted,
			ECCParameters: &tpm2.ECCParams{CurveID: tpm2.CurveNISTP256, Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}},
		})
		must(t, err)
		for range 64 {
			_, err := tpm2.Sign(rw, h, "wrong", make([]byte, 32), nil, nil)
			var warning tpm2.Warning
			if errors.As(err, &warning) && warning.Code == tpm2.RCLockout {
				must(t, tpm2.FlushContext(rw, h))
				return
			}
		}
		t.Fatal("the TPM never went into lockout")
	})
}

// lockoutCounter is how often the TPM of a machine that is off has counted a failure.
func lockoutCounter(t *testing.T, m *device.Machine) uint32 {
	t.Helper()
	var counter uint32
	withTPM(t, m, func(p *parts.TPM) {
		rw, err := p.Open()
		must(t, err)
		defer rw.Close()
		const ptLockoutCounter = 0x20e // TPM_PT_LOCKOUT_COUNTER
		values, _, err := tpm2.GetCapability(rw, tpm2.CapabilityTPMProperties, 1, ptLockoutCounter)
		must(t, err)
		for _, v := range values {
			if p, ok := v.(tpm2.TaggedProperty); ok && uint32(p.Tag) == ptLockoutCounter {
				counter = p.Value
			}
		}
	})
	return counter
}
