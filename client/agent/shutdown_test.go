package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/installer/installertest"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// TestShutsTheTPMDownBeforeItEnds cuts the power right after each way in which the agent ends. A TPM that was not shut
// down in order says then that its clock is not safe, and counts towards its lockout.
func TestShutsTheTPMDownBeforeItEnds(t *testing.T) {
	t.Parallel()
	bundle := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(bundle, trustBundle(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		signal string // what the log says when the signal comes
		code   int
	}{
		"a signal":       {args: []string{"--trust", bundle, "--state", t.TempDir()}, signal: "cannot complete a round"},
		"--once":         {args: []string{"--trust", bundle, "--state", t.TempDir(), "--once"}, code: exitUndecided},
		"id":             {args: []string{"id"}},
		"doctor":         {args: []string{"doctor", "--trust", bundle, "--state", t.TempDir()}, code: exitRefused},
		"a wrong option": {args: []string{"--trust", bundle, "--state", t.TempDir(), "--installer", "floppy:a"}, code: exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parts.TestTPM(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			log := &waiter{want: "\x00", seen: cancel}
			if c.signal != "" {
				log.want = c.signal
			}
			if code := run(ctx, append(c.args, "--tpm", p.Addr()), t.Output(), log); code != c.code {
				t.Errorf("exit %d, want %d\n%s", code, c.code, log.text)
			}
			if err := p.PowerCut(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !safe(t, p) {
				t.Error("the TPM was not shut down")
			}
			if err := p.PowerCut(t.Context()); err != nil { // the probe itself was not shut down: the test can see that
				t.Fatal(err)
			}
			if safe(t, p) {
				t.Error("the TPM says that it was shut down when it was not: the test sees nothing")
			}
		})
	}
}

// safe asks the TPM, without shutting it down afterwards.
func safe(t *testing.T, p *parts.TPM) bool {
	t.Helper()
	d, err := tpm.Open(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.EKCertificate(); err != nil {
		t.Fatal(err)
	}
	return c.Safe
}

// TestEndsAfterTheRestartCommand: an agent that had gone on would be killed without a chance to shut its TPM down.
func TestEndsAfterTheRestartCommand(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	o := &options{reboot: "echo restarting", err: &out, restarting: cancel, restartLimit: time.Minute}
	if err := o.restart(ctx); err != nil || ctx.Err() == nil || !strings.Contains(out.String(), "restarting") {
		t.Errorf("restart: %v, context %v, output %q", err, ctx.Err(), out.String())
	}
	failed, end := context.WithCancel(t.Context())
	defer end()
	o = &options{reboot: "exit 3", err: &out, restarting: end, restartLimit: time.Minute}
	if err := o.restart(failed); err == nil || failed.Err() != nil {
		t.Errorf("a restart command that fails: %v, context %v, want an error and an agent that goes on", err, failed.Err())
	}
}

// TestRestartCommandThatHangsIsKilled: the device would not poll as long as it runs.
func TestRestartCommandThatHangsIsKilled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := &options{reboot: "sleep 1000 & echo hanging; wait", err: new(bytes.Buffer), restarting: cancel, restartLimit: 100 * time.Millisecond}
	if err := o.restart(ctx); err == nil || !strings.Contains(err.Error(), "took longer than 100ms and was killed") || ctx.Err() != nil {
		t.Errorf("restart: %v, context %v, want an agent that goes on", err, ctx.Err())
	}
}

// TestRestartCommandMayLeaveWorkBehind: one that asks for the restart and ends has succeeded, whoever still holds its output.
func TestRestartCommandMayLeaveWorkBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	o := &options{reboot: "sleep 1000 & echo $!", err: &out, restarting: cancel, restartLimit: time.Minute}
	err := o.restart(ctx)
	pid, pidErr := strconv.Atoi(strings.TrimSpace(out.String()))
	if pidErr != nil {
		t.Fatalf("restart: %v, output %q", err, out.String())
	}
	if killErr := syscall.Kill(pid, syscall.SIGKILL); killErr != nil {
		t.Errorf("what it left behind is gone: %v", killErr)
	}
	if err != nil || ctx.Err() == nil {
		t.Errorf("restart: %v, context %v, want an agent that ends", err, ctx.Err())
	}
}

// TestRestartCommandLeavesNobodyBehind ends the agent while its restart command runs: what that has started goes with it.
func TestRestartCommandLeavesNobodyBehind(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := &options{reboot: "sleep 1000 >'" + pipe + "' & wait", err: new(bytes.Buffer), restarting: cancel, restartLimit: time.Minute}
	done := make(chan error, 1)
	go func() { done <- o.restart(ctx) }()
	f, err := os.Open(pipe) // waits for the child
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cancel()
	if err := <-done; err == nil {
		t.Error("restart: no error, and the machine did not restart")
	}
	if _, err := io.ReadAll(f); err != nil { // ends when the child is gone
		t.Error(err)
	}
}

// TestDoctorLooksAtTheSystemPartition breaks one thing after the other.
func TestDoctorLooksAtTheSystemPartition(t *testing.T) {
	t.Parallel()
	p := parts.TestTPM(t)
	m := installertest.NewESP(t)
	m.Put("factory.efi", m.Image("factory", 1))
	doctor := func() string {
		var out bytes.Buffer
		run(t.Context(), []string{"doctor", "--tpm", p.Addr(), "--installer", m.Spec()}, &out, t.Output())
		return out.String()
	}
	if out := doctor(); !strings.Contains(out, "FAIL  installers: uki: ") || !strings.Contains(out, "mount efivarfs") {
		t.Errorf("doctor without EFI variables:\n%s", out)
	}
	m.Boot()
	if out := doctor(); !strings.Contains(out, "ok    installers: 1; uki: factory runs, ") {
		t.Errorf("doctor:\n%s", out)
	}
	if files := m.Files(); len(files) != 1 {
		t.Errorf("doctor left files: %v", files)
	}
	m.Variable("LoaderEntrySelected", "gone.efi")
	if out := doctor(); !strings.Contains(out, "FAIL  installers: uki: ") || !strings.Contains(out, "gone.efi") {
		t.Errorf("doctor after the running image was removed:\n%s", out)
	}
	if err := os.RemoveAll(m.Linux()); err != nil {
		t.Fatal(err)
	}
	if out := doctor(); !strings.Contains(out, "FAIL  installers: cannot use EFI system partition") {
		t.Errorf("doctor without the folder:\n%s", out)
	}
}
