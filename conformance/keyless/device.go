package keyless

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Device is a soft machine that has booted its factory image, with the agent on it and listed in the inventory.
type Device struct {
	s       *Stage
	ID      string
	machine *parts.Machine
}

// Step is what one run of the agent came to.
type Step struct {
	Verdict   string `json:"verdict"`
	Staged    string `json:"staged"`
	Committed bool   `json:"committed"`
	Refusals  []struct {
		Reason reason.Reason `json:"reason"`
		Detail string        `json:"detail"`
		Local  bool          `json:"local"`
	} `json:"refusals"`
}

// Refused reports whether the device itself refused for that reason, with a detail that holds words.
func (s Step) Refused(r reason.Reason, words string) bool {
	for _, have := range s.Refusals {
		if have.Reason == r && have.Local && strings.Contains(have.Detail, words) {
			return true
		}
	}
	return false
}

// NewDevice makes a device and claims it.
func (s *Stage) NewDevice() *Device {
	s.t.Helper()
	d := &Device{s: s, machine: parts.TestMachine(s.t, parts.MachineConfig{})}
	s.check(d.machine.CopyToSlot(parts.SlotA, s.images[Factory]))
	d.ID = strings.TrimSpace(s.Must(nil, "cordon-agent", "id", "--tpm", d.machine.TPM().Addr()))
	s.Ctl("bob", "inventory", "set", d.ID, "--product", Product, "--hardware-id", Hardware, "--profile", profile)
	d.Boot()
	return d
}

// Boot restarts the machine.
func (d *Device) Boot() {
	d.s.t.Helper()
	report, err := d.machine.Boot(d.s.t.Context())
	if err == nil && report.Tried != nil {
		err = fmt.Errorf("it fell back: %w", report.Tried)
	}
	d.s.check(err)
}

// Agent runs the agent once.
func (d *Device) Agent() Step {
	d.s.t.Helper()
	state := filepath.Join(d.machine.Dir(), "state")
	r := d.s.Run(nil, "cordon-agent", "--trust", d.s.Path("trust.json"), "--tpm", d.machine.TPM().Addr(), "--state", state,
		"--event-log", d.machine.EventLog(), "--installer", "ab:"+d.machine.SlotsDir(), "--reboot", "touch "+filepath.Join(d.machine.Dir(), "reboot-requested"), "--json", "--once")
	var out Step
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil || !slices.Contains([]int{0, 1}, r.Code) {
		d.s.t.Fatalf("the agent ended with %d: %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	return out
}

// Update brings the device to a release, and fails the test unless the server has its proof in the end.
func (d *Device) Update(release string) {
	d.s.t.Helper()
	if step := d.Agent(); step.Staged != release {
		d.s.t.Fatalf("the device should have staged %s: %+v", release, step)
	}
	_ = os.Remove(filepath.Join(d.machine.Dir(), "reboot-requested")) // one that is not there is no fault
	d.Boot()
	if step := d.Agent(); step.Verdict != "affirmed" || !step.Committed {
		d.s.t.Fatalf("the device should have committed %s: %+v", release, step)
	}
	now, err := d.s.API("bob").Device(d.s.t.Context(), d.ID)
	d.s.check(err)
	if now.Proven != release {
		d.s.t.Fatalf("the server says that %s is proven, want %s", now.Proven, release)
	}
}
