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

// A hook runs with the agent's rights: whoever can write it, or the folder that it lies in, has them.
func TestHooksThatOthersMayWriteAreRefused(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(hooks string) error{
		"the file by a group":     func(hooks string) error { return os.Chmod(filepath.Join(hooks, "commit"), 0o775) },
		"the file by everybody":   func(hooks string) error { return os.Chmod(filepath.Join(hooks, "commit"), 0o757) },
		"the folder by a group":   func(hooks string) error { return os.Chmod(hooks, 0o775) },
		"the folder by everybody": func(hooks string) error { return os.Chmod(hooks, os.ModeSticky|0o777) },
		"the folder behind a link": func(hooks string) error {
			elsewhere := filepath.Join(hooks, "elsewhere")
			return errors.Join(os.Mkdir(elsewhere, 0o755), os.Chmod(elsewhere, 0o777), os.Rename(filepath.Join(hooks, "commit"), filepath.Join(elsewhere, "commit")),
				os.Symlink(filepath.Join(elsewhere, "commit"), filepath.Join(hooks, "commit")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := installertest.NewSlots(t, t.TempDir())
			m := scriptMachine{s, putScripts(t, s.Dir, scripts)}
			in, err := m.Open()
			if err != nil {
				t.Fatal(err)
			}
			if err := spoil(m.scripts); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{"Open": second(m.Open()), "Commit": in.Commit(t.Context())} {
				if !errors.Is(err, installer.ErrOwner) || !strings.Contains(err.Error(), "others may write it; run 'chmod go-w' on it") {
					t.Errorf("%s: %v, want a refusal that says what to do", what, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestHooksOfAnotherUserAreRefused(t *testing.T) {
	t.Parallel()
	file, self := filepath.Join(t.TempDir(), "hook"), os.Geteuid()
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := installer.Owned(file, self); err != nil {
		t.Errorf("a hook of the agent's own user: %v", err)
	}
	if self != 0 {
		self++ // the file belongs to this user, who is not the agent's
	} else if err := errors.Join(installer.Owned(file, 4711), os.Chown(file, 4711, -1)); err != nil { // root's is everybody's
		t.Fatal(err)
	}
	if err := installer.Owned(file, self); !errors.Is(err, installer.ErrOwner) || !strings.Contains(err.Error(), "run 'chown root' on it") {
		t.Errorf("a hook of another user: %v, want a refusal that says what to do", err)
	}
}
