package parts_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestSecureBootKeysSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := parts.NewSecureBootKeys(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := parts.Require(t.Context(), t.Output(), "systemd-boot-efi"); err != nil {
		t.Fatal(err)
	}
	signed := filepath.Join(t.TempDir(), "signed.efi")
	if err := keys.Sign(t.Context(), parts.SystemdBoot, signed); err != nil {
		t.Fatal(err)
	}
	verify := func(file string) error {
		return exec.CommandContext(t.Context(), "sbverify", "--cert", filepath.Join(dir, "db.crt"), file).Run()
	}
	if err := verify(signed); err != nil {
		t.Errorf("the signature does not verify: %v", err)
	}
	if err := verify(parts.SystemdBoot); err == nil {
		t.Error("an unsigned program verifies")
	}
	again, err := parts.NewSecureBootKeys(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	before, after := keys.OnESP(), again.OnESP()
	if len(before) != 3 {
		t.Errorf("%d files enroll the keys, want 3", len(before))
	}
	for name, file := range before {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 || after[name] != file {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The intruder's key comes beside the owner's, which stay as they are.
func TestIntruderGetsIntoTheSignatureDatabaseAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, err := parts.NewSecureBootKeys(t.Context(), filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	own := keys.OnESP()
	changed, err := keys.WithIntruder(t.Context(), filepath.Join(dir, "intruder"))
	if err != nil {
		t.Fatal(err)
	}
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
