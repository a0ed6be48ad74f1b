//go:build device

package device_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
)

const firstDevicePage = "../docs/first-device.md"

// pasted are the blocks of the page that a reader pastes into a shell.
var pasted = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestFirstDevicePage plays what the page says, in its order and in one shell. The first block makes programs and a folder,
// which the test has; the rest runs as it stands, on ports of its own.
func TestFirstDevicePage(t *testing.T) {
	must(t, parts.Require(t.Context(), t.Output(), "binutils"))
	page, err := os.ReadFile(firstDevicePage)
	must(t, err)
	blocks := pasted.FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 2 || !strings.Contains(blocks[0][1], "mkdir .build/first") {
		t.Fatalf("the page has %d blocks to paste, and the first one is not the one that makes the folder", len(blocks))
	}
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) || true; wait' EXIT\n"
	for _, b := range blocks[1:] {
		script += b[1]
	}
	admin := freePort(t)
	script = strings.ReplaceAll(script, "localhost:8444", "localhost:"+admin)
	listen := fmt.Sprintf("poll = \"10s\"\n[listen]\ndevices = \":%s\"\nadmin = \":%s\"\nmetrics = \"127.0.0.1:%s\"\n", freePort(t), admin, freePort(t))
	if strings.Count(script, "poll = \"10s\"\n") != 1 {
		t.Fatal("the page's configuration ends otherwise than this test believes")
	}
	dir := firstFolder(t)
	paste(t, dir, strings.Replace(script, "poll = \"10s\"\n", listen, 1))

	why, err := os.ReadFile(filepath.Join(dir, "why.txt"))
	must(t, err)
	for _, want := range []string{"pcr_mismatch", "in quarantine since", "single"} {
		if !strings.Contains(string(why), want) {
			t.Errorf("'cordonctl why' about the changed machine does not say %q:\n%s", want, why)
		}
	}
}

// firstFolder is the folder that the page works in. It lies below the repository's, whose programs the machine's images hold.
func firstFolder(t *testing.T) string {
	t.Helper()
	build, err := filepath.Abs("../../.build")
	must(t, err)
	must(t, os.MkdirAll(build, 0o755))
	dir, err := os.MkdirTemp(build, "first-")
	must(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			must(t, os.RemoveAll(dir))
		}
	})
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "conformance"), "../../conformance")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build conformance: %v\n%s", err, out)
	}
	return dir
}

// paste runs a script as a reader's shell does. Whatever it started ends with it.
func paste(t *testing.T, dir, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*storyTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+programs.Dir(t)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "machine.log")) // it may not be there yet
		t.Fatalf("the page's commands ended with %v; what the machine said:\n%s", err, said)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := parts.FreePort(t.Context(), "127.0.0.1")
	must(t, err)
	return strconv.Itoa(port)
}
