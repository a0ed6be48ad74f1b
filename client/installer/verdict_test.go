package installer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
)

// What an installation that did not take place was: the image is refused for good, it went wrong, or it waits for trouble to
// pass.
const (
	refused = "refused"
	failed  = "failed"
	passing = "passing"
)

func kindOf(err error) string {
	switch {
	case err == nil:
		return "installed"
	case errors.Is(err, installer.ErrRefused):
		return refused
	case errors.Is(err, installer.ErrFailed):
		return failed
	}
	return passing
}

func wantVerdict(t *testing.T, m installertest.Machine, image []byte, what, want string) {
	t.Helper()
	in, err := m.Open()
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
	if err = in.Activate(t.Context(), describe(image)); errors.Is(err, installer.ErrUntold) && kindOf(err) == passing {
		err = in.Activate(t.Context(), describe(image)) // the client asks again, too
	}
	if kindOf(err) != want {
		t.Errorf("%s: %s, want %s: %v", what, kindOf(err), want, err)
	}
}

func replaceIn(t *testing.T, file, old, with string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), old) {
		t.Fatalf("%s does not say %q: %v", file, old, err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, with, 1)), 0o755); err != nil {
		t.Fatal(err)
	}
}

// fill makes a slot one of a disk that is full.
func fill(t *testing.T, slot string) (restore func()) {
	t.Helper()
	if err := errors.Join(os.Rename(slot, slot+".kept"), os.Symlink("/dev/full", slot)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.Remove(slot), os.Rename(slot+".kept", slot)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRAUCTellsARefusedBundleFromTroubleThatPasses(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	good := m.Image(1, false)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	wantVerdict(t, m, flipped, "a changed bundle", refused)
	wantVerdict(t, m, []byte(strings.Repeat("no bundle", 1000)), "no bundle", refused)
	restore := fill(t, m.Slot("B"))
	wantVerdict(t, m, good, "a full disk", passing)
	restore()
	dir := filepath.Dir(m.Slot("A"))
	replaceIn(t, filepath.Join(dir, "backend"), "set-state) ", "set-state) exit 1; ")
	wantVerdict(t, m, good, "a boot loader that does not answer", failed)
	replaceIn(t, filepath.Join(dir, "backend"), "set-state) exit 1; ", "set-state) ")
	replaceIn(t, filepath.Join(dir, "system.conf"), "compatible=acme", "compatible=other")
	if err := m.RAUC.Boot(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	wantVerdict(t, m, good, "a bundle for other machines", refused)
	replaceIn(t, m.Program(), "#!/bin/sh\n", `#!/bin/sh
case "$*" in *install*) DBUS_STARTER_BUS_TYPE=session DBUS_SESSION_BUS_ADDRESS=unix:path=/none exec rauc "$@" ;; esac
`)
	wantVerdict(t, m, good, "no bus", passing)
}

func TestSWUpdateTellsARefusedImageFromTroubleThatPasses(t *testing.T) {
	t.Parallel()
	m := newSWUpdateMachine(t).(*swupdateMachine)
	good := m.Image(1, false)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	wantVerdict(t, m, flipped, "a changed image", refused)
	wantVerdict(t, m, []byte(strings.Repeat("no image", 1000)), "no image", refused)
	if err := os.WriteFile(filepath.Join(m.Dir, "b.img"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	restore := fill(t, filepath.Join(m.Dir, "b.img"))
	wantVerdict(t, m, good, "a full disk", passing)
	restore()
	replaceIn(t, m.Program(), "edge:1.0", "edge:2.0")
	wantVerdict(t, m, good, "an image for other machines", refused)
	replaceIn(t, m.Program(), "cert.pem", "none.pem")
	wantVerdict(t, m, good, "no key", failed)
}

func TestHooksTellARefusedImageFromTroubleThatPasses(t *testing.T) {
	t.Parallel()
	image := plainImage(1, false)
	for script, want := range map[string]string{
		"exit 65":                                refused,
		"echo the image is damaged >&2; exit 65": refused,
		"exit 1":                                 failed,
		"echo dd: No space left on device; exit 1": passing,
		"exit 75":    passing,
		"kill -9 $$": passing,
	} {
		s := installertest.NewSlots(t, t.TempDir())
		m := scriptMachine{s, putScripts(t, s.Dir, scripts)}
		replaceIn(t, filepath.Join(m.scripts, "activate"), scripts["activate"], script)
		wantVerdict(t, m, image, script, want)
	}
	for code, want := range map[int]string{65: refused, 1: passing} {
		s := installertest.NewSlots(t, t.TempDir())
		m := scriptMachine{s, putScripts(t, s.Dir, scripts)}
		replaceIn(t, filepath.Join(m.scripts, "prepare"), scripts["prepare"], fmt.Sprintf("exit %d", code))
		in, err := m.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Prepare(t.Context(), describe(image)); kindOf(err) != want {
			t.Errorf("prepare with exit %d: %s, want %s: %v", code, kindOf(err), want, err)
		}
	}
}
