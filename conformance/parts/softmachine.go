package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Slots of a machine.
const (
	SlotA = "a"
	SlotB = "b"
)

// MachineConfig says where a machine lives and what it is made of.
type MachineConfig struct {
	Dir       string         // the machine; made when missing, found again when not
	TPM       *TPM           // Optional: a running TPM, which stays the caller's
	TPMConfig TPMConfig      // Optional, without TPM: how to start the machine's own; default folder: Dir/tpm
	Firmware  FirmwareConfig // counts when the machine is made; afterwards the flash decides
}

// Machine is the soft machine: a computer with two slots, a TPM and firmware that measures what it starts. It runs
// nothing, but each boot measures the real bytes of the slot, so that a quote of its TPM and its event log are evidence
// of them.
//
// Its folder is its disk and what its operating system shows:
//
//	slots/a.img, slots/b.img  an image each: a UKI, or what GRUBSlot makes
//	slots/active              the slot to boot: "a" or "b"; an installer commits by replacing it
//	slots/next                optional: a slot to try once. The boot renames it to slots/tried before it reads the
//	                          slot, so that the boot after a failed trial is one of the active slot
//	slots/tried               the last slot that was tried
//	slots/running             the slot that was booted, as a boot loader tells its operating system
//	firmware.fd               the platform's firmware; firmware.version what its S-CRTM reports
//	eventlog.bin              the TCG event log of the last boot
//	tpm/                      state of the TPM, if the machine owns it
//
// Boots of one machine must not overlap; slots may be written at any time, as on a real disk.
type Machine struct {
	dir  string
	tpm  *TPM
	owns bool
}

// BootReport says what a boot did.
type BootReport struct {
	Slot  string                // the slot that runs
	Trial bool                  // it was named by slots/next
	Tried error                 // why a trial before this boot did not start; nil if there was none or it started
	Log   string                // path of the event log
	PCRs  map[int]digest.SHA256 // PCR 0 to 15 of the TPM after the boot
}

// NewMachine makes the machine in cfg.Dir, or opens the one that is there, and starts its TPM. It does not boot.
func NewMachine(ctx context.Context, cfg MachineConfig) (*Machine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, fmt.Errorf("cannot make machine in folder %q: %w", cfg.Dir, errors.Join(err, errNoFolder(cfg.Dir)))
	}
	m := &Machine{dir: dir, tpm: cfg.TPM}
	if err := m.manufacture(cfg.Firmware); err != nil {
		return nil, fmt.Errorf("cannot make machine: %w", err)
	}
	if m.tpm != nil {
		return m, nil
	}
	if cfg.TPMConfig.Dir == "" {
		cfg.TPMConfig.Dir = filepath.Join(dir, "tpm")
		if cfg.TPMConfig.Name == "" && cfg.TPMConfig.Stock == 0 {
			cfg.TPMConfig.Name = filepath.Base(dir)
		}
	}
	if m.tpm, err = StartTPM(ctx, cfg.TPMConfig); err != nil {
		return nil, err
	}
	m.owns = true
	return m, nil
}

// manufacture makes the disk and flashes the firmware, once.
func (m *Machine) manufacture(firmware FirmwareConfig) error {
	if err := os.MkdirAll(filepath.Join(m.dir, "slots"), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(m.path("firmware.fd")); errors.Is(err, os.ErrNotExist) {
		if err := m.Flash(firmware); err != nil {
			return err
		}
	}
	if _, err := os.Stat(m.path("slots/active")); errors.Is(err, os.ErrNotExist) {
		return m.SetActive(SlotA)
	}
	return nil
}

// Flash replaces the platform's firmware, as a firmware update or an implant does; the next boot measures it.
func (m *Machine) Flash(firmware FirmwareConfig) error {
	if err := writeFile(m.path("firmware.version"), []byte(firmware.Version), 0o644); err != nil {
		return fmt.Errorf("cannot flash firmware: %w", err)
	}
	if err := writeFile(m.path("firmware.fd"), flashImage(firmware.Version), 0o644); err != nil {
		return fmt.Errorf("cannot flash firmware: %w", err)
	}
	return nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// Dir is the machine's folder.
func (m *Machine) Dir() string { return m.dir }

// TPM is the machine's TPM.
func (m *Machine) TPM() *TPM { return m.tpm }

// EventLog is the path of the event log that the machine's operating system shows.
func (m *Machine) EventLog() string { return m.path("eventlog.bin") }

// SlotsDir is the folder of the slots, which an A/B installer writes.
func (m *Machine) SlotsDir() string { return m.path("slots") }

// SlotPath is the file of a slot.
func (m *Machine) SlotPath(slot string) string { return m.path(filepath.Join("slots", slot+".img")) }

// WriteSlot puts an image into a slot.
func (m *Machine) WriteSlot(slot string, image []byte) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := writeFile(m.SlotPath(slot), image, 0o644); err != nil {
		return fmt.Errorf("cannot write slot: %w", err)
	}
	return nil
}

// CopyToSlot puts the image in file path into a slot.
func (m *Machine) CopyToSlot(slot, path string) error {
	image, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read image: %w", err)
	}
	return m.WriteSlot(slot, image)
}

// Tamper rewrites what is in a slot, behind the back of every installer.
func (m *Machine) Tamper(slot string, change func([]byte) []byte) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	image, err := os.ReadFile(m.SlotPath(slot))
	if err != nil {
		return fmt.Errorf("cannot read slot: %w", err)
	}
	return m.WriteSlot(slot, change(image))
}

// Active is the slot that boots by default.
func (m *Machine) Active() (string, error) {
	slot, err := m.readSlot("slots/active")
	if err != nil {
		return "", fmt.Errorf("cannot find active slot: %w", err)
	}
	return slot, nil
}

// SetActive names the slot that boots by default.
func (m *Machine) SetActive(slot string) error { return m.nameSlot("slots/active", slot) }

// SetNext names a slot for the next boot only.
func (m *Machine) SetNext(slot string) error { return m.nameSlot("slots/next", slot) }

func (m *Machine) nameSlot(file, slot string) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := writeFile(m.path(file), []byte(slot), 0o644); err != nil {
		return fmt.Errorf("cannot name slot: %w", err)
	}
	return nil
}

func (m *Machine) readSlot(file string) (string, error) {
	b, err := os.ReadFile(m.path(file))
	if err != nil {
		return "", err
	}
	slot := strings.TrimSpace(string(b))
	return slot, checkSlot(slot)
}

func checkSlot(slot string) error {
	if slot != SlotA && slot != SlotB {
		return fmt.Errorf("cannot use slot %q: the slots are %q and %q", slot, SlotA, SlotB)
	}
	return nil
}

// Boot restarts the machine in order: the operating system shuts its TPM down first. A trial that cannot start is
// followed by a boot of the active slot; if that cannot start either, the error is ErrNotBootable.
func (m *Machine) Boot(ctx context.Context) (BootReport, error) { return m.boot(ctx, m.tpm.Reset) }

// PowerCut restarts the machine as if its power had failed: the TPM gets no shutdown.
func (m *Machine) PowerCut(ctx context.Context) (BootReport, error) {
	return m.boot(ctx, m.tpm.PowerCut)
}

func (m *Machine) boot(ctx context.Context, restart func(context.Context) error) (BootReport, error) {
	trial, err := m.takeNext()
	if err != nil {
		return BootReport{}, err
	}
	var tried error
	if trial != "" {
		report, err := m.start(ctx, trial, restart)
		if err == nil {
			report.Trial = true
			return report, nil
		}
		if !errors.Is(err, ErrNotBootable) {
			return BootReport{}, err
		}
		tried = err
	}
	active, err := m.Active()
	if err != nil {
		return BootReport{}, err
	}
	report, err := m.start(ctx, active, restart)
	if err != nil {
		return BootReport{}, err
	}
	report.Tried = tried
	return report, nil
}

// takeNext consumes slots/next. Whatever it holds, the boot after this one does not see it again.
func (m *Machine) takeNext() (string, error) {
	err := os.Rename(m.path("slots/next"), m.path("slots/tried"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot take the trial: %w", err)
	}
	if err := syncDir(m.path("slots")); err != nil {
		return "", fmt.Errorf("cannot take the trial: %w", err)
	}
	slot, err := m.readSlot("slots/tried")
	if err != nil {
		slot = "" // a boot loader ignores an entry that it cannot read
	}
	return slot, nil
}

// start starts what a slot holds and says so as a boot loader does.
func (m *Machine) start(ctx context.Context, slot string, restart func(context.Context) error) (BootReport, error) {
	report, err := m.startFile(ctx, m.SlotPath(slot), restart)
	if err != nil {
		return BootReport{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	report.Slot = slot
	return report, m.nameSlot("slots/running", slot)
}

// BootFrom is Boot where another boot loader than the machine's own has chosen what starts: the slot in the file path.
// It does not look for another one; the error is ErrNotBootable when this one cannot start.
func (m *Machine) BootFrom(ctx context.Context, path string) (BootReport, error) {
	return m.startFile(ctx, path, m.tpm.Reset)
}

// startFile resets the TPM, measures the firmware and the slot, extends the PCRs with the same digests and shows the log.
func (m *Machine) startFile(ctx context.Context, path string, restart func(context.Context) error) (BootReport, error) {
	if err := restart(ctx); err != nil {
		return BootReport{}, err
	}
	// Until the new boot has its log, there is none: the old one does not describe the PCRs any more.
	if err := os.Remove(m.EventLog()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return BootReport{}, fmt.Errorf("cannot remove the old event log: %w", err)
	}
	events, err := m.measure(path)
	if err != nil {
		return BootReport{}, err
	}
	if err := m.extend(events); err != nil {
		return BootReport{}, err
	}
	if err := writeFile(m.EventLog(), encodeLog(events), 0o644); err != nil {
		return BootReport{}, fmt.Errorf("cannot write event log: %w", err)
	}
	pcrs, err := m.tpm.PCRs()
	if err != nil {
		return BootReport{}, err
	}
	return BootReport{Log: m.EventLog(), PCRs: pcrs}, nil
}

func (m *Machine) measure(path string) ([]measurement, error) {
	version, err := os.ReadFile(m.path("firmware.version"))
	if err != nil {
		return nil, fmt.Errorf("cannot read firmware: %w", err)
	}
	flash, err := os.ReadFile(m.path("firmware.fd"))
	if err != nil {
		return nil, fmt.Errorf("cannot read firmware: %w", err)
	}
	events, err := measureFirmware(string(version), flash)
	if err != nil {
		return nil, err
	}
	image, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: it is empty", ErrNotBootable)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read slot: %w", err)
	}
	measure := measureUKI
	if isGRUBSlot(image) {
		measure = measureGRUB
	}
	loaded, err := measure(image)
	if err != nil {
		return nil, err
	}
	return append(events, loaded...), nil
}

func (m *Machine) extend(events []measurement) error {
	for _, e := range events {
		if err := m.tpm.Extend(e.pcr, e.digest); err != nil {
			return err
		}
	}
	return nil
}

// Close stops the TPM if the machine owns it. The machine can be opened again from its folder.
func (m *Machine) Close() error {
	if !m.owns {
		return nil
	}
	return m.tpm.Stop()
}
