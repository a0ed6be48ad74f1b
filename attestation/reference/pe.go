package reference

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Limits on the PE files that are read; images come from publishers, and the server reads them too.
const (
	maxImageBytes   = 1 << 30
	maxSections     = 96
	maxCommandLine  = 64 << 10
	copyBufferBytes = 256 << 10
)

// Offsets in a PE file (Microsoft PE format; the optional header is PE32 or PE32+).
const (
	dosHeaderBytes     = 64
	coffHeaderBytes    = 24 // with the signature "PE\0\0"
	sectionHeaderBytes = 40
	magicPE32          = 0x10B
	magicPE32Plus      = 0x20B
	securityDirectory  = 4
)

// section is one row of the section table.
type section struct {
	name    string
	virtual int64 // VirtualSize
	address int64 // VirtualAddress
	offset  int64 // PointerToRawData
	raw     int64 // SizeOfRawData
}

// image is a PE file whose offsets and counts have been checked against its size.
type image struct {
	r        io.ReaderAt
	size     int64
	checksum int64 // offset of CheckSum
	certDir  int64 // offset of the certificate table's directory entry; 0 when the file has none
	headers  int64 // SizeOfHeaders
	certs    int64 // length of the certificate table at the end of the file
	sections []section
}

// notUKI says what is wrong with the file.
func notUKI(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotUKI, fmt.Sprintf(format, args...))
}

// readAt reads exactly n bytes at off, which the caller has bounded.
func readAt(r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.ReadAt(b, off); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("cannot read %d bytes at %d: %w", n, off, err)
	}
	return b, nil
}

// openPE reads the headers of a PE file. It returns ErrNotUKI for anything that firmware would not load.
func openPE(r io.ReaderAt, size int64) (*image, error) {
	if size < dosHeaderBytes || size > maxImageBytes {
		return nil, notUKI("it has %d bytes, a program has %d to %d", size, dosHeaderBytes, maxImageBytes)
	}
	dos, err := readAt(r, 0, dosHeaderBytes)
	if err != nil {
		return nil, err
	}
	start := int64(binary.LittleEndian.Uint32(dos[0x3C:]))
	if string(dos[:2]) != "MZ" || start > size-coffHeaderBytes {
		return nil, notUKI("no PE header")
	}
	coff, err := readAt(r, start, coffHeaderBytes)
	if err != nil {
		return nil, err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return nil, notUKI("no PE signature")
	}
	im := &image{r: r, size: size}
	count, length := int(binary.LittleEndian.Uint16(coff[6:])), int(binary.LittleEndian.Uint16(coff[20:]))
	if err := im.optionalHeader(start+coffHeaderBytes, length); err != nil {
		return nil, err
	}
	if err := im.sectionTable(start+coffHeaderBytes+int64(length), count); err != nil {
		return nil, err
	}
	return im, nil
}

// optionalHeader finds the two fields that the Authenticode digest leaves out.
func (im *image) optionalHeader(off int64, length int) error {
	if length < 96 || off > im.size-int64(length) {
		return notUKI("the optional header is cut short")
	}
	opt, err := readAt(im.r, off, length)
	if err != nil {
		return err
	}
	directories := 0
	switch binary.LittleEndian.Uint16(opt) {
	case magicPE32:
		directories = 96
	case magicPE32Plus:
		directories = 112
	default:
		return notUKI("the optional header is neither PE32 nor PE32+")
	}
	if length < directories {
		return notUKI("the optional header is cut short")
	}
	im.checksum = off + 64
	im.headers = int64(binary.LittleEndian.Uint32(opt[60:]))
	if im.headers < off+int64(length) || im.headers > im.size {
		return notUKI("the headers are longer than the file")
	}
	if binary.LittleEndian.Uint32(opt[directories-4:]) <= securityDirectory {
		return nil
	}
	entry := directories + 8*securityDirectory
	if length < entry+8 {
		return notUKI("the directory table is cut short")
	}
	at := int64(binary.LittleEndian.Uint32(opt[entry:]))
	im.certDir = off + int64(entry)
	im.certs = int64(binary.LittleEndian.Uint32(opt[entry+4:]))
	if im.certs > 0 && (at < im.headers || at+im.certs != im.size) {
		return notUKI("the certificate table is not the end of the file")
	}
	return nil
}

// sectionTable reads the sections and checks that they lie in the file and do not claim more bytes than it has.
func (im *image) sectionTable(off int64, count int) error {
	if count == 0 || count > maxSections || off+int64(count)*sectionHeaderBytes > im.headers {
		return notUKI("%d sections, or a section table beyond the headers", count)
	}
	table, err := readAt(im.r, off, count*sectionHeaderBytes)
	if err != nil {
		return err
	}
	total := im.headers + im.certs
	for ; len(table) > 0; table = table[sectionHeaderBytes:] {
		s := section{
			name:    strings.TrimRight(string(table[:8]), "\x00"),
			virtual: int64(binary.LittleEndian.Uint32(table[8:])),
			address: int64(binary.LittleEndian.Uint32(table[12:])),
			raw:     int64(binary.LittleEndian.Uint32(table[16:])),
			offset:  int64(binary.LittleEndian.Uint32(table[20:])),
		}
		total += s.raw
		if s.raw > 0 && (s.offset < im.headers || s.offset+s.raw > im.size-im.certs) || total > im.size {
			return notUKI("section %q lies outside of the file", s.name)
		}
		im.sections = append(im.sections, s)
	}
	return nil
}

// authenticode computes the digest that firmware measures for a program it starts: SHA-256 of the file without
// CheckSum, certificate directory entry and certificates (Windows Authenticode Portable Executable Signature Format;
// the order and the treatment of bytes behind the sections are those of EDK II, MeasurePeImage).
func (im *image) authenticode() (digest.SHA256, error) {
	h := sha256.New()
	parts := [][2]int64{{0, im.checksum}, {im.checksum + 4, im.headers}}
	if im.certDir != 0 {
		parts = [][2]int64{{0, im.checksum}, {im.checksum + 4, im.certDir}, {im.certDir + 8, im.headers}}
	}
	sections := slices.Clone(im.sections)
	slices.SortStableFunc(sections, func(a, b section) int { return cmp.Compare(a.offset, b.offset) })
	sum := im.headers
	for _, s := range sections {
		if s.raw > 0 {
			parts = append(parts, [2]int64{s.offset, s.offset + s.raw})
			sum += s.raw
		}
	}
	parts = append(parts, [2]int64{sum, im.size - im.certs})
	for _, p := range parts {
		if err := hashRange(h, im.r, p[0], p[1]-p[0]); err != nil {
			return digest.SHA256{}, err
		}
	}
	return digest.SHA256(h.Sum(nil)), nil
}

// find returns the one section with that name; ok is false when there is none or it is empty.
func (im *image) find(name string) (s section, ok bool, err error) {
	for _, c := range im.sections {
		if c.name != name {
			continue
		}
		if ok {
			return section{}, false, notUKI("two sections %s", name)
		}
		s, ok = c, true
	}
	if s.virtual == 0 {
		return section{}, false, nil
	}
	if s.virtual > s.raw {
		return section{}, false, fmt.Errorf("%w: section %s is longer in memory than in the file", ErrUnpredictable, name)
	}
	return s, ok, nil
}

// content is what the stub sees of a section: without the padding to the file alignment.
func (im *image) content(s section) *io.SectionReader {
	return io.NewSectionReader(im.r, s.offset, s.virtual)
}

// hashRange hashes n bytes at off; a file that ends earlier than its size said is an error, not a shorter file.
func hashRange(h hash.Hash, r io.ReaderAt, off, n int64) error {
	got, err := io.CopyBuffer(h, io.NewSectionReader(r, off, n), make([]byte, min(max(n, 1), copyBufferBytes)))
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("cannot read %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// hashAll is the SHA-256 of n bytes of r.
func hashAll(r io.ReaderAt, n int64) (digest.SHA256, error) {
	h := sha256.New()
	if err := hashRange(h, r, 0, n); err != nil {
		return digest.SHA256{}, err
	}
	return digest.SHA256(h.Sum(nil)), nil
}
