package device

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// moreBreakages are changes around the images: what lies beside them on the EFI system partition, and the firmware's keys.
func moreBreakages() map[string]breakage {
	return map[string]breakage{
		"shell":   {"the kernel command line of the image says init=/bin/sh", breakShell},
		"entry":   {"an entry of the boot loader starts the genuine image with init=/bin/sh", breakEntry},
		"addon":   {"a credential lies beside the genuine image, which the stub hands to the system", breakAddon},
		"db-key":  {"the firmware's signature database holds somebody else's key beside the owner's", breakKeys},
		"foreign": {"the image is signed with a key that the firmware does not know", breakForeign},
	}
}

// EditImages changes sections (.cmdline, .initrd, .osrel, .linux) of every image on the machine, which is off. The copies
// carry no signature.
func (m *Machine) EditImages(ctx context.Context, change func(sections map[string][]byte) error) error {
	return m.editImage(ctx, change)
}

func breakShell(ctx context.Context, m *Machine) error {
	return m.editImage(ctx, func(s map[string][]byte) error {
		s[".cmdline"] = append(s[".cmdline"], " init=/bin/sh"...)
		return nil
	})
}

// bootable is the image that the boot loader prefers.
func (m *Machine) bootable(ctx context.Context) (string, error) {
	if m.cfg.Loader == Direct {
		return "", fmt.Errorf("%w: it has no boot loader", ErrBreak)
	}
	images, err := m.images(ctx)
	if err != nil {
		return "", err
	}
	if len(images) == 0 {
		return "", fmt.Errorf("%w: there is no image on it", ErrBreak)
	}
	return images[len(images)-1], nil
}

func breakEntry(ctx context.Context, m *Machine) error {
	image, err := m.bootable(ctx)
	if err != nil {
		return err
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	entry := fmt.Sprintf("title Acme\nefi /%s\noptions console=ttyS0,115200 quiet loglevel=4 panic=3 no_timer_check init=/bin/sh\n", image)
	if err := esp.Write(ctx, "loader/entries/acme.conf", []byte(entry)); err != nil {
		return err
	}
	return esp.Write(ctx, "loader/loader.conf", []byte("timeout 0\neditor no\ndefault acme.conf\n"))
}

func breakAddon(ctx context.Context, m *Machine) error {
	image, err := m.bootable(ctx)
	if err != nil {
		return err
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	return esp.Write(ctx, path.Join(image+".extra.d", "shell.cred"), []byte("root without a password\n"))
}

// breakKeys has the firmware enroll its keys again, with a signature database of two. Who can do that holds the key
// exchange key, or stood before a firmware in setup mode.
func breakKeys(ctx context.Context, m *Machine) error {
	if m.cfg.Keys == nil {
		return fmt.Errorf("%w: Secure Boot is off", ErrBreak)
	}
	files, err := m.cfg.Keys.WithIntruder(ctx, filepath.Join(m.dir, "intruder"))
	if err != nil {
		return err
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	for name, file := range files {
		if err := esp.Copy(ctx, name, file); err != nil {
			return err
		}
	}
	return parts.NewVars(ctx, m.cfg.Arch, m.vars())
}

// breakForeign signs the images with keys of somebody else.
func breakForeign(ctx context.Context, m *Machine) error {
	if m.cfg.Keys == nil {
		return fmt.Errorf("%w: Secure Boot is off", ErrBreak)
	}
	keys, err := parts.NewSecureBootKeys(ctx, filepath.Join(m.dir, "foreign"))
	if err != nil {
		return err
	}
	if err := breakShell(ctx, m); err != nil {
		return err
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	images, err := m.images(ctx)
	if err != nil {
		return err
	}
	for _, name := range images {
		if err := resign(ctx, esp, keys, name, m.path("foreign")); err != nil {
			return err
		}
	}
	return nil
}

// resign signs an image on the EFI system partition.
func resign(ctx context.Context, esp parts.ESP, keys *parts.SecureBootKeys, name, dir string) error {
	b, err := esp.Read(ctx, name)
	if err != nil {
		return err
	}
	was, is := filepath.Join(dir, "image.efi"), filepath.Join(dir, "signed.efi")
	if err := os.WriteFile(was, b, 0o600); err != nil {
		return err
	}
	if err := keys.Sign(ctx, was, is); err != nil {
		return err
	}
	return esp.Copy(ctx, name, is)
}
