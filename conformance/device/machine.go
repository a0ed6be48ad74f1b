package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// Loader is how the firmware comes to the image.
type Loader string

// Loaders.
const (
	// SystemdBoot starts EFI/Linux/fw-VERSION.efi, counts tries and falls back.
	SystemdBoot Loader = "systemd-boot"
	// Direct: the image is what the firmware starts, EFI/BOOT/BOOTX64.EFI or BOOTAA64.EFI.
	Direct Loader = "direct"
)

// Config describes a machine.
type Config struct {
	Dir     string // everything of this machine; it must be empty or absent
	Image   string // that it leaves the factory with
	Version string // of Image
	Arch    parts.Arch
	Loader  Loader // default: SystemdBoot

	// LoaderFile is the boot loader; default: Debian's systemd-boot, which is not signed.
	LoaderFile string
	// Keys are the owner's own Secure Boot keys. The machine leaves the factory in setup mode and enrolls them in its
	// first start, which restarts it. They need SystemdBoot, and a loader and images signed with them.
	Keys *parts.SecureBootKeys

	TPM       parts.TPMConfig // Optional: Name or Stock of its TPM; Dir is ignored
	ESPBytes  int64           // Optional: as parts.DiskSpec
	DataBytes int64
	Memory    int           // MiB; 0: 512
	Clock     string        // Optional: its real-time clock, as QEMU's -rtc base= takes it
	Deadline  time.Duration // it is cut off so long after each Start; 0: 15 minutes
}

// defaultDeadline bounds one life of a machine in a test.
const defaultDeadline = 15 * time.Minute

// Machine is a PC with its disk, its firmware's variables and its TPM. Its methods are for one goroutine at a time.
type Machine struct {
	cfg Config
	dir string
	vm  *parts.VM // nil while it is off
	log *transcript
}

// New builds a machine and leaves it switched off.
func New(ctx context.Context, cfg Config) (*Machine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, fmt.Errorf("cannot build machine in folder %q: %w", cfg.Dir, errors.Join(err, errors.New("a folder is wanted")))
	}
	if cfg.Loader == "" {
		cfg.Loader = SystemdBoot
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.Keys != nil && cfg.Loader != SystemdBoot {
		return nil, errors.New("cannot build machine: keys are enrolled by systemd-boot, and this one has none")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot build machine: %w", err)
	}
	m := &Machine{cfg: cfg, dir: dir, log: &transcript{file: filepath.Join(dir, serialFile)}}
	if err := os.WriteFile(m.log.file, nil, 0o600); err != nil {
		return nil, fmt.Errorf("cannot build machine: %w", err)
	}
	if err := parts.NewVars(ctx, cfg.Arch, m.vars()); err != nil {
		return nil, err
	}
	if err := m.manufactureTPM(ctx); err != nil {
		return nil, err
	}
	if err := m.makeDisk(ctx); err != nil {
		return nil, err
	}
	return m, m.keep()
}

// kept is what Open needs to know of a machine beside its files.
type kept struct {
	Version   string     `json:"version,omitempty"` // that it left the factory with
	Loader    Loader     `json:"loader"`
	Arch      parts.Arch `json:"arch,omitempty"`
	Keys      string     `json:"keys,omitempty"` // folder
	ESPBytes  int64      `json:"esp_bytes,omitempty"`
	DataBytes int64      `json:"data_bytes,omitempty"`
	Memory    int        `json:"memory,omitempty"`
}

// Files of a machine.
const (
	keptFile   = "machine.json"
	serialFile = "serial.log" // what it says on its serial line
	halfFile   = "unfinished" // there while Bench builds it
)

func (m *Machine) keep() error {
	k := kept{Version: m.cfg.Version, Loader: m.cfg.Loader, Arch: m.cfg.Arch, ESPBytes: m.cfg.ESPBytes, DataBytes: m.cfg.DataBytes, Memory: m.cfg.Memory}
	if m.cfg.Keys != nil {
		k.Keys = m.cfg.Keys.Dir()
	}
	b, err := json.Marshal(k, json.Deterministic(true))
	if err == nil {
		err = os.WriteFile(m.path(keptFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the machine's description: %w", err)
	}
	return nil
}

// ErrNoMachine is returned by Open for a folder without a machine.
var ErrNoMachine = errors.New("there is no machine in this folder")

// Open takes a machine that New made in an earlier run of this program. It is taken to be off.
func Open(ctx context.Context, dir string) (*Machine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open machine: %w", err)
	}
	k, err := description(dir)
	if err != nil {
		return nil, err
	}
	cfg := Config{Dir: dir, Version: k.Version, Loader: k.Loader, Arch: k.Arch, ESPBytes: k.ESPBytes, DataBytes: k.DataBytes, Memory: k.Memory, Deadline: parts.MaxVMLife}
	if k.Keys != "" {
		if cfg.Keys, err = parts.NewSecureBootKeys(ctx, k.Keys); err != nil {
			return nil, err
		}
	}
	return &Machine{cfg: cfg, dir: dir, log: &transcript{file: filepath.Join(dir, serialFile)}}, nil
}

// description is what New kept of the machine in a folder. It returns ErrNoMachine.
func description(dir string) (kept, error) {
	b, err := os.ReadFile(filepath.Join(dir, keptFile))
	if _, half := os.Stat(filepath.Join(dir, halfFile)); half == nil || errors.Is(err, os.ErrNotExist) {
		return kept{}, fmt.Errorf("%w: %s", ErrNoMachine, dir)
	}
	if err != nil {
		return kept{}, fmt.Errorf("cannot open machine: %w", err)
	}
	var k kept
	if err := json.Unmarshal(b, &k, json.RejectUnknownMembers(true)); err != nil {
		return kept{}, fmt.Errorf("cannot open machine in %s: %w", dir, err)
	}
	return k, nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *Machine) vars() string { return m.path("vars.fd") }

func (m *Machine) tpm() string { return m.path("tpm") }

func (m *Machine) diskSpec() parts.DiskSpec {
	return parts.DiskSpec{Out: m.path("disk.img"), ESPBytes: m.cfg.ESPBytes, DataBytes: m.cfg.DataBytes}
}

// manufactureTPM makes the TPM. It is started once and stopped in order, as at the factory.
func (m *Machine) manufactureTPM(ctx context.Context) error {
	cfg := m.cfg.TPM
	cfg.Dir = m.tpm()
	t, err := parts.StartTPM(ctx, cfg)
	if err != nil {
		return err
	}
	return t.Stop()
}

func (m *Machine) makeDisk(ctx context.Context) error {
	spec := m.diskSpec()
	if m.cfg.Loader == Direct {
		spec.ESP = map[string]string{m.cfg.Arch.BootFile(): m.cfg.Image}
		return parts.MakeDisk(ctx, spec)
	}
	loader, conf := m.cfg.LoaderFile, "timeout 0\neditor no\n"
	if loader == "" {
		software, err := parts.SoftwareOf(ctx, os.Stderr, m.cfg.Arch)
		if err != nil {
			return err
		}
		loader = software.Loader
	}
	spec.ESP = map[string]string{"EFI/Linux/" + EntryName(m.cfg.Version): m.cfg.Image}
	if m.cfg.Keys != nil {
		maps.Copy(spec.ESP, m.cfg.Keys.OnESP())
		conf += "secure-boot-enroll force\n"
	}
	spec.ESP[m.cfg.Arch.BootFile()] = loader
	spec.Text = map[string]string{"loader/loader.conf": conf}
	return parts.MakeDisk(ctx, spec)
}

// EntryName is the name of a version's image in EFI/Linux, without a count of tries.
func EntryName(version string) string { return "fw-" + version + ".efi" }

// Dir is the machine's folder.
func (m *Machine) Dir() string { return m.dir }

// DeviceID is the id that a server knows the machine by. The machine is off; agent is a cordon-agent of this host.
func (m *Machine) DeviceID(ctx context.Context, agent string) (string, error) {
	if err := m.off(); err != nil {
		return "", err
	}
	t, err := parts.StartTPM(ctx, parts.TPMConfig{Dir: m.tpm()})
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, agent, "id", "--tpm", t.Addr()).Output()
	if err := errors.Join(err, t.Stop()); err != nil {
		return "", fmt.Errorf("cannot tell the machine's device id: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// EKRoots is a file of the certificates that the machine's TPM is known by, for a server's ek_roots_file.
func EKRoots(out string) error {
	roots, intermediates, err := parts.CARoots("")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(roots, intermediates...), 0o644)
}

// ESP is the EFI system partition, for edits while the machine is off.
func (m *Machine) ESP() (parts.ESP, error) {
	return parts.OpenESP(m.path("disk.img")), m.off()
}

func (m *Machine) off() error {
	if m.On() {
		return errors.New("the machine is on: switch it off first")
	}
	return nil
}

// On reports whether the machine runs.
func (m *Machine) On() bool {
	if m.vm == nil {
		return false
	}
	select {
	case <-m.vm.Ended():
		return false
	default:
		return true
	}
}
