package parts_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// childVariable makes the test binary a process that starts parts, tells their process ids and waits to be killed.
const childVariable = "PARTS_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

func child(dir string) {
	tpm, err := parts.StartTPM(context.Background(), parts.TPMConfig{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	postgres, err := parts.StartPostgres(context.Background(), "")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(tpm.PID(), filepath.Dir(tpm.Socket()))
	fmt.Println(postgres.PID(), postgres.Dir())
	sigstore, err := parts.StartSigstore(context.Background(), "")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, pid := range sigstore.PIDs() {
		fmt.Println(pid, filepath.Dir(sigstore.TrustedRoot()))
	}
	select {}
}

// A test process that dies leaves no process and no temporary folder behind.
func TestNothingOutlivesItsStarter(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childVariable+"="+t.TempDir())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	type started struct {
		pid int
		dir string
	}
	const want = 5 // TPM, PostgreSQL and three of the Sigstore
	var list []started
	for lines := bufio.NewScanner(stdout); len(list) < want && lines.Scan(); {
		pid, dir, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatalf("child: %s", lines.Text())
		}
		list = append(list, started{n, dir})
	}
	if len(list) != want {
		t.Fatalf("the child started %d processes, want %d", len(list), want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for _, s := range list {
		waitUntil(t, fmt.Sprintf("process %d is gone", s.pid), func() bool { return errors.Is(syscall.Kill(s.pid, 0), syscall.ESRCH) })
		waitUntil(t, s.dir+" is gone", func() bool { _, err := os.Stat(s.dir); return errors.Is(err, os.ErrNotExist) })
	}
}

// waitUntil waits for a condition that another process brings about.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestMissingKnowsItsPackages(t *testing.T) {
	t.Parallel()
	if _, err := parts.Missing("no-such-package"); err == nil {
		t.Error("Missing took a package that the parts do not use")
	}
	if err := parts.Require(t.Context(), t.Output(), "swtpm", "swtpm-tools"); err != nil {
		t.Fatal(err)
	}
	missing, err := parts.Missing("swtpm", "swtpm-tools")
	if err != nil || len(missing) != 0 {
		t.Errorf("after Require: got %v, %v; want nothing missing", missing, err)
	}
}

func TestCacheBuildsOnce(t *testing.T) {
	t.Parallel()
	key := "k" + strconv.FormatInt(time.Now().UnixNano(), 36)
	var builds atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			dir, err := parts.Cached(t.Context(), "test", key, func(_ context.Context, dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("built"), 0o600)
			})
			if err != nil {
				t.Errorf("Cached: %v", err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "built" {
				t.Errorf("file: got %q, %v", b, err)
			}
		})
	}
	group.Wait()
	if got := builds.Load(); got != 1 {
		t.Errorf("built %d times, want once", got)
	}
	base, err := parts.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(base, "test", key)); err != nil {
		t.Fatal(err)
	}
}

func TestCacheKeepsNothingOfAFailedBuild(t *testing.T) {
	t.Parallel()
	key := "f" + strconv.FormatInt(time.Now().UnixNano(), 36)
	_, err := parts.Cached(t.Context(), "test", key, func(_ context.Context, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), io.ErrUnexpectedEOF)
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Cached: got %v, want %v", err, io.ErrUnexpectedEOF)
	}
	base, err := parts.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(base, "test", key)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("failed build: got %v, want not exist", err)
	}
	if _, err := parts.Cached(t.Context(), "test", "../escape", nil); err == nil {
		t.Error("Cached took a key that is a path")
	}
}
