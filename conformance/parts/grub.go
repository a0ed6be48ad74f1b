package parts

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Files of a slot with GRUB, in the order in which they are read. Every slot has a GRUB of its own with the same
// configuration, because the firmware has chosen the slot: a boot measures the same from either one.
const (
	grubProgram = "EFI/BOOT/BOOTX64.EFI"
	grubConfig  = "EFI/BOOT/grub.cfg"
	grubImage   = "app.efi"

	grubCommands = "chainloader /" + grubImage + "\nboot\n"
)

// GRUBSlot makes what a slot holds whose image is started by GRUB: GRUB, its configuration and the image, a UKI, in an
// archive that stands for the file system. The program is systemd-boot's: the soft machine runs nothing, and of the one
// that the firmware starts only the digest counts.
func GRUBSlot(image []byte) ([]byte, error) {
	program, err := os.ReadFile(SystemdBoot)
	if err != nil {
		return nil, fmt.Errorf("cannot make a slot with GRUB: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{grubProgram, program}, {grubConfig, []byte(grubCommands)}, {grubImage, image}} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}))
		_, writeErr := w.Write(f.content)
		err = errors.Join(err, writeErr)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("cannot make a slot with GRUB: %w", err)
	}
	return out.Bytes(), nil
}

func isGRUBSlot(slot []byte) bool { return bytes.HasPrefix(slot, []byte(grubProgram+"\x00")) }

// measureGRUB is what the firmware and GRUB 2.06 measure where the firmware starts GRUB and GRUB the image, and what the
// image measures then.
func measureGRUB(slot []byte) ([]measurement, error) {
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(slot)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: its file system is damaged: %w", ErrNotBootable, err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, fmt.Errorf("%w: its file system is damaged: %w", ErrNotBootable, err)
		}
	}
	grub, err := Authenticode(files[grubProgram])
	if err != nil {
		return nil, err
	}
	events := []measurement{
		{4, evBootServices, grub, imageLoad(imageAddress, len(files[grubProgram]), unhex(ukiPath))},
		grubRead(grubConfig, files[grubConfig]),
	}
	for line := range strings.Lines(string(files[grubConfig])) {
		command := strings.TrimSuffix(line, "\n")
		events = append(events, measurement{8, evIPL, digest.Of([]byte(command)), []byte("grub_cmd: " + command + "\x00")})
		if strings.HasPrefix(command, "chainloader ") {
			events = append(events, grubRead(grubImage, files[grubImage]))
		}
	}
	uki, err := measureUKI(files[grubImage])
	if err != nil {
		return nil, err
	}
	return append(events, uki...), nil
}

// grubRead is a file that GRUB reads.
func grubRead(name string, content []byte) measurement {
	return measurement{9, evIPL, digest.Of(content), []byte("/" + name + "\x00")}
}
