package parts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"

	aavmfCode = "/usr/share/AAVMF/AAVMF_CODE.fd"
	aavmfVars = "/usr/share/AAVMF/AAVMF_VARS.fd"

	// Busybox is Debian's statically linked busybox, a shell for machines that have nothing else.
	Busybox = "/bin/busybox"
)

// MaxVMLife is how long one life of a virtual machine may last.
const MaxVMLife = 24 * time.Hour

// VMConfig describes one life of a virtual PC: power on to power off.
type VMConfig struct {
	Arch   Arch
	Dir    string // logs
	Disk   string // from MakeDisk
	Vars   string // the firmware's variables: a file of this machine alone, from NewVars
	TPM    string // folder of the TPM, made by StartTPM and stopped
	Serial string // file that what the machine says on its serial line is appended to

	SecureBoot bool          // firmware that can enforce Secure Boot; without keys in Vars it is in setup mode
	Memory     int           // MiB; 0: 512
	Clock      string        // Optional: of the real-time clock, as QEMU's -rtc base= takes it; default: UTC now
	NoReboot   bool          // a restart ends the machine
	Deadline   time.Duration // the machine is cut off then; 0: 10 minutes
}

// VM is a running virtual PC: QEMU without hardware virtualisation, OVMF, a software TPM, one disk, and a network in which
// this host is 10.0.2.2 and the machine 10.0.2.15. One runs at a time among all processes of a user.
type VM struct {
	cfg         VMConfig
	qemu, swtpm *process
	sockets     string
	ended       chan struct{}

	mu  sync.Mutex // guards why
	why error      // the harness ended it
}

// NewVars makes the variables of a machine of an architecture that was never started, without Secure Boot keys.
func NewVars(ctx context.Context, arch Arch, out string) error {
	board := arch.board()
	if err := Require(ctx, os.Stderr, board.packages...); err != nil {
		return err
	}
	b, err := os.ReadFile(board.vars)
	if err != nil {
		return fmt.Errorf("cannot read the firmware's variables: %w", err)
	}
	if err := writeFile(out, b, 0o600); err != nil {
		return fmt.Errorf("cannot make the firmware's variables: %w", err)
	}
	return nil
}

// StartVM switches a PC on. It waits for other machines of this user to end first.
func StartVM(ctx context.Context, cfg VMConfig) (*VM, error) {
	if err := Require(ctx, os.Stderr, append(cfg.Arch.board().packages, "swtpm", "swtpm-tools")...); err != nil {
		return nil, err
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	unlock, err := lockVM(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for the other virtual machine to end: %w", err)
	}
	v, err := launchVM(ctx, cfg)
	if err != nil {
		unlock()
		return nil, err
	}
	limit := time.AfterFunc(cfg.Deadline, func() { v.cut(fmt.Errorf("it ran longer than %v", cfg.Deadline)) })
	go func() {
		<-v.qemu.ended
		limit.Stop()
		v.qemu.stop()
		if !v.swtpm.wait(stopTimeout) { // it ends with QEMU's connection
			v.swtpm.kill()
		}
		v.swtpm.stop()
		unlock()
		close(v.ended)
	}()
	return v, nil
}

// lockVM waits until no machine runs. Whoever waits holds the turn, so that a program that switches one machine on after
// the other lets others in between.
func lockVM(ctx context.Context) (unlock func(), err error) {
	turn, err := lock(ctx, "vm-turn")
	if err != nil {
		return nil, err
	}
	defer turn()
	return lock(ctx, "vm")
}

// complete fills in defaults, and makes paths absolute.
func (c *VMConfig) complete() error {
	var errs []error
	for _, path := range []*string{&c.Dir, &c.Disk, &c.Vars, &c.TPM, &c.Serial} {
		abs, err := filepath.Abs(*path)
		if *path == "" {
			err = errors.New("a path is missing")
		}
		if strings.ContainsAny(abs, ",\n") {
			err = fmt.Errorf("QEMU takes no path like %q", abs)
		}
		*path, errs = abs, append(errs, err)
	}
	if c.Memory == 0 {
		c.Memory = 512
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Minute
	}
	if c.Memory < 256 || c.Memory > 2048 || c.Deadline > MaxVMLife {
		errs = append(errs, fmt.Errorf("%d MiB for %v: 256 to 2048, at most %v", c.Memory, c.Deadline, MaxVMLife))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot start a virtual machine: %w", err)
	}
	return nil
}

func launchVM(ctx context.Context, cfg VMConfig) (*VM, error) {
	// A unix socket path holds 107 bytes, and test folders are longer than that.
	sockets, err := os.MkdirTemp("", "cv")
	if err != nil {
		return nil, fmt.Errorf("cannot make socket folder: %w", err)
	}
	v := &VM{cfg: cfg, sockets: sockets, ended: make(chan struct{})}
	if err := v.startTPM(ctx); err != nil {
		os.RemoveAll(sockets)
		return nil, err
	}
	if err := v.startQEMU(ctx); err != nil {
		v.swtpm.kill()
		os.RemoveAll(sockets)
		return nil, err
	}
	return v, nil
}

// startTPM starts swtpm with a control socket alone; QEMU passes a channel for commands over it, and the TPM ends with
// that channel. The firmware starts the TPM up.
func (v *VM) startTPM(ctx context.Context) error {
	swtpm, err := command("swtpm")
	if err != nil {
		return err
	}
	control := filepath.Join(v.sockets, "tpm")
	v.swtpm, err = startProcess(processConfig{
		Argv: []string{swtpm, "socket", "--tpm2", "--tpmstate", "dir=" + filepath.Join(v.cfg.TPM, "state"),
			"--ctrl", "type=unixio,path=" + control, "--terminate"},
		Log: filepath.Join(v.cfg.Dir, "swtpm.log"), Stop: "TERM",
	})
	if err != nil {
		return err
	}
	err = v.swtpm.waitReady(ctx, "swtpm", func() error {
		_, err := os.Stat(control)
		return err
	})
	if err != nil {
		v.swtpm.kill()
	}
	return err
}

// limited runs a command with a limit on its address space. Its standard input and output are the machine's serial line: what
// the machine says goes to a file and never waits for somebody who listens. (With a socket and a log file beside it, QEMU 7.2
// logs a byte once more whenever the listener is slow.) A pipe that is open for writing as well has no end.
const limited = `ulimit -v "$LIMIT" && exec "$@" 0<>"$CONSOLE" 1>>"$SERIAL"`

func (v *VM) startQEMU(ctx context.Context) error {
	qemu, err := command(v.cfg.Arch.board().qemu)
	if err != nil {
		return err
	}
	if err := unix.Mkfifo(v.ConsolePath(), 0o600); err != nil {
		return fmt.Errorf("cannot make the console: %w", err)
	}
	limit := (v.cfg.Memory + 2048) * 1024 // KiB: beside the machine's memory, translated code, firmware and stacks
	v.qemu, err = startProcess(processConfig{
		Argv: append([]string{"/bin/sh", "-c", limited, "limited", qemu}, v.args()...),
		Env:  []string{"LIMIT=" + strconv.Itoa(limit), "CONSOLE=" + v.ConsolePath(), "SERIAL=" + v.cfg.Serial},
		Log:  filepath.Join(v.cfg.Dir, "qemu.log"), Stop: "TERM", Clean: v.sockets,
	})
	if err != nil {
		return err
	}
	err = v.qemu.waitReady(ctx, "QEMU", func() error {
		_, err := os.Stat(v.monitor())
		return err
	})
	if err != nil {
		v.qemu.kill()
	}
	return err
}

func (v *VM) monitor() string { return filepath.Join(v.sockets, "monitor") }

// ConsolePath is a named pipe: what is written into it is typed into the machine's serial console. What the machine says
// is in VMConfig.Serial.
func (v *VM) ConsolePath() string { return filepath.Join(v.sockets, "console") }

// args is the command line of QEMU. Hardware virtualisation stays off: firmware does not run under every kind of it.
func (v *VM) args() []string {
	c := v.cfg
	board := c.Arch.board()
	code := board.code
	if c.SecureBoot {
		code = board.secureCode
		board.machine = append(board.machine, board.secure...)
	}
	clock := "utc"
	if c.Clock != "" {
		clock = c.Clock
	}
	args := []string{
		"-accel", "tcg,thread=multi,tb-size=256", "-smp", "1", "-m", strconv.Itoa(c.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-rtc", "base=" + clock,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + code,
		"-drive", "if=pflash,format=raw,unit=1,file=" + c.Vars,
		"-chardev", "socket,id=tpm,path=" + filepath.Join(v.sockets, "tpm"), "-tpmdev", "emulator,id=tpm0,chardev=tpm",
		"-drive", "file=" + c.Disk + ",if=none,id=disk,format=raw,cache=writeback", "-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,id=nic,romfile=", "-device", "virtio-rng-pci",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:" + v.monitor() + ",server=on,wait=off",
	}
	if c.NoReboot {
		args = append(args, "-no-reboot")
	}
	return append(args, board.machine...)
}

// Ended is closed when the machine is off and its files are at rest.
func (v *VM) Ended() <-chan struct{} { return v.ended }

// Err says why the harness ended the machine; nil when it switched itself off, runs, or was cut by PowerCut.
func (v *VM) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.why
}

// PowerCut ends the machine and its TPM at once, as pulling the plug does: what was not written is lost. It returns when
// the files are at rest.
func (v *VM) PowerCut() { v.cut(nil) }

func (v *VM) cut(why error) {
	v.mu.Lock()
	if v.why == nil {
		v.why = why
	}
	v.mu.Unlock()
	v.qemu.kill()
	<-v.ended
}

// Type writes a line into the machine's serial console, and returns the first line after that with answer in it that the
// machine says.
func (v *VM) Type(ctx context.Context, line, answer string) (string, error) {
	said, err := os.Open(v.cfg.Serial)
	if err != nil {
		return "", fmt.Errorf("cannot use the console: %w", err)
	}
	defer said.Close()
	if _, err := said.Seek(0, io.SeekEnd); err != nil {
		return "", fmt.Errorf("cannot use the console: %w", err)
	}
	if err := TypeInto(v.ConsolePath(), line); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, consoleTime)
	defer cancel()
	tick := time.NewTicker(consoleTick)
	defer tick.Stop()
	var heard []byte
	for {
		b, err := io.ReadAll(said)
		if err != nil {
			return "", fmt.Errorf("cannot use the console: %w", err)
		}
		heard = append(heard, b...)
		for text := range bytes.Lines(heard) {
			if bytes.HasSuffix(text, []byte("\n")) && bytes.Contains(text, []byte(answer)) {
				return strings.TrimRight(string(text), "\r\n"), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("cannot use the console: no answer to %q: %w", line, ctx.Err())
		case <-v.ended:
			return "", fmt.Errorf("cannot use the console: the machine went off before it answered %q", line)
		case <-tick.C:
		}
	}
}

const (
	consoleTime = time.Minute           // bounds the wait for an answer on the console
	consoleTick = 20 * time.Millisecond // between two looks at what the machine said
)

// TypeInto writes a line into the serial console of the machine whose ConsolePath is path, in this process or another one. It
// returns an error when no machine listens. Firmware swallows what is typed while it runs.
func TypeInto(path, line string) error {
	keys, err := OpenConsole(path)
	if err != nil {
		return err
	}
	_, err = keys.WriteString(line + "\n")
	if err := errors.Join(err, keys.Close()); err != nil {
		return fmt.Errorf("cannot write to the console: %w", err)
	}
	return nil
}

// OpenConsole opens a ConsolePath for typing. It returns an error when no machine listens.
func OpenConsole(path string) (*os.File, error) {
	keys, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the console: %w", err)
	}
	return keys, nil
}

// Link plugs the machine's network cable in, or pulls it.
func (v *VM) Link(ctx context.Context, up bool) error {
	return v.Control(ctx, "set_link", map[string]any{"name": "nic", "up": up})
}

// Control gives one command to QEMU's monitor (QMP).
func (v *VM) Control(ctx context.Context, name string, arguments map[string]any) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", v.monitor())
	if err != nil {
		return fmt.Errorf("cannot reach QEMU's monitor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(stopTimeout)); err != nil {
		return fmt.Errorf("cannot reach QEMU's monitor: %w", err)
	}
	answers := bufio.NewScanner(conn)
	for _, command := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}} {
		b, err := json.Marshal(command, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("cannot encode monitor command: %w", err)
		}
		if _, err := conn.Write(append(b, '\n')); err != nil {
			return fmt.Errorf("cannot write to QEMU's monitor: %w", err)
		}
		if err := monitorAnswer(answers); err != nil {
			return fmt.Errorf("cannot do %s: %w", command["execute"], err)
		}
	}
	return nil
}

// monitorAnswer reads up to the answer of a command; greetings and events come in between.
func monitorAnswer(answers *bufio.Scanner) error {
	for answers.Scan() {
		var a struct {
			Return jsontext.Value `json:"return"`
			Error  jsontext.Value `json:"error"`
		}
		if err := json.Unmarshal(bytes.TrimSpace(answers.Bytes()), &a); err != nil {
			return fmt.Errorf("QEMU's monitor said %q: %w", answers.Text(), err)
		}
		if len(a.Error) > 0 {
			return fmt.Errorf("QEMU refuses: %s", a.Error)
		}
		if len(a.Return) > 0 {
			return nil
		}
	}
	return errors.Join(errors.New("QEMU's monitor went away"), answers.Err())
}
