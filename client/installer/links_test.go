package installer_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
)

// Somebody who could write the folder of the slots between two boots made the free slot lead to another file: the
// running slot, or a file anywhere.
func TestWritesNoFileButTheFreeSlot(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(dir, victim string) error{
		"link to a file anywhere":       func(dir, victim string) error { return os.Symlink(victim, filepath.Join(dir, "b.img")) },
		"link to the running slot":      func(dir, _ string) error { return os.Symlink("a.img", filepath.Join(dir, "b.img")) },
		"second name of the other":      func(dir, _ string) error { return os.Link(filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")) },
		"a pipe":                        func(dir, _ string) error { return syscall.Mkfifo(filepath.Join(dir, "b.img"), 0o600) },
		"a folder with something in it": func(dir, _ string) error { return os.MkdirAll(filepath.Join(dir, "b.img", "x"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir, ab := slots(t, map[string]string{"active": "a\n", "running": "a\n", "a.img": "running"})
			if err := plant(dir, victim); err != nil {
				t.Fatal(err)
			}
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
			if b, _ := os.ReadFile(victim); string(b) != "precious" {
				t.Errorf("the file elsewhere holds %q now", b)
			}
			if got := content(t, dir, "a.img"); got != "running" {
				t.Errorf("the running slot holds %q now", got)
			}
			if got := content(t, dir, "b.img"); got != "new" {
				t.Errorf("the free slot holds %q, want the image", got)
			}
		})
	}
}

// Pipes and folders among the state files are an error or go away; nothing waits for ever.
func TestStateFilesThatAreNoFiles(t *testing.T) {
	t.Parallel()
	dir, ab := slots(t, map[string]string{"active": "a\n", "running": "a\n", "a.img": "running"})
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "next", "x"), 0o700), os.Remove(filepath.Join(dir, "running")),
		syscall.Mkfifo(filepath.Join(dir, "running"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if b, err := ab.Running(t.Context()); err == nil {
		t.Errorf("Running = %+v, want an error for a pipe", b)
	}
	if err := os.Remove(filepath.Join(dir, "running")); err != nil {
		t.Fatal(err)
	}
	if err := ab.Rollback(t.Context()); err != nil {
		t.Errorf("Rollback over a folder: %v", err)
	}
}
