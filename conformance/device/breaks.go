package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
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
	all := moreBreakages()
	maps.Copy(all, map[string]breakage{
		"cmdline": {"the kernel command line of the image says single", func(ctx context.Context, m *Machine) error {
			return m.editImage(ctx, func(s map[string][]byte) error {
				s[".cmdline"] = append(s[".cmdline"], " single"...)
				return nil
			})
		}},
		"initrd": {"the initial file system has a back door beside the agent", func(ctx context.Context, m *Machine) error {
			return m.editImage(ctx, func(s map[string][]byte) error {
				var err error
				s[".initrd"], err = parts.AppendInitrd(s[".initrd"], map[string][]byte{"etc/backdoor": []byte("open\n")})
				return err
			})
		}},
		"osrel": {"the release description of the image is another one", func(ctx context.Context, m *Machine) error {
			return m.editImage(ctx, func(s map[string][]byte) error {
				s[".osrel"] = bytes.Replace(s[".osrel"], []byte("AcmeFW"), []byte("AcneFW"), 1)
				return nil
			})
		}},
		"loader":          {"the boot loader is one byte different", breakLoader},
		"secure-boot-off": {"the firmware has lost its keys, so that Secure Boot is off", breakSecureBoot},
		"direct":          {"the firmware starts the image itself, around the boot loader", breakAround},
		"tpm":             {"the TPM is another one of the same make", breakTPM},
	})
	return all
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

// editImage changes sections of every image on the machine. The copies carry no signature.
func (m *Machine) editImage(ctx context.Context, change func(sections map[string][]byte) error) error {
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
		was, is := m.path("image.efi"), m.path("edited.efi")
		if err := os.WriteFile(was, b, 0o600); err != nil {
			return err
		}
		err = parts.EditUKI(ctx, was, is, change)
		if err == nil {
			err = esp.Copy(ctx, name, is)
		}
		if err := errors.Join(err, os.Remove(was), os.RemoveAll(is)); err != nil {
			return err
		}
	}
	return nil
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

// breakAround makes the newest image what the firmware starts.
func breakAround(ctx context.Context, m *Machine) error {
	if m.cfg.Loader == Direct {
		return fmt.Errorf("%w: it boots like that already", ErrBreak)
	}
	esp, err := m.ESP()
	if err != nil {
		return err
	}
	images, err := m.images(ctx)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		return fmt.Errorf("%w: there is no image on it", ErrBreak)
	}
	b, err := esp.Read(ctx, images[0])
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
