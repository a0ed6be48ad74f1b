package parts

import (
	"bytes"
	"context"
	"debug/pe"
	"fmt"
	"os"
)

// EditUKI makes a copy of a unified kernel image with other content in some of its sections (.cmdline, .initrd, .osrel,
// .linux), as somebody does who wants to boot a changed one. A signature of the original is not on the copy.
func EditUKI(ctx context.Context, in, out string, change func(sections map[string][]byte) error) error {
	image, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("cannot read UKI: %w", err)
	}
	file, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("cannot read UKI %q: %w", in, err)
	}
	arch := AMD64
	if file.Machine == pe.IMAGE_FILE_MACHINE_ARM64 {
		arch = ARM64
	}
	if err := requireUKI(ctx, arch); err != nil {
		return err
	}
	sections := map[string][]byte{}
	for _, known := range sectionAddresses() {
		s := file.Section(known.name)
		if s == nil {
			return fmt.Errorf("cannot edit UKI %q: it has no section %s", in, known.name)
		}
		b, err := s.Data()
		if err != nil {
			return fmt.Errorf("cannot read UKI %q: %w", in, err)
		}
		sections[known.name] = b[:min(len(b), int(s.VirtualSize))]
	}
	if err := change(sections); err != nil {
		return err
	}
	return joinUKI(ctx, arch, sections, out)
}

// AppendInitrd adds files to the initial file system of an image: the kernel unpacks one archive after the other.
func AppendInitrd(initrd []byte, files map[string][]byte) ([]byte, error) {
	more, err := buildInitrd(files)
	if err != nil {
		return nil, err
	}
	for len(initrd)%4 != 0 {
		initrd = append(initrd, 0)
	}
	return append(initrd, more...), nil
}
