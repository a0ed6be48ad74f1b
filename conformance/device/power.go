package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// offTime is how long an orderly end may take.
const offTime = 2 * time.Minute

// Start switches the machine on. It waits while another machine of this user runs. The machine restarts by itself as
// often as it likes, until it switches itself off, PowerOff, PowerCut, or Config.Deadline.
func (m *Machine) Start(ctx context.Context) error {
	if err := m.off(); err != nil {
		return err
	}
	vm, err := parts.StartVM(ctx, parts.VMConfig{
		Arch: m.cfg.Arch, Dir: m.dir, Disk: m.diskSpec().Out, Vars: m.vars(), TPM: m.tpm(), Serial: m.log.file,
		SecureBoot: m.cfg.Keys != nil, Memory: m.cfg.Memory, Clock: m.cfg.Clock, Deadline: m.cfg.Deadline,
	})
	if err != nil {
		return err
	}
	m.vm = vm
	return nil
}

// SetClock sets the real-time clock of the next Start, as QEMU's -rtc base= takes it: 2001-01-01T00:00:00, or utc.
func (m *Machine) SetClock(base string) { m.cfg.Clock = base }

// PowerCut pulls the plug: nothing is written any more and the TPM gets no goodbye.
func (m *Machine) PowerCut() {
	if m.vm != nil {
		m.vm.PowerCut()
	}
}

// PowerOff switches the machine off in order.
func (m *Machine) PowerOff(ctx context.Context) error {
	if !m.On() {
		return nil
	}
	if err := typeOff(ctx, m.vm.ConsolePath(), m.log, m.On); err != nil {
		return fmt.Errorf("%w\n%s", err, m.log.tail())
	}
	<-m.vm.Ended()
	return m.vm.Err()
}

// typeOff types "off" into a machine's console as soon as its first process listens, and waits until it is off. What is
// typed before that is lost, or taken by firmware and boot loader as something else.
func typeOff(ctx context.Context, console string, said *transcript, on func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, offTime)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	typed := time.Time{}
	for on() {
		listens, err := said.listens()
		if err == nil && listens && time.Since(typed) > offAgain {
			typed, err = time.Now(), parts.TypeInto(console, "off")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot switch the machine off: %w", errors.Join(ctx.Err(), err))
		case <-look.C:
		}
	}
	return nil
}

// offAgain is how long a machine that listens may take to go before it is asked once more: it may be restarting.
const offAgain = 10 * time.Second

// ConsoleCommands are the commands of Command, for people.
const ConsoleCommands = "restart, off, pause, resume, kill, env NAME=VALUE, pcrs, ls FOLDER, sh LINE"

// Command types a line into the machine's console. Its first process knows:
//
//	restart, off       leave in order
//	pause, resume      the agent stays away, or comes back
//	kill               the agent is killed, and comes back by itself
//	env NAME=VALUE     for the next start of the agent
//	pcrs               the PCRs once more
//	ls FOLDER          an event with the names in it
//	sh LINE            a line for the shell; what it prints comes as lines of "sh:"
func (m *Machine) Command(ctx context.Context, line string) error {
	if !m.On() {
		return errors.New("cannot use the console: the machine is off")
	}
	if _, err := m.vm.Type(ctx, line, ` heard command=`); err != nil {
		return fmt.Errorf("%w\n%s", err, m.log.tail())
	}
	return nil
}

// Network plugs the network cable in, or pulls it.
func (m *Machine) Network(ctx context.Context, up bool) error {
	if !m.On() {
		return errors.New("cannot move the network cable: the machine is off")
	}
	return m.vm.Link(ctx, up)
}

// Close ends the machine if it runs. Its folder stays.
func (m *Machine) Close() error {
	m.PowerCut()
	return nil
}

// Parts of a machine that can be copied by themselves.
const (
	Disk = "disk.img"
	Vars = "vars.fd"
	TPM  = "tpm"
)

// Save copies the named parts of the machine, Disk, Vars or TPM, all if none is named, into a folder; the machine is off.
func (m *Machine) Save(dir string, names ...string) error {
	return m.move(m.dir, dir, names)
}

// Load puts parts back that Save copied, of this machine or of another one: the state of an earlier day, another TPM, a
// cloned disk. The machine is off.
func (m *Machine) Load(dir string, names ...string) error {
	return m.move(dir, m.dir, names)
}

func (m *Machine) move(from, to string, names []string) error {
	if err := m.off(); err != nil {
		return err
	}
	if len(names) == 0 {
		names = []string{Disk, Vars, TPM}
	}
	for _, name := range names {
		if err := copyPart(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return fmt.Errorf("cannot copy %s of a machine: %w", name, err)
		}
	}
	return nil
}

// copyPart replaces a file, or a folder, by a copy.
func copyPart(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if info.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return parts.CopySparse(to, from)
}

// Clone builds a second machine that is this one in everything, in a folder of its own; the machine is off. With
// another TPM in Config, it has that instead: what somebody gets who copies a disk.
func (m *Machine) Clone(ctx context.Context, dir string, tpm *parts.TPMConfig) (*Machine, error) {
	if err := m.off(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot clone machine: %w", err)
	}
	c := &Machine{cfg: m.cfg, dir: abs, log: &transcript{file: filepath.Join(abs, serialFile)}}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("cannot clone machine: %w", err)
	}
	if err := os.WriteFile(c.log.file, nil, 0o600); err != nil {
		return nil, fmt.Errorf("cannot clone machine: %w", err)
	}
	names := []string{Disk, Vars, TPM}
	if tpm != nil {
		names = names[:2]
	}
	if err := c.Load(m.dir, names...); err != nil {
		return nil, err
	}
	if tpm != nil {
		c.cfg.TPM = *tpm
		if err := c.manufactureTPM(ctx); err != nil {
			return nil, err
		}
	}
	return c, c.keep()
}
