package device

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// What the machines of a fleet are in the inventory.
const (
	Product  = "edge"
	Hardware = "pc"
	Profile  = "q35-ovmf"
)

// FleetConfig says how a fleet differs from the usual one.
type FleetConfig struct {
	Bin     string // folder of the programs, from demo.Build
	Arch    parts.Arch
	Loader  Loader // default: SystemdBoot
	OwnKeys bool   // Secure Boot with keys of the fleet's owner
	Tags    string // Optional: build tags of the agent
	Times   string // [times] of the server; empty: polls once a second
	Config  string // Optional: TOML tables added to the server's configuration
}

// times make stories of seconds: a machine polls once a second, and its lease outlives its boot.
const times = `
[times]
timestamp = "5s"
poll = "1s"
beacon_window = "5m"
lease = "10m"
grace = "20m"
challenge = "3m"
update_deadline = "1h"
enforce = "200ms"
`

// Fleet is a server after its ceremony, with a product for machines, and everything to make releases for it.
type Fleet struct {
	Stage    *demo.Stage
	Programs Programs
	Keys     *parts.SecureBootKeys // nil without OwnKeys

	t      testing.TB
	cfg    FleetConfig
	dir    string
	trust  []byte
	loader string            // boot loader of every machine; empty for a direct boot
	images map[string]string // by version
}

// NewFleet plays the ceremony and makes the product; everything ends with the test.
func NewFleet(t testing.TB, cfg FleetConfig) *Fleet {
	t.Helper()
	if cfg.Loader == "" {
		cfg.Loader = SystemdBoot
	}
	if cfg.Times == "" {
		cfg.Times = times
	}
	f := &Fleet{t: t, cfg: cfg, dir: t.TempDir(), images: map[string]string{}}
	f.Stage = demo.NewStage(t, demo.StageConfig{
		Bin: cfg.Bin, Times: cfg.Times, Config: cfg.Config,
		Names: []string{"10.0.2.2", "127.0.0.1", "localhost"}, Listen: listenForMachines,
	})
	f.must(f.prepare(t.Context()))
	return f
}

// machineListener is a port of this host's loopback that machines see at 10.0.2.2, and says so.
type machineListener struct{ net.Listener }

func (l machineListener) Addr() net.Addr {
	port := l.Listener.Addr().(*net.TCPAddr).Port
	return &net.TCPAddr{IP: net.IPv4(10, 0, 2, 2), Port: port}
}

func listenForMachines() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return machineListener{l}, nil
}

// For is the same fleet for a part of the test that made it: what goes wrong is that part's failure, and machines that
// are made in it end with it.
func (f *Fleet) For(t testing.TB) *Fleet {
	part := *f
	part.t, part.Stage = t, f.Stage.For(t)
	return &part
}

func (f *Fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// prepare builds the programs, takes the trust bundle and makes the owner's keys.
func (f *Fleet) prepare(ctx context.Context) error {
	var err error
	if f.Programs, err = BuildPrograms(ctx, f.cfg.Arch, f.dir, f.cfg.Tags); err != nil {
		return err
	}
	if f.trust, err = os.ReadFile(f.Stage.Path("trust.json")); err != nil {
		return err
	}
	software, err := parts.SoftwareOf(ctx, os.Stderr, f.cfg.Arch)
	if err != nil {
		return err
	}
	if f.cfg.Loader == SystemdBoot {
		f.loader = software.Loader
	}
	if f.cfg.OwnKeys {
		if f.Keys, err = parts.NewSecureBootKeys(ctx, filepath.Join(f.dir, "keys")); err != nil {
			return err
		}
		f.loader = filepath.Join(f.dir, "loader.efi")
		if err := f.Keys.Sign(ctx, software.Loader, f.loader); err != nil {
			return err
		}
	}
	policy := fmt.Sprintf("product = %q\nsecure_boot = %v\n[[publisher]]\nname = \"ci\"\nkey_file = \"publisher.pub.pem\"\n", Product, f.cfg.OwnKeys)
	if err := os.WriteFile(f.Stage.Path(Product+".toml"), []byte(policy), 0o600); err != nil {
		return err
	}
	return f.Ceremony("product set --dir ceremony --policy " + Product + ".toml")
}

// Ceremony runs commands of cordon-sign on the offline targets, has both holders sign, and applies.
func (f *Fleet) Ceremony(commands ...string) error {
	commands = append(slices.Clone(commands), "root sign --dir ceremony --key hanna.pem", "root sign --dir ceremony --key henry.pem",
		"root apply --dir ceremony --token-file "+f.Stage.Path("alice.token"))
	for _, line := range commands {
		if code, stdout, stderr := f.Stage.Run("cordon-sign", strings.Fields(line)...); code != 0 {
			return fmt.Errorf("cordon-sign %s ended with exit %d:\n%s%s", line, code, stdout, stderr)
		}
	}
	return nil
}

// Build makes the image of a version; change may alter what is in it.
func (f *Fleet) Build(version string, change func(*ImageSpec)) string {
	f.t.Helper()
	spec := ImageSpec{Version: version, Arch: f.cfg.Arch, Programs: f.Programs, Trust: f.trust, Keys: f.Keys, Out: filepath.Join(f.dir, "image-"+version+".efi")}
	if f.cfg.Loader == SystemdBoot {
		spec.Agent = []string{"--installer", "uki:/esp"}
	}
	if change != nil {
		change(&spec)
	}
	f.must(BuildImage(f.t.Context(), spec))
	f.images[version] = spec.Out
	return spec.Out
}

// Publish publishes a version that Build made.
func (f *Fleet) Publish(version string, more ...string) {
	f.t.Helper()
	if code, out := f.TryPublish(version, more...); code != 0 {
		f.t.Fatalf("publish %s ended with exit %d:\n%s", version, code, out)
	}
}

// TryPublish is Publish that may be refused; it returns exit code and output of cordon-sign.
func (f *Fleet) TryPublish(version string, more ...string) (int, string) {
	f.t.Helper()
	component := "system=" + f.images[version] + ",hw=" + f.hardware() + ",installer=uki"
	if f.loader != "" {
		component += ",boot_loader=" + f.loader
	}
	args := append([]string{"publish", "--product", Product, "--version", version, "--component", component, "--key", "publisher.pem"}, more...)
	code, stdout, stderr := f.Stage.Run("cordon-sign", f.Stage.By("ci-builder", args...)...)
	return code, stdout + stderr
}

// Machine builds a machine that leaves the factory with a version.
func (f *Fleet) Machine(name, version string) *Machine {
	f.t.Helper()
	return f.MachineWith(name, version, func(*Config) {})
}

// MachineWith is Machine with choices.
func (f *Fleet) MachineWith(name, version string, change func(*Config)) *Machine {
	f.t.Helper()
	cfg := Config{
		Dir: filepath.Join(f.dir, "machine-"+name), Image: f.images[version], Version: version, Arch: f.cfg.Arch, Loader: f.cfg.Loader, LoaderFile: f.loader, Keys: f.Keys,
		TPM: parts.TPMConfig{Name: name},
	}
	change(&cfg)
	m, err := New(f.t.Context(), cfg)
	f.must(err)
	f.Keep(name, m)
	return m
}

// Keep ends a machine with the test, and shows what it said last if the test has failed.
func (f *Fleet) Keep(name string, m *Machine) {
	f.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			f.t.Errorf("machine %s: %v", name, err)
		}
		if f.t.Failed() {
			f.t.Logf("machine %s said last:\n%s", name, m.log.tail())
		}
	})
}

// ID is the device id of a machine that is off.
func (f *Fleet) ID(m *Machine) string {
	f.t.Helper()
	id, err := m.DeviceID(f.t.Context(), filepath.Join(f.cfg.Bin, "cordon-agent"))
	f.must(err)
	return id
}

// Claim lists a device in the inventory.
func (f *Fleet) Claim(id string) {
	f.t.Helper()
	f.Stage.Ctl("bob", "inventory", "set", id, "--product", Product, "--hardware-id", f.hardware(), "--profile", f.profile())
}

// Platform has the holders sign what a machine's own firmware measured, from an event "pcrs".
func (f *Fleet) Platform(e Event) {
	f.t.Helper()
	values, err := e.PCRs()
	f.must(err)
	var text strings.Builder
	for _, index := range []int{0, 2, 3, 7} {
		fmt.Fprintf(&text, "SHA256 PCR%02d %s\n", index, values[index])
	}
	f.must(os.WriteFile(f.Stage.Path("platform.txt"), []byte(text.String()), 0o600))
	f.must(f.Ceremony("product baseline --dir ceremony --product " + Product + " --profile " + f.profile() + " --pcrs platform.txt"))
}

// Seen is what the server says about a device.
func (f *Fleet) Seen(id string) api.Device {
	f.t.Helper()
	var d api.Device
	f.must(json.Unmarshal([]byte(f.Stage.Ctl("bob", "device", "show", id, "--json")), &d))
	return d
}

// Why is the story of a device's last decision.
func (f *Fleet) Why(id string) api.Why {
	f.t.Helper()
	var w api.Why
	f.must(json.Unmarshal([]byte(f.Stage.Ctl("bob", "why", id, "--json")), &w))
	return w
}

// WaitSeen waits until the server says about a device what is wanted.
func (f *Fleet) WaitSeen(ctx context.Context, m *Machine, id, what string, wanted func(api.Device) bool) api.Device {
	f.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		code, stdout, stderr := f.Stage.Run("cordonctl", f.Stage.By("bob", "device", "show", id, "--json")...)
		var d api.Device
		if code == 0 {
			f.must(json.Unmarshal([]byte(stdout), &d))
			if wanted(d) {
				return d
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("waited in vain for %s: %v; the server says: %s%s\nthe machine:\n%s", what, ctx.Err(), stdout, stderr, m.log.tail())
		}
	}
}

// Report is an auditor's report of everything so far. A report ends with a full second, so one may have to be waited for.
func (f *Fleet) Report() api.Report {
	f.t.Helper()
	var r api.Report
	begin := time.Now()
	f.Stage.WaitFor("a report of everything so far", func() error {
		if r = f.report(); r.To.Before(begin) {
			return fmt.Errorf("it ends at %s", r.To)
		}
		return nil
	})
	return r
}

func (f *Fleet) report() api.Report {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "report.json")
	f.Stage.Ctl("dave", "report", "--from", "2020-01-01", "--out", file)
	b, err := os.ReadFile(file)
	f.must(err)
	var signed api.SignedReport
	f.must(json.Unmarshal(b, &signed))
	var r api.Report
	f.must(json.Unmarshal(signed.Report, &r))
	return r
}
