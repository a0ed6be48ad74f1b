package installer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
)

// Whoever may write a folder on the way to a hook can put another folder or link there, between the look at the hook and its
// start at the latest.
func TestHooksBehindAWayThatOthersMayWriteAreRefused(t *testing.T) {
	t.Parallel()
	for name, lay := range map[string]func(dir, hooks string) (string, error){
		"a folder above": func(dir, hooks string) (string, error) {
			open := filepath.Join(dir, "open")
			return filepath.Join(open, "hooks"), errors.Join(os.Mkdir(open, 0o755), os.Rename(hooks, filepath.Join(open, "hooks")), os.Chmod(open, 0o777))
		},
		"a link to the folder": func(dir, hooks string) (string, error) {
			open := filepath.Join(dir, "open")
			return filepath.Join(open, "hooks"), errors.Join(os.Mkdir(open, 0o755), os.Symlink(hooks, filepath.Join(open, "hooks")), os.Chmod(open, 0o777))
		},
		"a link on the way to a hook": func(dir, hooks string) (string, error) {
			open, hook := filepath.Join(dir, "open"), filepath.Join(hooks, "commit")
			kept := filepath.Join(dir, "kept")
			return hooks, errors.Join(os.Mkdir(open, 0o755), os.Rename(hook, kept), os.Symlink(kept, filepath.Join(open, "link")),
				os.Symlink(filepath.Join(open, "link"), hook), os.Chmod(open, 0o777))
		},
		"a relative link that climbs": func(dir, hooks string) (string, error) {
			open, hook := filepath.Join(dir, "open"), filepath.Join(hooks, "commit")
			kept := filepath.Join(dir, "kept")
			return hooks, errors.Join(os.Mkdir(open, 0o755), os.Rename(hook, kept), os.Symlink("../kept", filepath.Join(open, "link")),
				os.Symlink("../open/link", hook), os.Chmod(open, 0o777))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
				t.Fatal(err)
			}
			hooks := filepath.Join(dir, "hooks")
			if err := os.Rename(putScripts(t, installertest.NewSlots(t, t.TempDir()).Dir, scripts), hooks); err != nil {
				t.Fatal(err)
			}
			at, err := lay(dir, hooks)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := installer.Open("script:" + at); !errors.Is(err, installer.ErrOwner) || !strings.Contains(err.Error(), `/open" has mode 0777`) {
				t.Errorf("got %v, want a refusal that names the folder", err)
			}
			if err := os.Chmod(filepath.Join(dir, "open"), 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := installer.Open("script:" + at); err != nil {
				t.Errorf("after the cure: %v", err)
			}
		})
	}
}

// A link in a folder that everybody may write belongs to whoever made it.
func TestHooksBehindALinkOfAnotherUserAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hooks := putScripts(t, installertest.NewSlots(t, t.TempDir()).Dir, scripts)
	link := filepath.Join(dir, "hooks")
	if err := errors.Join(os.Symlink(hooks, link), os.Chmod(dir, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := installer.Open("script:" + link); err != nil {
		t.Errorf("a link of the agent's own user, in a folder where nobody else can replace it: %v", err)
	}
	if os.Geteuid() != 0 { // nobody else can give a link away
		return
	}
	if err := os.Lchown(link, 4711, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := installer.Open("script:" + link); !errors.Is(err, installer.ErrOwner) {
		t.Errorf("a link of another user: got %v, want a refusal", err)
	}
}

// A link that leads to itself ends.
func TestHooksBehindALoopAreRefused(t *testing.T) {
	t.Parallel()
	hooks := putScripts(t, installertest.NewSlots(t, t.TempDir()).Dir, scripts)
	hook := filepath.Join(hooks, "commit")
	if err := errors.Join(os.Remove(hook), os.Symlink("commit", hook)); err != nil {
		t.Fatal(err)
	}
	if _, err := installer.Open("script:" + hooks); err == nil {
		t.Error("a loop was opened")
	}
}

// The hook select is optional. One that is there and cannot be trusted must not count as none: SWUpdate would then choose what
// to write by itself.
func TestSelectThatOthersMayWriteIsNotPassedOver(t *testing.T) {
	t.Parallel()
	m := newSWUpdateMachine(t).(*swupdateMachine)
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	_, spec, ok := strings.Cut(m.Spec(), "hooks=")
	if !ok {
		t.Fatalf("no hooks in %q", m.Spec())
	}
	hooks, _, _ := strings.Cut(spec, ",")
	file := filepath.Join(hooks, "select")
	if err := errors.Join(os.WriteFile(file, []byte("#!/bin/sh\necho stable,b\n"), 0o755), os.Chmod(file, 0o775)); err != nil {
		t.Fatal(err)
	}
	if err := bring(t, in, m.Image(1, false)); !errors.Is(err, installer.ErrOwner) {
		t.Errorf("got %v, want a refusal of the hook", err)
	}
}
