package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// ErrBreak is returned for the name of a change that there is not, or that this machine cannot have.
var ErrBreak = errors.New("cannot tamper with the machine like that")

// breakage is one way in which somebody tampers with a machine that is switched off.
type breakage struct {
	what string
	do   func(ctx context.Context, m *Machine) error
}

func breakages() map[string]breakage {
	return map[string]breakage{
		"cmdline": {"the kernel command line of the image says single", breakCommandLine(" single")},
		"shell":   {"the kernel command line of the image says init=/bin/sh", breakCommandLine(" init=/bin/sh")},
		"initrd": {"the initial file system has a back door beside the agent", func(ctx context.Context, m *Machine) error {
			return m.EditImages(ctx, func(s map[string][]byte) error {
				var err error
				s[".initrd"], err = parts.AppendInitrd(s[".initrd"], map[string][]byte{"etc/backdoor": []byte("open\n")})
				return err
			})
		}},
		"osrel": {"the release description of the image is another one", func(ctx context.Context, m *Machine) error {
			return m.EditImages(ctx, func(s map[string][]byte) error {
				s[".osrel"] = bytes.Replace(s[".osrel"], []byte("AcmeFW"), []byte("AcneFW"), 1)
				return nil
			})
		}},
		"loader":          {"the boot loader is one byte different", breakLoader},
		"secure-boot-off": {"the firmware has lost its keys, so that Secure Boot is off", breakSecureBoot},
		"direct":          {"the firmware starts the image itself, around the boot loader", breakAround},
		"tpm":             {"the TPM is another one of the same make", breakTPM},
		"entry":           {"an entry of the boot loader starts the genuine image with init=/bin/sh", breakEntry},
		"addon":           {"a credential lies beside the genuine image, which the stub hands to the system", breakAddon},
		"db-key":          {"the firmware's signature database holds somebody else's key beside the owner's", breakKeys},
		"foreign":         {"the image is signed with a key that the firmware does not know", breakForeign},
	}
}

// Breaks are the names that Break knows, with what each does.
func Breaks() map[string]string {
	all := map[string]string{}
	for name, b := range breakages() {
		all[name] = b.what
	}
	return all
}

// Break tampers with the machine, which is off, and returns what it did in plain words. It returns ErrBreak for an
// unknown name, and for a change that is none on this machine.
func (m *Machine) Break(ctx context.Context, name string) (string, error) {
	if err := m.off(); err != nil {
		return "", err
	}
	b, ok := breakages()[name]
	if !ok {
		return "", unknownBreak(name)
	}
	if err := b.do(ctx, m); err != nil {
		return "", err
	}
	return b.what, nil
}

func unknownBreak(name string) error {
	return fmt.Errorf("%w: %q, known are %s", ErrBreak, name, strings.Join(slices.Sorted(maps.Keys(breakages())), ", "))
}

// images are the paths of the images on the EFI system partition that may boot.
func (m *Machine) images(ctx context.Context) ([]string, error) {
	if m.cfg.Loader == Direct {
		return []string{m.cfg.Arch.BootFile()}, nil
	}
	esp, err := m.ESP()
	if err != nil {
		return nil, err
	}
	names, err := esp.List(ctx, "EFI/Linux")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		if path.Ext(name) == ".efi" {
			found = append(found, "EFI/Linux/"+name)
		}
	}
	return found, nil
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

// EditImages changes sections (.cmdline, .initrd, .osrel, .linux) of every image on the machine, which is off. The copies
// carry no signature.
func (m *Machine) EditImages(ctx context.Context, change func(sections map[string][]byte) error) error {
	return m.rewriteImages(ctx, func(was, is string) error { return parts.EditUKI(ctx, was, is, change) })
}

// rewriteImages puts in the place of every image on the machine what rewrite makes of it, from file to file.
func (m *Machine) rewriteImages(ctx context.Context, rewrite func(was, is string) error) error {
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	images, err := m.images(ctx)
	if err != nil {
		return err
	}
	for _, name := range images {
		b, err := esp.Read(ctx, name)
		if err != nil {
			return err
		}
		was, is := m.path("was.efi"), m.path("is.efi")
		if err := os.WriteFile(was, b, 0o600); err != nil {
			return err
		}
		err = rewrite(was, is)
		if err == nil {
			err = esp.Copy(ctx, name, is)
		}
		if err := errors.Join(err, os.Remove(was), os.RemoveAll(is)); err != nil {
			return err
		}
	}
	return nil
}

// breakCommandLine adds to the kernel command line of every image.
func breakCommandLine(more string) func(context.Context, *Machine) error {
	return func(ctx context.Context, m *Machine) error {
		return m.EditImages(ctx, func(s map[string][]byte) error {
			s[".cmdline"] = append(s[".cmdline"], more...)
			return nil
		})
	}
}

// breakLoader changes a byte of a text that the boot loader never looks at.
func breakLoader(ctx context.Context, m *Machine) error {
	if m.cfg.Loader == Direct {
		return fmt.Errorf("%w: it has no boot loader", ErrBreak)
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	b, err := esp.Read(ctx, m.cfg.Arch.BootFile())
	if err != nil {
		return err
	}
	text := []byte("#### LoaderInfo: systemd-boot")
	at := bytes.Index(b, text)
	if at < 0 {
		return fmt.Errorf("%w: its boot loader is not systemd-boot", ErrBreak)
	}
	b[at+len(text)-1] ^= 'a' ^ 't'
	return esp.Write(ctx, m.cfg.Arch.BootFile(), b)
}

// breakSecureBoot takes the keys out of the firmware and keeps the boot loader from putting them back.
func breakSecureBoot(ctx context.Context, m *Machine) error {
	if m.cfg.Keys == nil {
		return fmt.Errorf("%w: Secure Boot is off already", ErrBreak)
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	for name := range m.cfg.Keys.OnESP() {
		if err := esp.Remove(ctx, name); err != nil {
			return err
		}
	}
	return parts.NewVars(ctx, m.cfg.Arch, m.vars())
}

// breakAround makes the image that the boot loader prefers what the firmware starts.
func breakAround(ctx context.Context, m *Machine) error {
	image, err := m.bootable(ctx)
	if err != nil {
		return err
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	b, err := esp.Read(ctx, image)
	if err != nil {
		return err
	}
	return esp.Write(ctx, m.cfg.Arch.BootFile(), b)
}

// breakTPM takes the TPM out and puts another one in, whose EK certificate has the same maker.
func breakTPM(ctx context.Context, m *Machine) error {
	if err := os.RemoveAll(m.tpm()); err != nil {
		return err
	}
	name := "another"
	if m.cfg.TPM.Name != "" {
		name += "-" + m.cfg.TPM.Name
	}
	m.cfg.TPM = parts.TPMConfig{Name: name}
	return m.manufactureTPM(ctx)
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
	entry := fmt.Sprintf("title Acme\nefi /%s\noptions %s init=/bin/sh\n", image, m.cfg.Arch.CommandLine())
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
	if err := breakCommandLine(" init=/bin/sh")(ctx, m); err != nil {
		return err
	}
	return m.rewriteImages(ctx, func(was, is string) error { return keys.Sign(ctx, was, is) })
}
