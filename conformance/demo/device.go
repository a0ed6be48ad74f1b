package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// device is a soft machine with the agent on it.
type device struct {
	w       *world
	name    string
	machine *parts.Machine
	id      string
	system  System
}

// System is what updates a machine, and what boots it.
type System struct {
	Hardware  string                                                          // hardware id; default: that of the story
	Factory   string                                                          // file of the image in slot a; default: the recovery release
	Installer string                                                          // what the agent's --installer takes; default: ab, on the machine's own slots
	Restart   func(context.Context, *parts.Machine) (parts.BootReport, error) // default: the machine's own boot loader
}

// newDevice manufactures a machine: a TPM of its own, and the factory image in slot a.
func newDevice(ctx context.Context, w *world, name string) (*device, error) {
	return newDeviceOn(ctx, w, name, System{})
}

func newDeviceOn(ctx context.Context, w *world, name string, on System) (*device, error) {
	m, err := parts.NewMachine(ctx, parts.MachineConfig{Dir: w.path("devices", name)})
	if err != nil {
		return nil, err
	}
	on.Hardware, on.Factory = cmp.Or(on.Hardware, hardware), cmp.Or(on.Factory, w.images[recovery])
	on.Installer = cmp.Or(on.Installer, "ab:"+m.SlotsDir())
	if on.Restart == nil {
		on.Restart = func(ctx context.Context, m *parts.Machine) (parts.BootReport, error) { return m.Boot(ctx) }
	}
	d := &device{w: w, name: name, machine: m, system: on}
	if err := m.CopyToSlot(parts.SlotA, on.Factory); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	out, err := w.must(ctx, "cordon-agent", "id", "--tpm", m.TPM().Addr())
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	d.id = strings.TrimSpace(out)
	return d, nil
}

func (d *device) stateDir() string { return filepath.Join(d.machine.Dir(), "state") }

// rebootRequest is what the agent's restart command leaves behind: the story then restarts the machine.
func (d *device) rebootRequest() string { return filepath.Join(d.machine.Dir(), "reboot-requested") }

// step is what one run of the agent came to.
type step struct {
	Device    string    `json:"device"`
	Verdict   string    `json:"verdict"`
	Staged    string    `json:"staged"`
	Committed bool      `json:"committed"`
	Refusals  []refusal `json:"refusals"`
	NextPoll  int64     `json:"next_poll_seconds"`

	reboot bool // the agent asked for a restart
}

type refusal struct {
	Reason reason.Reason `json:"reason"`
	Detail string        `json:"detail"`
	Remedy string        `json:"remedy"`
	Local  bool          `json:"local"`
}

// refused reports whether the step was refused for that reason, by the device itself or by the server.
func (s step) refused(r reason.Reason, local bool) bool {
	return slices.ContainsFunc(s.Refusals, func(have refusal) bool { return have.Reason == r && have.Local == local })
}

func (s step) String() string {
	names := []string{}
	for _, r := range s.Refusals {
		names = append(names, string(r.Reason)+" "+r.Detail)
	}
	return fmt.Sprintf("verdict %q, staged %q, committed %v, refusals %q", s.Verdict, s.Staged, s.Committed, names)
}

// agentArgs are the flags of the agent on this machine.
func (d *device) agentArgs() []string {
	return append(d.flags(), "--reboot", "touch "+d.rebootRequest(), "--json")
}

// flags say which machine it is.
func (d *device) flags() []string {
	return []string{
		"--trust", d.w.trustFile(), "--tpm", d.machine.TPM().Addr(), "--state", d.stateDir(), "--event-log", d.machine.EventLog(),
		"--installer", d.system.Installer,
	}
}

// agent runs the agent once, as its own process. Refusals are part of the step.
func (d *device) agent(ctx context.Context) (step, error) {
	var enter []string
	if d.w.opt.enter != nil {
		enter = d.w.opt.enter(d.name)
	}
	r, err := d.w.runBehind(ctx, enter, nil, "cordon-agent", append(d.agentArgs(), "--once")...)
	if err != nil {
		return step{}, err
	}
	if r.code != 0 && r.code != 1 {
		return step{}, fmt.Errorf("the agent of %s ended with exit %d:\n%s%s", d.name, r.code, r.stdout, r.stderr)
	}
	var s step
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		return step{}, fmt.Errorf("the agent of %s printed %q: %w", d.name, r.stdout, err)
	}
	if (r.code == 1) != (len(s.Refusals) > 0) {
		return step{}, fmt.Errorf("the agent of %s ended with exit %d and %d refusals", d.name, r.code, len(s.Refusals))
	}
	err = os.Remove(d.rebootRequest())
	s.reboot = err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return step{}, err
	}
	return s, nil
}

// stage runs the agent and expects it to install a release and to ask for a restart.
func (d *device) stage(ctx context.Context, release string) error {
	s, err := d.agent(ctx)
	if err != nil {
		return err
	}
	if s.Staged != release || !s.reboot {
		return fmt.Errorf("%s should have installed %s and asked for a restart, got %s", d.name, release, s)
	}
	return nil
}

// boot restarts the machine.
func (d *device) boot(ctx context.Context) (parts.BootReport, error) {
	report, err := d.system.Restart(ctx, d.machine)
	if err != nil {
		return report, fmt.Errorf("%s does not boot: %w", d.name, err)
	}
	if report.Tried != nil {
		return report, fmt.Errorf("%s fell back: %w", d.name, report.Tried)
	}
	return report, nil
}

// prove runs the agent and expects the boot state to be affirmed.
func (d *device) prove(ctx context.Context) (step, error) {
	s, err := d.agent(ctx)
	if err != nil {
		return s, err
	}
	if s.Verdict != "affirmed" {
		return s, fmt.Errorf("%s should have proven its boot, got %s", d.name, s)
	}
	return s, nil
}

// update takes a device to a release: install, restart, prove.
func (d *device) update(ctx context.Context, release string) error {
	if err := d.stage(ctx, release); err != nil {
		return err
	}
	return d.finish(ctx, release)
}

// finish restarts into what was staged, and proves it.
func (d *device) finish(ctx context.Context, release string) error {
	if _, err := d.boot(ctx); err != nil {
		return err
	}
	s, err := d.prove(ctx)
	if err != nil {
		return err
	}
	if !s.Committed {
		return fmt.Errorf("%s should have committed %s, got %s", d.name, release, s)
	}
	return d.expectProven(ctx, release)
}

// director is the director metadata that the device has verified and kept.
func (d *device) director() (wire.Director, error) {
	var out wire.Director
	var errs []error
	for name, into := range map[string]*[]byte{"timestamp": &out.Timestamp, "snapshot": &out.Snapshot, "targets": &out.Targets} {
		b, err := os.ReadFile(filepath.Join(d.stateDir(), "director", name+".json"))
		*into = b
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}
