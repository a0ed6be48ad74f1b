package parts

import (
	"bytes"
	"context"
	"debug/pe"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// requireUKI makes sure that images of an architecture can be joined.
func requireUKI(ctx context.Context, arch Arch) error {
	if arch == ARM64 {
		return Require(ctx, os.Stderr, "binutils-aarch64-linux-gnu")
	}
	return Require(ctx, os.Stderr, "systemd-boot-efi", "binutils")
}

// stub is a systemd-stub.
type stub struct {
	path    string
	program []byte
}

func stubOf(ctx context.Context, arch Arch) (stub, error) {
	path := stubPath
	if arch == ARM64 {
		software, err := SoftwareOf(ctx, os.Stderr, arch)
		if err != nil {
			return stub{}, err
		}
		path = software.Stub
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return stub{}, fmt.Errorf("cannot read systemd-stub: %w", err)
	}
	return stub{path: path, program: b}, nil
}

// stubName is what a stub calls itself.
var stubName = regexp.MustCompile(`#### LoaderInfo: systemd-stub [^#\n]* ####\x00`)

// nameSectionAddress lies between the stub and the first section of an image.
const nameSectionAddress = "0x18000"

// nameSection returns objcopy's options that give a stub its name as the section .sdmagic. Debian 12 ships the stub of
// arm64 with that text behind the last section of the file, where objcopy leaves it out, and then nobody who predicts
// what an image measures can tell which stub it starts with.
func (s stub) nameSection(work string) ([]string, error) {
	file, err := pe.NewFile(bytes.NewReader(s.program))
	if err != nil {
		return nil, fmt.Errorf("cannot read systemd-stub: %w", err)
	}
	if file.Section(".sdmagic") != nil {
		return nil, nil
	}
	name := stubName.Find(s.program)
	if name == nil {
		return nil, fmt.Errorf("cannot build UKI: %s does not say which stub it is", s.path)
	}
	out := filepath.Join(work, "sdmagic")
	if err := os.WriteFile(out, name, 0o600); err != nil {
		return nil, fmt.Errorf("cannot build UKI: %w", err)
	}
	return []string{"--add-section", ".sdmagic=" + out, "--change-section-vma", ".sdmagic=" + nameSectionAddress}, nil
}
