package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Errors of the bench.
var (
	ErrRunning    = errors.New("the machine is running")
	ErrNotRunning = errors.New("the machine is not running")
	ErrTrust      = errors.New("cannot use the trust bundle")
	ErrBuilt      = errors.New("the machine is built already")
)

// Bench is a folder with one machine, for people: 'conformance device'.
type Bench struct {
	dir string
	out io.Writer // what the machine says
	log io.Writer // what is done
}

// NewBench names a folder; it is made when a machine is built.
func NewBench(dir string, out, log io.Writer) (*Bench, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use folder %q: %w", dir, err)
	}
	return &Bench{dir: abs, out: out, log: log}, nil
}

// BuildOptions say what machine Up builds when the folder holds none yet.
type BuildOptions struct {
	Trust   string // file, from 'cordonctl provision'
	Version string // of its factory image
	Arch    parts.Arch
	OwnKeys bool // Secure Boot with keys of its own
	Direct  bool // without a boot loader, and so without updates
}

func (b *Bench) path(name string) string { return filepath.Join(b.dir, name) }

// consoleFile holds the path of the running machine's console.
const consoleFile = "console"

// claim keeps other programs away from the machine while it is used. It returns ErrRunning.
func (b *Bench) claim() (release func(), err error) {
	f, err := os.OpenFile(b.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the machine: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(ErrRunning, f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock goes with the file
}

// Up builds the machine if there is none, switches it on, and shows what it says until it switches itself off or ctx ends,
// which switches it off in order.
func (b *Bench) Up(ctx context.Context, o BuildOptions) error {
	if err := b.fits(o); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the machine's folder: %w", err)
	}
	release, err := b.claim()
	if err != nil {
		return err
	}
	defer release()
	m, err := Open(ctx, b.dir)
	if errors.Is(err, ErrNoMachine) {
		m, err = b.build(ctx, o)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(b.log, "Switching the machine on; it waits while another one of this user runs.")
	if err := m.Start(ctx); err != nil {
		return err
	}
	defer m.Close()
	if err := os.WriteFile(b.path(consoleFile), []byte(m.vm.ConsolePath()), 0o600); err != nil {
		return fmt.Errorf("cannot tell where the console is: %w", err)
	}
	defer os.Remove(b.path(consoleFile))
	fmt.Fprintf(b.log, "The machine is on; Ctrl-C switches it off. Its console: go run ./conformance device console --dir %s\n", b.dir)
	if err := b.follow(ctx, m); err != nil {
		return err
	}
	off, cancel := context.WithTimeout(context.WithoutCancel(ctx), offTime)
	defer cancel()
	return m.PowerOff(off)
}

// fits refuses options that this folder cannot have: a new machine needs a trust bundle, and one that is there stays what it is.
func (b *Bench) fits(o BuildOptions) error {
	was, err := description(b.dir)
	if errors.Is(err, ErrNoMachine) {
		_, err := readTrust(o.Trust)
		return err
	}
	if err != nil {
		return err
	}
	if o.Trust != "" {
		given, err := readTrust(o.Trust)
		if err != nil {
			return err
		}
		if has, err := os.ReadFile(b.path("trust.json")); err != nil || !bytes.Equal(given, has) {
			return fmt.Errorf("%w: another trust bundle than in %s", ErrBuilt, b.dir)
		}
	}
	if o.Arch != "" && o.Arch != was.Arch || o.OwnKeys && was.Keys == "" || o.Direct && was.Loader != Direct || o.Version != "" && o.Version != was.Version {
		return fmt.Errorf("%w: the machine in %s is another one", ErrBuilt, b.dir)
	}
	return nil
}

func readTrust(file string) ([]byte, error) {
	if file == "" {
		return nil, fmt.Errorf("%w: none is given", ErrTrust)
	}
	trust, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	if _, err := wire.DecodeTrust(trust); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	return trust, nil
}

// follow copies what the machine says until it is off or ctx ends.
func (b *Bench) follow(ctx context.Context, m *Machine) error {
	mark, err := m.Mark()
	for err == nil {
		var l Line
		l, err = m.Wait(ctx, mark, "the end", func(Line) bool { return true })
		if err == nil {
			mark++
			fmt.Fprintln(b.out, l.Text)
			if l.Event != nil && l.Event.Name == "pcrs" {
				if err := b.told(*l.Event); err != nil {
					fmt.Fprintln(b.log, err) // no reason to pull the plug
				}
			}
		}
	}
	if ctx.Err() != nil || !m.On() {
		return m.why()
	}
	return err
}

// told writes the registers of the boot where the ceremony reads them, and says once what to do with them.
func (b *Bench) told(e Event) error {
	values, err := e.PCRs()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, index := range []int{0, 2, 3, 7} {
		fmt.Fprintf(&text, "SHA256 PCR%02d %s\n", index, values[index])
	}
	_, before := os.Stat(b.path("pcrs.txt"))
	if err := os.WriteFile(b.path("pcrs.txt"), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("cannot keep the machine's registers: %w", err)
	}
	if before == nil {
		return nil
	}
	next, err := os.ReadFile(b.path("next.txt"))
	if err == nil {
		fmt.Fprintf(b.log, "%s", next)
	}
	return nil
}

// build makes keys, image and machine, and writes down what its owner does next.
func (b *Bench) build(ctx context.Context, o BuildOptions) (*Machine, error) {
	trust, err := readTrust(o.Trust)
	if err != nil {
		return nil, err
	}
	if o.Arch == "" {
		o.Arch = parts.AMD64
	}
	if o.Version == "" {
		o.Version = "1"
	}
	if err := b.begin(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(b.path("trust.json"), trust, 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep the trust bundle: %w", err)
	}
	software, err := parts.SoftwareOf(ctx, b.log, o.Arch)
	if err != nil {
		return nil, err
	}
	cfg := Config{Dir: b.dir, Version: o.Version, Arch: o.Arch, Loader: SystemdBoot, LoaderFile: software.Loader, TPM: parts.TPMConfig{Name: filepath.Base(b.dir)}}
	if o.Direct {
		cfg.Loader, cfg.LoaderFile = Direct, ""
	}
	if o.OwnKeys {
		if cfg.Keys, err = parts.NewSecureBootKeys(ctx, b.path("keys")); err != nil {
			return nil, err
		}
		cfg.LoaderFile = b.path("loader.efi")
		if err := cfg.Keys.Sign(ctx, software.Loader, cfg.LoaderFile); err != nil {
			return nil, err
		}
	}
	if cfg.Image, err = b.image(ctx, o.Version, cfg); err != nil {
		return nil, err
	}
	host, err := BuildPrograms(ctx, parts.Arch(runtime.GOARCH), b.dir)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(b.log, "Building the machine in %s.\n", b.dir)
	m, err := New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	id, err := m.DeviceID(ctx, host.Agent)
	if err != nil {
		return nil, err
	}
	if err := b.next(id, cfg); err != nil {
		return nil, err
	}
	return m, os.Remove(b.path(halfFile))
}

// begin clears away what an earlier Up left behind that did not come to its end, and nothing else.
func (b *Bench) begin() error {
	if _, err := os.Stat(b.path(halfFile)); err == nil {
		for _, name := range []string{keptFile, Disk, Vars, TPM, "keys"} {
			if err := os.RemoveAll(b.path(name)); err != nil {
				return fmt.Errorf("cannot clear half a machine away: %w", err)
			}
		}
	}
	if err := os.WriteFile(b.path(halfFile), nil, 0o600); err != nil {
		return fmt.Errorf("cannot begin a machine: %w", err)
	}
	return nil
}

// next writes down the owner's next steps. The trust bundle knows the server's device URL, not its admin URL.
func (b *Bench) next(id string, cfg Config) error {
	hardware, profile := named(cfg.Arch)
	if cfg.Keys != nil {
		profile += "-own-keys" // other firmware, and other keys in PCR 7
	}
	component := "system=" + cfg.Image + ",hw=" + hardware + ",installer=uki"
	if cfg.LoaderFile != "" {
		component += ",boot_loader=" + cfg.LoaderFile
	}
	text := fmt.Sprintf(`What is left, once, with the flags that say which server and who (--server, --ca-sha256, --token-file):
  the server knows the maker of its TPM:   ek_roots_file of its configuration, with the content of %s
  the holders sign what its firmware does: cordon-sign product baseline --dir CEREMONY --product PRODUCT --profile %s --pcrs %s
  the publisher signs its factory image:   cordon-sign publish --product PRODUCT --version %s --component %s --key KEY
  an operator claims it:                   cordonctl inventory set %s --product PRODUCT --hardware-id %s --profile %s
`, b.path("ek-roots.pem"), profile, b.path("pcrs.txt"), cfg.Version, component, id, hardware, profile)
	if err := EKRoots(b.path("ek-roots.pem")); err != nil {
		return err
	}
	return os.WriteFile(b.path("next.txt"), []byte(text), 0o644)
}

// Image builds a further image for the machine and returns its file.
func (b *Bench) Image(ctx context.Context, version string) (string, error) {
	m, err := Open(ctx, b.dir)
	if err != nil {
		return "", err
	}
	return b.image(ctx, version, m.cfg)
}

func (b *Bench) image(ctx context.Context, version string, cfg Config) (string, error) {
	fmt.Fprintf(b.log, "Building the agent and image %s.\n", version)
	programs, err := BuildPrograms(ctx, cfg.Arch, b.dir)
	if err != nil {
		return "", err
	}
	trust, err := os.ReadFile(b.path("trust.json"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrTrust, err)
	}
	spec := ImageSpec{Version: version, Arch: cfg.Arch, Programs: programs, Trust: trust, Keys: cfg.Keys, Out: b.path("image-" + version + ".efi")}
	if cfg.Loader == SystemdBoot {
		spec.Agent = []string{"--installer", "uki:/esp"}
	}
	if err := reach(&spec, trust); err != nil {
		return "", err
	}
	return spec.Out, BuildImage(ctx, spec)
}

// reach gives an image the way to the server of a trust bundle: 10.0.2.2 is this host anyway, its loopback names are
// led there, and all else lies outside.
func reach(spec *ImageSpec, trust []byte) error {
	bundle, err := wire.DecodeTrust(trust)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTrust, err)
	}
	u, err := url.Parse(bundle.Server)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTrust, err)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case u.Hostname() == "localhost", ip != nil && ip.IsLoopback():
		spec.Forward = port
	case u.Hostname() != "10.0.2.2":
		spec.Outside = true
	}
	return nil
}

// console is the path of the running machine's console. It returns ErrNotRunning.
func (b *Bench) console() (string, error) {
	path, err := os.ReadFile(b.path(consoleFile))
	if err != nil {
		return "", ErrNotRunning
	}
	keys, err := parts.OpenConsole(string(path))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	return string(path), keys.Close()
}

// Console types what comes from in into the machine's serial console, and shows what the machine says, until the machine is
// off or ctx ends.
func (b *Bench) Console(ctx context.Context, in io.Reader) error {
	path, err := b.console()
	if err != nil {
		return err
	}
	keys, err := parts.OpenConsole(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer keys.Close()
	said, err := os.Open(b.path(serialFile))
	if err != nil {
		return fmt.Errorf("cannot read the console: %w", err)
	}
	defer said.Close()
	if _, err := said.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("cannot read the console: %w", err)
	}
	fmt.Fprintf(b.log, "A line is a command: %s. Ctrl-C leaves the console; the machine stays on.\n", ConsoleCommands)
	go func() { _, _ = io.Copy(keys, in) }() // it ends with the pipe, or with in
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for on := true; on; on = b.running() {
		if _, err := io.Copy(b.out, said); err != nil {
			return fmt.Errorf("cannot read the console: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	_, err = io.Copy(b.out, said)
	return err
}

// running reports whether another program uses the machine.
func (b *Bench) running() bool {
	release, err := b.claim()
	if err == nil {
		release()
	}
	return errors.Is(err, ErrRunning)
}

// Down switches the running machine off in order and waits until it is.
func (b *Bench) Down(ctx context.Context) error {
	path, err := b.console()
	if err != nil {
		return err
	}
	return typeOff(ctx, path, &transcript{file: b.path(serialFile)}, b.running)
}

// Break tampers with the machine, which is off; see Machine.Break.
func (b *Bench) Break(ctx context.Context, name string) error {
	if _, ok := breakages()[name]; !ok {
		return unknownBreak(name)
	}
	m, err := Open(ctx, b.dir)
	if err != nil {
		return err
	}
	release, err := b.claim()
	if err != nil {
		return err
	}
	defer release()
	what, err := m.Break(ctx, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.log, "Done: %s.\n", what)
	return nil
}

// List writes the changes that Break knows.
func List(w io.Writer) {
	all := Breaks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(w, "%-16s %s\n", name, all[name])
	}
}
