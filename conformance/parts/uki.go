package parts

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// stubPath is Debian's systemd-stub, the code that a unified kernel image starts with.
const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// UKISpec describes a unified kernel image. The same spec, stub and objcopy give the same bytes.
type UKISpec struct {
	Version   string // becomes VERSION_ID and IMAGE_VERSION
	Arch      Arch
	Kernel    KernelImage
	Cmdline   string            // Optional: kernel command line; default: a serial console and fw.version=Version
	OSRelease map[string]string // Optional: further os-release fields; they win over the ones from Version
	Files     map[string][]byte // content of the initrd by path, without a leading slash
	Out       string            // Optional: file to write; default: a file in the cache, named after its inputs
}

// plainValue is an os-release value that needs no quotes.
var plainValue = regexp.MustCompile(`^[A-Za-z0-9._+-]+$`)

// sectionAddresses are where objcopy puts the sections that make a stub a UKI, in file order.
func sectionAddresses() []struct{ name, address string } {
	return []struct{ name, address string }{
		{".osrel", "0x20000"}, {".uname", "0x28000"}, {".cmdline", "0x30000"}, {".linux", "0x2000000"}, {".initrd", "0x4000000"},
	}
}

// BuildUKI joins systemd-stub, a Debian kernel and a small initrd as ukify does, and returns the image's path.
func BuildUKI(ctx context.Context, spec UKISpec) (string, error) {
	if err := requireUKI(ctx, spec.Arch); err != nil {
		return "", err
	}
	sections, err := spec.sections()
	if err != nil {
		return "", err
	}
	if spec.Out != "" {
		return spec.Out, joinUKI(ctx, spec.Arch, sections, spec.Out)
	}
	key, err := ukiKey(ctx, spec.Arch, sections)
	if err != nil {
		return "", err
	}
	dir, err := Cached(ctx, "uki", key, func(ctx context.Context, dir string) error {
		return joinUKI(ctx, spec.Arch, sections, filepath.Join(dir, "uki.efi"))
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "uki.efi"), nil
}

// sections returns the content of every section by name.
func (s UKISpec) sections() (map[string][]byte, error) {
	if s.Version == "" {
		return nil, errors.New("cannot build UKI: it has no version")
	}
	kernel, err := os.ReadFile(s.Kernel.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel: %w", err)
	}
	initrd, err := buildInitrd(s.Files)
	if err != nil {
		return nil, err
	}
	cmdline := s.Cmdline
	if cmdline == "" {
		cmdline = s.Arch.CommandLine() + " fw.version=" + s.Version
	}
	return map[string][]byte{
		".osrel": s.osRelease(), ".uname": []byte(s.Kernel.Release), ".cmdline": []byte(cmdline), ".linux": kernel, ".initrd": initrd,
	}, nil
}

func (s UKISpec) osRelease() []byte {
	fields := map[string]string{
		"ID": "acmefw", "NAME": "AcmeFW", "PRETTY_NAME": "AcmeFW " + s.Version,
		"VERSION_ID": s.Version, "IMAGE_ID": "acmefw", "IMAGE_VERSION": s.Version,
	}
	maps.Copy(fields, s.OSRelease)
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`", "\n", " ")
	var b bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		value := fields[k]
		if !plainValue.MatchString(value) {
			value = `"` + quote.Replace(value) + `"`
		}
		fmt.Fprintf(&b, "%s=%s\n", k, value)
	}
	return b.Bytes()
}

// ukiKey names the cached image after everything that its bytes depend on.
func ukiKey(ctx context.Context, arch Arch, sections map[string][]byte) (string, error) {
	stub, err := stubOf(ctx, arch)
	if err != nil {
		return "", err
	}
	tool, err := run(ctx, arch.board().objcopy, "--version")
	if err != nil {
		return "", err
	}
	var all bytes.Buffer
	fmt.Fprintf(&all, "uki/v1 %s %s\n", digest.Of(stub.program), digest.Of(tool))
	for _, s := range sectionAddresses() {
		fmt.Fprintf(&all, "%s %s %s\n", s.name, s.address, digest.Of(sections[s.name]))
	}
	return digest.Of(all.Bytes()).String(), nil
}

func joinUKI(ctx context.Context, arch Arch, sections map[string][]byte, out string) error {
	objcopy, err := command(arch.board().objcopy)
	if err != nil {
		return err
	}
	stub, err := stubOf(ctx, arch)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "cordon-uki-")
	if err != nil {
		return fmt.Errorf("cannot build UKI: %w", err)
	}
	defer os.RemoveAll(work)
	var args []string
	for _, s := range sectionAddresses() {
		file := filepath.Join(work, strings.TrimPrefix(s.name, "."))
		if err := os.WriteFile(file, sections[s.name], 0o600); err != nil {
			return fmt.Errorf("cannot build UKI: %w", err)
		}
		args = append(args, "--add-section", s.name+"="+file, "--change-section-vma", s.name+"="+s.address)
	}
	named, err := stub.nameSection(work)
	if err != nil {
		return err
	}
	args = append(args, named...)
	joined := filepath.Join(work, "uki.efi")
	cmd := exec.CommandContext(ctx, objcopy, append(args, stub.path, joined)...)
	cmd.Env = []string{"LC_ALL=C", "SOURCE_DATE_EPOCH=0"}
	// objcopy warns that the sections lie below the image base; they are data, and their addresses are offsets.
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build UKI: %w: %s", err, tail(msg))
	}
	b, err := os.ReadFile(joined)
	if err != nil {
		return fmt.Errorf("cannot build UKI: %w", err)
	}
	if err := stripTime(b); err != nil {
		return fmt.Errorf("cannot build UKI: %w", err)
	}
	if err := writeFile(out, b, 0o644); err != nil {
		return fmt.Errorf("cannot write UKI: %w", err)
	}
	return nil
}

// stripTime takes out of the PE header the time at which objcopy ran, which firmware would measure, and sets the
// checksum right again.
func stripTime(image []byte) error {
	l, err := peLayout(image)
	if err != nil {
		return err
	}
	header := l.checksum - 64 - 24 // the PE signature; the optional header, which holds the checksum, begins 24 later
	clear(image[header+8 : header+12])
	clear(image[l.checksum : l.checksum+4])
	binary.LittleEndian.PutUint32(image[l.checksum:], peChecksum(image))
	return nil
}

// peChecksum is the sum of the file's 16-bit words with end-around carry, plus its length.
func peChecksum(image []byte) uint32 {
	var sum uint32
	for i := 0; i < len(image); i += 2 {
		word := uint32(image[i])
		if i+1 < len(image) {
			word |= uint32(image[i+1]) << 8
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	return sum + uint32(len(image))
}
