package parts

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// ErrNotBootable is returned for an image that firmware and systemd-stub cannot start.
var ErrNotBootable = errors.New("image cannot be booted")

// Authenticode is the digest that firmware measures for a PE image: SHA-256 of the file without its checksum, without
// the entry that names the certificate table and without the certificates (Windows Authenticode Portable Executable
// Signature Format, "Calculating the PE Image Hash"). Anything that is no PE image is ErrNotBootable.
func Authenticode(image []byte) (digest.SHA256, error) {
	l, err := peLayout(image)
	if err != nil {
		return digest.SHA256{}, err
	}
	h := sha256.New()
	h.Write(image[:l.checksum])
	h.Write(image[l.checksum+4 : l.certEntry])
	h.Write(image[l.certEntry+8 : l.headers])
	hashed := l.headers
	for _, s := range l.sections {
		h.Write(image[s.offset : s.offset+s.size])
		hashed += s.size
	}
	if end := len(image) - l.certs; end > hashed {
		h.Write(image[hashed:end])
	}
	return digest.SHA256(h.Sum(nil)), nil
}

// layout holds the offsets in a PE file that the digest needs; all of them lie inside the file.
type layout struct {
	checksum, certEntry, headers, certs int
	sections                            []extent
}

type extent struct{ offset, size int }

func peLayout(image []byte) (layout, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return layout{}, fmt.Errorf("%w: %w", ErrNotBootable, err)
	}
	// debug/pe has found the headers, so these offsets exist; it does not give them away.
	optional := int(binary.LittleEndian.Uint32(image[0x3c:])) + 24
	l := layout{checksum: optional + 64}
	var headers, certs uint32
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		l.certEntry, headers, certs = optional+144, h.SizeOfHeaders, h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size
	case *pe.OptionalHeader32:
		l.certEntry, headers, certs = optional+128, h.SizeOfHeaders, h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size
	default:
		return layout{}, fmt.Errorf("%w: it has no optional header", ErrNotBootable)
	}
	if uint64(headers) > uint64(len(image)) || int(headers) < l.certEntry+8 || uint64(certs) > uint64(len(image)) {
		return layout{}, fmt.Errorf("%w: headers or certificates lie outside the file", ErrNotBootable)
	}
	l.headers, l.certs = int(headers), int(certs)
	for _, s := range f.Sections {
		if s.Size == 0 {
			continue
		}
		if uint64(s.Offset)+uint64(s.Size) > uint64(len(image)) {
			return layout{}, fmt.Errorf("%w: section %s lies outside the file", ErrNotBootable, s.Name)
		}
		l.sections = append(l.sections, extent{int(s.Offset), int(s.Size)})
	}
	slices.SortFunc(l.sections, func(a, b extent) int { return cmp.Compare(a.offset, b.offset) })
	return l, nil
}

// Section returns the content of a section of a UKI as systemd-stub sees it: the raw bytes up to the section's virtual
// size, without the padding of the file. A section that is absent or lies outside the file is ErrNotBootable.
func Section(image []byte, name string) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotBootable, err)
	}
	s := f.Section(name)
	if s == nil {
		return nil, fmt.Errorf("%w: it has no section %s", ErrNotBootable, name)
	}
	size := uint64(min(s.Size, s.VirtualSize))
	if uint64(s.Offset)+size > uint64(len(image)) {
		return nil, fmt.Errorf("%w: section %s lies outside the file", ErrNotBootable, name)
	}
	return image[s.Offset : uint64(s.Offset)+size], nil
}
