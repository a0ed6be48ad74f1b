package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

const (
	trustHint = "make one with 'cordonctl provision' and put it into the device's measured image"
	tpmHint   = "check --tpm and the permissions of the device; run cordon-agent doctor"
)

// agent runs the client, once or until a signal.
func (o *options) agent(ctx context.Context) error {
	return o.withClient(func(c *client.Client) error {
		if o.once {
			return o.step(ctx, c)
		}
		ctx, o.restarting = context.WithCancel(ctx)
		defer o.restarting()
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			return undecided("", err)
		}
		return nil
	})
}

// withClient lets f have the client that the flags describe, while no other agent uses its state.
func (o *options) withClient(f func(*client.Client) error) error {
	trust, err := o.readTrust()
	if err != nil {
		return err
	}
	if o.state == "" {
		return usage("name a directory that survives restarts", "--state is missing")
	}
	unlock, err := lock(o.state)
	if err != nil {
		return undecided(diskHint(err, "end the other agent, or name another --state"), err)
	}
	defer unlock()
	device, err := tpm.Open(o.tpm)
	if err != nil {
		return undecided(tpmHint, err)
	}
	defer o.closeTPM(device)
	c, err := o.client(trust, device, o.state)
	if err != nil {
		return err
	}
	return f(c)
}

// diskHint says what to do about a disk that takes nothing; other errors get the other hint.
func diskHint(err error, other string) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on the disk that the message names, of --state or of the slots; the agent then goes on where it stood"
	case errors.Is(err, unix.EROFS):
		return "that file system is read-only: mount it writable; the agent then goes on where it stood"
	}
	return other
}

// lock keeps a second agent away from a state directory for as long as this process lives.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() { // a link would lead to a file elsewhere
		if err := os.RemoveAll(path); err != nil {
			return nil, fmt.Errorf("cannot lock state directory: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock state directory %q: another agent uses it: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock goes with the file
}

// closeTPM says an orderly goodbye; without it a power cut counts against the TPM's lockout.
func (o *options) closeTPM(device *tpm.TPM) {
	if err := device.Close(); err != nil {
		fmt.Fprintf(o.err, "cordon-agent: %v\n", err)
	}
}

func (o *options) readTrust() (wire.Trust, error) {
	if o.trust == "" {
		return wire.Trust{}, usage(trustHint, "--trust is missing: without a trust bundle nothing can be verified")
	}
	b, err := readFile(o.trust, wire.MaxTrustBytes)
	if err != nil {
		return wire.Trust{}, usage(trustHint, "cannot read trust bundle: %w", err)
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		return wire.Trust{}, usage(trustHint, "cannot use trust bundle %q: %w", o.trust, err)
	}
	return trust, nil
}

// client makes the client that the flags describe.
func (o *options) client(trust wire.Trust, device *tpm.TPM, state string) (*client.Client, error) {
	cfg := client.Config{
		Trust: trust, TPM: device, StateDir: state, HardwareID: o.hardware, Product: o.product, EventLog: o.readEventLog,
		Logger: slog.New(slog.NewTextHandler(o.err, nil)),
	}
	for _, spec := range o.installers {
		in, err := installer.Open(spec)
		if err != nil {
			return nil, usage("--installer takes "+installer.Kinds, "cannot open installer %q: %w", spec, err)
		}
		cfg.Installers = append(cfg.Installers, in)
	}
	if o.reboot != "" {
		cfg.Reboot = o.restart
	}
	if o.token != "" {
		b, err := readFile(o.token, 4096)
		if err != nil {
			return nil, usage("ask an operator for an enrollment token", "cannot read token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(b))
	}
	c, err := client.New(cfg)
	if errors.Is(err, client.ErrConfig) {
		return nil, usage("", "%w", err)
	}
	if err != nil {
		return nil, undecided(diskHint(err, "run cordon-agent doctor"), err)
	}
	return c, nil
}

// Bounds on the restart command.
const (
	restartLimit = 5 * time.Minute  // a command that hangs must not keep the device from polling
	endLimit     = 10 * time.Second // to let go of our output after it ended or was killed
)

// restart runs the restart command, which has restartLimit and is then killed with all that it started; its output goes to
// ours. Where the command succeeds, the agent ends by itself, so that the TPM is shut down in order before the power goes.
// One that is started again asks for the restart again.
func (o *options) restart(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, o.restartLimit)
	defer cancel()
	cmd := exec.CommandContext(limited, "/bin/sh", "-c", o.reboot)
	cmd.Stdout, cmd.Stderr = o.err, o.err
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endLimit
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it ended well; what it left behind may still print
	case ctx.Err() == nil && limited.Err() != nil:
		return fmt.Errorf("command %q took longer than %v and was killed", o.reboot, o.restartLimit)
	default:
		return fmt.Errorf("command %q: %w", o.reboot, err)
	}
	if o.restarting != nil {
		o.restarting()
	}
	return nil
}

// readEventLog reads the log of this boot. A TPM below /dev without a log, and any other TPM without --event-log, has
// an empty one.
func (o *options) readEventLog() ([]byte, error) {
	path := o.eventLog
	if path == "" && strings.HasPrefix(o.tpm, "/dev/") {
		path = client.KernelEventLog
	}
	if path == "" {
		return nil, nil
	}
	b, err := readFile(path, attestation.MaxLogBytes)
	if errors.Is(err, fs.ErrNotExist) && o.eventLog == "" {
		return nil, nil
	}
	return b, err
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%q has more than %d bytes", path, limit)
	}
	return b, nil
}

// outcome is what --once prints.
type outcome struct {
	Device    string           `json:"device"`
	Verdict   string           `json:"verdict,omitempty"`
	Staged    string           `json:"staged,omitempty"`
	Committed bool             `json:"committed,omitempty"`
	Refusals  []client.Refusal `json:"refusals,omitempty"`
	NextPoll  int64            `json:"next_poll_seconds,omitempty"`
}

// step does what is due now. Exit 1 tells that something was refused.
func (o *options) step(ctx context.Context, c *client.Client) error {
	r, err := c.Step(ctx)
	if err != nil {
		return undecided(diskHint(err, "run cordon-agent doctor; it is safe to try again"), err)
	}
	out := outcome{Device: c.DeviceID().String(), Verdict: r.Verdict, Refusals: r.Refusals, NextPoll: int64(r.Next.Seconds())}
	out.Committed = r.Proven && len(r.Refusals) == 0
	if r.Update != nil {
		out.Staged = r.Update.Name()
	}
	if err := o.print(out, out.text); err != nil {
		return err
	}
	if len(r.Refusals) > 0 {
		return errRefused
	}
	return nil
}

func (out outcome) text(w io.Writer) {
	fmt.Fprintf(w, "device %s\n", out.Device)
	if out.Verdict != "" {
		fmt.Fprintf(w, "boot state %s\n", printable(out.Verdict))
	}
	switch {
	case out.Staged != "":
		fmt.Fprintf(w, "staged %s\n", out.Staged)
	case out.Committed:
		fmt.Fprintln(w, "committed the running release")
	case len(out.Refusals) == 0:
		fmt.Fprintln(w, "nothing to install")
	}
	printRefusals(w, out.Refusals)
}

func printRefusals(w io.Writer, refusals []client.Refusal) {
	for _, r := range refusals {
		by := "server"
		if r.Local {
			by = "device"
		}
		fmt.Fprintf(w, "refused by the %s: %s", by, printable(string(r.Reason)))
		if r.Detail != "" {
			fmt.Fprintf(w, ": %q", r.Detail) // parts of it come from the network
		}
		fmt.Fprintln(w)
		if r.Remedy != "" {
			fmt.Fprintf(w, "  next: %q\n", r.Remedy)
		}
	}
}

// print writes v as JSON or as text.
func (o *options) print(v any, text func(io.Writer)) error {
	if !o.json {
		text(o.out)
		return nil
	}
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.Multiline(true))
	if err != nil {
		return fmt.Errorf("cannot encode output: %w", err)
	}
	fmt.Fprintln(o.out, string(b))
	return nil
}

// id prints the device id.
func (o *options) id() error {
	device, err := tpm.Open(o.tpm)
	if err != nil {
		return undecided(tpmHint, err)
	}
	defer o.closeTPM(device)
	id, err := device.DeviceID()
	if err != nil {
		return undecided("the TPM must hold an RSA-2048 endorsement key with its certificate", err)
	}
	return o.print(map[string]string{"device": id.String()}, func(w io.Writer) { fmt.Fprintln(w, id) })
}
