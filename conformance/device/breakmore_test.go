package device_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestRefusesChangesThatTheMachineCannotHave(t *testing.T) {
	t.Parallel()
	m := unbootable(t, 0) // without boot loader and without keys
	for _, name := range []string{"entry", "addon", "db-key", "foreign"} {
		if _, ok := device.Breaks()[name]; !ok {
			t.Errorf("%s is not among the known ones", name)
		}
		if _, err := m.Break(t.Context(), name); !errors.Is(err, device.ErrBreak) {
			t.Errorf("break %s: %v, want %v", name, err, device.ErrBreak)
		}
	}
}

// The intruder's key comes beside the owner's, which stay as they are.
func TestIntruderGetsIntoTheSignatureDatabaseAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := parts.NewSecureBootKeys(t.Context(), filepath.Join(dir, "keys"))
	must(t, err)
	own := keys.OnESP()
	changed, err := keys.WithIntruder(t.Context(), filepath.Join(dir, "intruder"))
	must(t, err)
	for name, file := range changed {
		if differs := file != own[name]; differs != (filepath.Base(name) == "db.auth") {
			t.Errorf("%s: changed %v", name, differs)
		}
	}
	if len(changed) != len(own) {
		t.Errorf("got %d files, want %d", len(changed), len(own))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := keys.WithIntruder(ended, filepath.Join(dir, "never")); err == nil {
		t.Error("a key was added without its tools")
	}
}
