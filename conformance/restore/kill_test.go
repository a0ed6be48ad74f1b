package restore_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// killAt starts cordond, kills it with SIGKILL when it prints a line that begins with text, and reports whether it did.
func killAt(t *testing.T, s *demo.Stage, text string, args ...string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs.Dir(t), "cordond"), args...)
	cmd.Dir, cmd.Env = s.Path(), []string{"HOME=" + s.Path("home"), "TMPDIR=" + s.Path("tmp")}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if !killed && strings.HasPrefix(lines.Text(), text) {
			killed = cmd.Process.Kill() == nil
		}
	}
	if err := cmd.Wait(); err == nil && killed {
		return false // it had ended before the signal
	}
	return killed
}

// A backup or a restore that is killed at any step leaves nothing that would be taken for a whole one, and the same
// command again comes through.
func TestKilledBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("device")
	config, backups := s.Path("cordond.toml"), s.Path("backups")
	for _, step := range []string{"rows of appraisals", "rows of metadata", "releases"} {
		if !killAt(t, s, step, "backup", "--config", config, "--out", backups) {
			t.Logf("backup was over before it could be killed at %q", step)
		}
		for _, file := range files(t, backups, "*.backup") {
			if code, _, stderr := s.Run("cordond", "backup", "--verify", file); code != 0 {
				t.Errorf("killed at %q: it left a backup that is none: %s", step, stderr)
			}
		}
	}
	code, stdout, stderr := s.Run("cordond", "backup", "--config", config, "--out", backups)
	if code != 0 {
		t.Fatalf("backup: exit %d\n%s", code, stderr)
	}
	file := strings.TrimSpace(stdout)
	if left := files(t, backups, ".partial-*"); len(left) > 0 {
		t.Errorf("killed backups left %v", left)
	}
	s.StopServer()
	if err := os.RemoveAll(s.Path("cordon-data")); err != nil {
		t.Fatal(err)
	}
	restore := []string{"restore", "--config", config, "--from", file}
	for _, step := range []string{"images into the artifact store", "rows of appraisals", "rows of events", "rows of updates"} {
		if !killAt(t, s, step, restore...) {
			t.Fatalf("the restore was over before it could be killed at %q", step)
		}
		code, _, stderr := s.Run("cordond", "--config", config)
		if code != 3 || !strings.Contains(stderr, "restore") || !strings.Contains(stderr, "hint: ") {
			t.Errorf("killed at %q: a server starts on it: exit %d\n%s", step, code, stderr)
		}
	}
	if code, _, stderr := s.Run("cordond", restore...); code != 0 {
		t.Fatalf("the restore again: exit %d\n%s", code, stderr)
	}
	s.StartServer()
	if got := d.Agent(); got.Verdict != "affirmed" || len(got.Refusals) > 0 {
		t.Errorf("the device: %s", got)
	}
	s.Report()
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The commands explain mistakes, and refuse what is not a backup.
func TestBackupCommandsExplainMistakes(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	config := s.Path("cordond.toml")
	for name, row := range map[string]struct {
		args []string
		code int
		says string
	}{
		"neither folder nor file": {[]string{"backup", "--config", config}, 2, "--out"},
		"both":                    {[]string{"backup", "--out", "x", "--verify", "y"}, 2, "--out"},
		"opposites":               {[]string{"backup", "--config", config, "--out", "x", "--with-artifacts", "--no-artifacts"}, 2, "exclude"},
		"not a backup":            {[]string{"backup", "--verify", config}, 1, "damaged"},
		"no such backup":          {[]string{"backup", "--verify", s.Path("none")}, 3, "none"},
		"restore from nothing":    {[]string{"restore", "--config", config}, 2, "--from"},
		"restore while it runs":   {[]string{"restore", "--config", config, "--from", config}, 3, "another cordond"},
		"unknown command":         {[]string{"bakcup"}, 2, "bakcup"},
	} {
		code, stdout, stderr := s.Run("cordond", row.args...)
		if code != row.code || !strings.Contains(stderr, row.says) || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%s: got exit %d, want %d and %q:\n%s%s", name, code, row.code, row.says, stdout, stderr)
		}
	}
}
