package installer_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
)

// slots makes a folder as a machine with two slots has it.
func slots(t *testing.T, files map[string]string) (string, *installer.AB) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ab, err := installer.NewAB(dir)
	if err != nil {
		t.Fatalf("NewAB: %v", err)
	}
	return dir, ab
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

func TestWritesTheSlotThatDoesNotRun(t *testing.T) {
	t.Parallel()
	dir, ab := slots(t, map[string]string{"active": "b\n", "running": "b\n", "a.img": "a longer old image", "b.img": "running"})
	image := installer.Image{Component: "system", SHA256: digest.Of([]byte("new")), Length: 3}
	s, err := ab.Prepare(t.Context(), image)
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	if _, err := s.WriteAt([]byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Sync(), s.Close(), ab.Activate(t.Context(), image)); err != nil {
		t.Fatalf("Activate: %v", err)
	}
	if got := content(t, dir, "a.img"); got != "new" {
		t.Errorf("slot a = %q, want exactly the image", got)
	}
	if got := content(t, dir, "next"); got != "a" {
		t.Errorf("next = %q, want a", got)
	}
	if got := content(t, dir, "b.img"); got != "running" {
		t.Errorf("the running slot changed to %q", got)
	}
	if err := ab.Rollback(t.Context()); err != nil || content(t, dir, "next") != "" {
		t.Errorf("Rollback left next %q, %v", content(t, dir, "next"), err)
	}
}

func TestCommitsOnlyARunningTrial(t *testing.T) {
	t.Parallel()
	dir, ab := slots(t, map[string]string{"active": "a\n", "running": "a\n", "tried": "b\n", "a.img": "old", "b.img": "new"})
	boot, err := ab.Running(t.Context())
	if err != nil || boot.Trial || boot.Slot != "a" || boot.SHA256 != digest.Of([]byte("old")) || boot.Length != 3 {
		t.Errorf("Running after a fallback = %+v, %v", boot, err)
	}
	if err := ab.Commit(t.Context()); err != nil || content(t, dir, "active") != "a" {
		t.Errorf("Commit after a fallback made %q active, %v", content(t, dir, "active"), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "running"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	if boot, err := ab.Running(t.Context()); err != nil || !boot.Trial || boot.SHA256 != digest.Of([]byte("new")) {
		t.Errorf("Running = %+v, %v, want the trial of b", boot, err)
	}
	if _, err := ab.Prepare(t.Context(), installer.Image{}); !errors.Is(err, installer.ErrBusy) {
		t.Errorf("Prepare during a trial: %v, want ErrBusy", err)
	}
	for range 2 { // a second time after a crash
		if err := ab.Commit(t.Context()); err != nil || content(t, dir, "active") != "b" {
			t.Errorf("Commit made %q active, %v", content(t, dir, "active"), err)
		}
	}
}

func TestRefusesToGuess(t *testing.T) {
	t.Parallel()
	_, ab := slots(t, map[string]string{"active": "a", "tried": "b", "a.img": "old"})
	if boot, err := ab.Running(t.Context()); err == nil {
		t.Errorf("Running = %+v without the file running, want an error", boot)
	}
	for _, text := range []string{"", "c", "../a", "a b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "active"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := installer.NewAB(dir); err == nil {
			t.Errorf("NewAB accepted the active slot %q", text)
		}
	}
	for _, spec := range []string{"", "ab", "ab:", "uki:", "uki:,efivars=/x", "uki:/boot,efivars=", "uki:/boot,efivar=/x", "uki:/boot,efivars=/x,efivars=/y", "AB:/x"} {
		if _, err := installer.Open(spec); !errors.Is(err, installer.ErrSpec) {
			t.Errorf("Open(%q): %v, want ErrSpec", spec, err)
		}
	}
}
