package installer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

const shell = "/bin/sh"

func TestProgramsOfOthersAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		limit  time.Duration
		want   string
		is     error
	}{
		"a reason":       {script: "echo out of order >&2; exit 1", want: "exit status 1: out of order"},
		"no reason":      {script: "exit 2", want: "exit status 2: it said nothing"},
		"busy":           {script: "exit 75", is: installer.ErrBusy},
		"too slow":       {script: "sleep 1000", limit: 50 * time.Millisecond, want: "took longer than 50ms and was killed", is: context.DeadlineExceeded},
		"too much":       {script: "head -c " + strconv.Itoa(installer.MaxAnswer+1) + " /dev/zero", want: "printed more than"},
		"a terminal":     {script: `printf '\033[2J\001evil\n\302\233' >&2; exit 1`, want: "exit status 1: ?[2J?evil;?"},
		"a long story":   {script: "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", want: strings.Repeat("x", 400)},
		"killed by name": {script: "kill -9 $$", want: "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := c.limit
			if limit == 0 {
				limit = time.Minute
			}
			_, err := installer.Ask(t.Context(), limit, nil, shell, "-c", c.script)
			if err == nil || !strings.Contains(err.Error(), c.want) || (c.is != nil && !errors.Is(err, c.is)) {
				t.Errorf("Ask: %v, want %q, %v", err, c.want, c.is)
			}
			if err != nil && len(err.Error()) > 1000+len(c.script) {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
	if b, err := installer.Ask(t.Context(), time.Minute, []byte("question"), shell, "-c", "cat; echo noise >&2"); err != nil || string(b) != "question" {
		t.Errorf("Ask = %q, %v, want what it printed on standard output", b, err)
	}
}

// A program that is given up goes with everything that it has started.
func TestProgramsOfOthersLeaveNobodyBehind(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(context.Context, string) error{
		"ask": func(ctx context.Context, script string) error {
			_, err := installer.Ask(ctx, time.Minute, nil, shell, "-c", script)
			return err
		},
		"watch": func(ctx context.Context, script string) error {
			return installer.Watch(ctx, time.Minute, shell, "-c", script)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipe := filepath.Join(t.TempDir(), "pid")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- call(ctx, "sleep 1000 & echo $! >'"+pipe+"'; wait") }()
			b, err := os.ReadFile(pipe) // waits for the child
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v, want context.Canceled", err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			waitGone(t, pid)
		})
	}
}

// waitGone waits until a process has ended, or is a zombie that its new parent has not reaped.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("process %d is still there", pid)
		case <-tick.C:
		}
	}
}

func TestWatchJudgesByTheOutput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		want   string // of the error; empty: none
	}{
		"it stays when it is done":     {"echo '[INFO ] : SWUPDATE successful !'; sleep 1000", ""},
		"it fails and stays":           {"echo 'SWUPDATE failed [0] ERROR'; sleep 1000", "refused the image"},
		"it ends without a word":       {"exit 0", "without saying that it was done"},
		"it ends with an error":        {"echo no key; exit 1", "exit status 1: no key"},
		"a very long line and success": {"head -c 100000 /dev/zero | tr '\\0' x; echo; echo 'SWUPDATE successful !'; sleep 1000", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := installer.Watch(t.Context(), time.Minute, shell, "-c", c.script)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Watch: %v, want %q", err, c.want)
			}
		})
	}
}

func TestScriptRefusesAnswersThatItCannotUse(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON":           `echo hello`,
		"two answers":       `echo '{"slot":"a","trial":false,"path":"'$PWD'/a.img"}{}'`,
		"a name twice":      `echo '{"slot":"a","slot":"b","trial":false,"path":"'$PWD'/a.img"}'`,
		"an unknown member": `echo '{"slot":"a","trial":false,"path":"'$PWD'/a.img","proven":true}'`,
		"no slot":           `echo '{"trial":false,"path":"'$PWD'/a.img"}'`,
		"a relative path":   `echo '{"slot":"a","trial":false,"path":"tool_test.go"}'`,
		"a folder":          `echo '{"slot":"a","trial":false,"path":"/"}'`,
		"a device":          `echo '{"slot":"a","trial":false,"path":"/dev/null"}'`,
		"a length below 0":  `echo '{"slot":"a","trial":false,"path":"'$PWD'/a.img","length":-1}'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := map[string]string{"running": text}
			for n, s := range scripts {
				if n != "running" {
					all[n] = s
				}
			}
			s := installertest.NewSlots(t, t.TempDir())
			in, err := installer.Open("script:" + putScripts(t, s.Dir, all))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := in.Running(t.Context()); err == nil {
				t.Errorf("Running = %+v, want an error", b)
			}
		})
	}
}

func TestScriptsThatOthersMayWriteAreRefused(t *testing.T) {
	t.Parallel()
	s := installertest.NewSlots(t, t.TempDir())
	dir := putScripts(t, s.Dir, scripts)
	for _, mode := range []os.FileMode{0o777, 0o775, 0o644} {
		if err := os.Chmod(filepath.Join(dir, "commit"), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := installer.Open("script:" + dir); err == nil {
			t.Errorf("a script with mode %o was accepted", mode)
		}
	}
	if err := os.Remove(filepath.Join(dir, "commit")); err != nil {
		t.Fatal(err)
	}
	if _, err := installer.Open("script:" + dir); err == nil {
		t.Error("a folder without the script commit was accepted")
	}
}

// RAUC and SWUpdate check signatures of their own. What they say when one is wrong reaches the operator.
func TestToolsRefuseWhatOthersSigned(t *testing.T) {
	t.Parallel()
	t.Run("rauc", func(t *testing.T) {
		t.Parallel()
		mine, others := newRAUCMachine(t).(*raucMachine), newRAUCMachine(t)
		wantInstallRefused(t, mine, others.Image(1, false), "ignature")
	})
	t.Run("swupdate", func(t *testing.T) {
		t.Parallel()
		mine, others := newSWUpdateMachine(t).(*swupdateMachine), newSWUpdateMachine(t)
		wantInstallRefused(t, mine, others.Image(1, false), "")
	})
}

// twoSlotMachine is a machine whose boot loader may start the slot that did not run.
type twoSlotMachine interface {
	installertest.Machine
	bootOther()
}

func (m *raucMachine) bootOther() {
	m.t.Helper()
	if err := m.RAUC.Boot(m.t.Context(), "B"); err != nil {
		m.t.Fatalf("Boot: %v", err)
	}
}

func (m *swupdateMachine) bootOther() {
	m.t.Helper()
	for _, name := range []string{"active", "running"} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte("b\n"), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
}

func wantInstallRefused(t *testing.T, m twoSlotMachine, image []byte, want string) {
	t.Helper()
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	before, err := in.Running(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := in.Prepare(t.Context(), describe(image))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WriteAt(image, 0)
	if err := errors.Join(err, s.Sync(), s.Close()); err != nil {
		t.Fatal(err)
	}
	err = in.Activate(t.Context(), describe(image))
	if !errors.Is(err, installer.ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("Activate: %v, want a refusal that says %q", err, want)
	}
	m.Boot()
	if after, err := in.Running(t.Context()); err != nil || after != before {
		t.Errorf("Running = %+v, %v, want %+v as before", after, err, before)
	}
	m.bootOther() // the slot that ran is broken one day
	if b, err := in.Running(t.Context()); err != nil || !b.SHA256.IsZero() || b.Length != 0 {
		t.Errorf("Running in the other slot = %+v, %v, want no image: nobody installed the refused one", b, err)
	}
}

func TestRAUCWithoutItsServiceDecidesNothing(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t)
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	stop, ok := m.(interface{ Stop() })
	if !ok {
		t.Fatal("the machine cannot stop its service")
	}
	stop.Stop()
	if b, err := in.Running(t.Context()); err == nil {
		t.Errorf("Running = %+v, want an error", b)
	}
	if err := in.Commit(t.Context()); err == nil {
		t.Error("Commit without the service went through")
	}
	for _, status := range []string{`{"compatible":null,"booted":null,"slots":[]}`, `{"compatible":null,"booted":"A"}`, `{"compatible":"acme","booted":""}`} {
		if _, err := installer.DecodeRAUC([]byte(status)); !errors.Is(err, installer.ErrNoService) {
			t.Errorf("the status %s: %v, want ErrNoService", status, err)
		}
	}
}

// TestSpecsNameWhatIsMissing opens installers whose parts are not there.
func TestSpecsNameWhatIsMissing(t *testing.T) {
	t.Parallel()
	if err := parts.Require(t.Context(), t.Output(), "rauc", "swupdate"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for spec, want := range map[string]string{
		"rauc:" + dir + "/none":                             "cannot use folder for bundles",
		"rauc:" + dir + ",program=" + dir + "/none":         "cannot find",
		"rauc:" + dir + ",conf=x,conf=y":                    "once at most",
		"swupdate:" + dir:                                   "needs hooks=DIR",
		"swupdate:" + dir + ",hooks=" + dir:                 "cannot use hooks",
		"swupdate:" + dir + ",hooks=" + dir + ",reboot=yes": "once at most",
		"script:" + dir:                                     "cannot use scripts",
	} {
		if _, err := installer.Open(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want %q", spec, err, want)
		}
	}
}
