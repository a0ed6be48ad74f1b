package crash_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// signerCrashes kills cordon-sign at every step of a publication and of a ceremony.
func signerCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	w.signValve()
	for i, point := range []string{
		"signer.publish.signed", "signer.publish.uploaded", "signer.publish.ready", "signer.publish.published",
	} {
		r := w.newRelease(i + 1)
		code, _, stderr := w.s.RunEnv([]string{arm(point)}, "cordon-sign", r.args()...)
		if code != -1 || !died(stderr, point) {
			t.Errorf("%s: exit %d, %s", point, code, stderr)
			continue
		}
		w.check()
		r.complete()
		book.add(row{point: point, process: "signer", cycle: "publish", after: "published once"})
	}
	w.ceremonies()
	w.s.Report()
}

// ceremonies changes a policy with a death at every file of every command.
func (w *world) ceremonies() {
	for i, point := range []string{"signer.ceremony.written", "signer.ceremony.renamed"} {
		text := strings.Replace(valve, "approvals = 2", fmt.Sprintf("approvals = 2\nminimum_counter = %d", i+1), 1)
		if err := os.WriteFile(w.s.Path("valve.toml"), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
		for _, args := range [][]string{
			{"product", "set", "--dir", "ceremony", "--policy", "valve.toml"},
			{"root", "sign", "--dir", "ceremony", "--key", "hanna.pem"},
			{"root", "sign", "--dir", "ceremony", "--key", "henry.pem"},
			{"root", "apply", "--dir", "ceremony", "--token-file", w.s.Path("alice.token")},
		} {
			w.everyFile(point, args)
		}
		if show := w.s.Sign("product", "show", "--dir", "ceremony", "--product", "valve"); !strings.Contains(show, fmt.Sprint(i+1)) {
			w.t.Errorf("%s: the policy in force is %s", point, show)
		}
		w.check()
	}
}

// maxFiles is more than any command of a ceremony writes.
const maxFiles = 12

// everyFile runs a command that dies at its first, second, ... file, until it does not die any more.
func (w *world) everyFile(point string, args []string) {
	w.t.Helper()
	for n := 1; n <= maxFiles; n++ {
		at := fmt.Sprintf("%s:%d", point, n)
		code, stdout, stderr := w.s.RunEnv([]string{arm(at)}, "cordon-sign", args...)
		if code == 0 {
			return
		}
		if code != -1 || !died(stderr, at) {
			w.t.Errorf("%s: cordon-sign %s: exit %d, %s%s", at, strings.Join(args, " "), code, stdout, stderr)
			return
		}
		w.book.add(row{point: at, process: "signer", cycle: strings.Join(args[:2], " "), after: "the same command again succeeds"})
	}
	w.t.Errorf("cordon-sign %s writes more than %d files", strings.Join(args, " "), maxFiles)
}

// firstStartCrashes kills cordond at every file that its first start makes.
func firstStartCrashes(t *testing.T, book *ledger) {
	for _, point := range []string{"server.key.written", "server.key.placed"} {
		n := 1
		for ; n <= 3*maxFiles; n++ {
			at := fmt.Sprintf("%s:%d", point, n)
			if !firstStart(t, at) {
				break
			}
			book.add(row{point: at, process: "server", cycle: "first start", after: "starts, and its one-time token is good"})
		}
		if n < 8 {
			t.Errorf("%s: only %d files were made", point, n-1)
		}
	}
}

// firstStart starts cordond on an empty folder with a point armed, and again without it. It says whether the first one
// died.
func firstStart(t *testing.T, point string) bool {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "cordond.toml")
	text := fmt.Sprintf("data_dir = %q\n[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n", filepath.Join(dir, "data"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := runServer(t, config, arm(point))
	if code != -1 {
		return false
	}
	if !died(out, point) {
		t.Errorf("%s: killed elsewhere: %s", point, out)
	}
	out, _ = runServer(t, config, "")
	if !strings.Contains(out, "the server is uninitialised") {
		t.Errorf("%s: the next start: %s", point, out)
	}
	token, err := os.ReadFile(filepath.Join(dir, "data", "admin.token"))
	if err != nil || len(strings.TrimSpace(string(token))) < 20 {
		t.Errorf("%s: one-time token %q, %v", point, token, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "data", "keys", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: %s is empty or gone: %v", point, path, err)
		}
	}
	return true
}

// runServer runs cordond until it has said that it is up, or has died. The code is -1 when a signal ended it before that.
func runServer(t *testing.T, config, env string) (log string, code int) {
	t.Helper()
	path := config + ".log"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(filepath.Join(programs.Dir(t), "cordond"), "--config", config)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), env)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state is looked at below
		close(ended)
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		gone := false
		select {
		case <-ended:
			gone = true
		case <-tick.C:
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			return string(b), cmd.ProcessState.ExitCode()
		}
		if strings.Contains(string(b), "the server is uninitialised") {
			_ = cmd.Process.Kill()
			<-ended
			return string(b), 0
		}
	}
}
