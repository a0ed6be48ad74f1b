package large

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// WriteImage writes size bytes that nothing can compress, the same for the same seed.
func WriteImage(path string, size int64, seed byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the image: %w", err)
	}
	random := rand.NewChaCha8([32]byte{seed})
	_, err = io.CopyBuffer(f, io.LimitReader(random, size), make([]byte, 1<<20))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot make the image: %w", err)
	}
	return nil
}

// Peak is the most memory in bytes that a running process has had resident (VmHWM of proc(5)).
func Peak(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot measure process %d: %w", pid, err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(rest)), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("cannot measure process %d: %w", pid, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("cannot measure process %d: it has ended", pid)
}

// Find returns the process that was started with an argument that names file.
func Find(file string) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte("\x00"+file+"\x00")) {
			continue // it may have ended since
		}
		return strconv.Atoi(filepath.Base(filepath.Dir(path)))
	}
	return 0, fmt.Errorf("no process was started with %s", file)
}

// Result is what a program came to.
type Result struct {
	Code   int
	Output string // stdout and stderr
	Peak   int64  // bytes resident at most
	Took   time.Duration
}

// sampleEvery is how often the peak of a running program is read. The kernel keeps the peak, so only what happens in the
// last of these intervals is missed.
const sampleEvery = 10 * time.Millisecond

// Run runs a program in dir with the environment env and measures it. Ending with another exit code than 0 is a result.
func Run(ctx context.Context, dir string, env []string, program string, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var output bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("cannot run %s: %w", program, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var out Result
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return Result{}, fmt.Errorf("cannot run %s: %w", program, err)
			}
			out.Code, out.Output, out.Took = cmd.ProcessState.ExitCode(), output.String(), time.Since(started)
			return out, ctx.Err()
		case <-tick.C:
			if peak, err := Peak(cmd.Process.Pid); err == nil {
				out.Peak = max(out.Peak, peak)
			}
		}
	}
}
