package reference_test

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// part is one section of a built PE file.
type part struct {
	name string
	data []byte
}

const (
	alignment = 512
	peOffset  = 64
	optOffset = peOffset + 24
)

// buildPE writes a PE32+ (or PE32) file with sections aligned as linkers do; certs is a certificate table at its end.
func buildPE(wide bool, parts []part, certs []byte) []byte {
	magic, directories := uint16(0x10B), 96
	if wide {
		magic, directories = 0x20B, 112
	}
	optSize := directories + 16*8
	headers := roundUp(optOffset + optSize + 40*len(parts))
	b := make([]byte, headers)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3C:], peOffset)
	copy(b[peOffset:], "PE\x00\x00\x64\x86")
	binary.LittleEndian.PutUint16(b[peOffset+6:], uint16(len(parts)))
	binary.LittleEndian.PutUint16(b[peOffset+20:], uint16(optSize))
	binary.LittleEndian.PutUint16(b[optOffset:], magic)
	binary.LittleEndian.PutUint32(b[optOffset+60:], uint32(headers))
	binary.LittleEndian.PutUint32(b[optOffset+64:], 0xC0FFEE) // CheckSum
	binary.LittleEndian.PutUint32(b[optOffset+directories-4:], 16)
	for i, p := range parts {
		row := b[optOffset+optSize+40*i:]
		copy(row[:8], p.name)
		binary.LittleEndian.PutUint32(row[8:], uint32(len(p.data)))
		binary.LittleEndian.PutUint32(row[12:], uint32(0x10000*(i+1)))
		binary.LittleEndian.PutUint32(row[16:], uint32(roundUp(len(p.data))))
		binary.LittleEndian.PutUint32(row[20:], uint32(len(b)))
		b = append(b, p.data...)
		b = append(b, make([]byte, roundUp(len(p.data))-len(p.data))...)
	}
	if len(certs) > 0 {
		entry := b[optOffset+directories+32:]
		binary.LittleEndian.PutUint32(entry, uint32(len(b)))
		binary.LittleEndian.PutUint32(entry[4:], uint32(len(certs)))
		b = append(b, certs...)
	}
	return b
}

func roundUp(n int) int { return (n + alignment - 1) / alignment * alignment }

const commandLine = "console=ttyS0,115200 quiet fw.version=1"

func kernel() []byte {
	return buildPE(true, []part{{".text", bytes.Repeat([]byte("kernel code "), 900)}}, nil)
}

// ukiParts are the sections of a UKI, in the order that objcopy would leave them in.
func ukiParts() []part {
	return []part{
		{".text", bytes.Repeat([]byte("stub"), 300)},
		{".sdmagic", []byte("#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00")},
		{".osrel", []byte("ID=cordon\nVERSION_ID=1\n")},
		{".uname", []byte("6.1.0")},
		{".cmdline", []byte(commandLine)},
		{".linux", kernel()},
		{".initrd", bytes.Repeat([]byte{7, 1}, 70<<10)},
	}
}

func uki() []byte { return buildPE(true, ukiParts(), nil) }

func predict(t testing.TB, b []byte) reference.Values {
	t.Helper()
	v, err := reference.PredictUKI(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// oracle is a second, independent way to the Authenticode digest: debug/pe finds the sections of a whole file in
// memory, and the two fields are cut out of the headers.
func oracle(t testing.TB, b []byte) digest.SHA256 {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var headers, dir, certs uint32
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		headers, dir, certs = h.SizeOfHeaders, 144, h.DataDirectory[4].Size
	case *pe.OptionalHeader32:
		headers, dir, certs = h.SizeOfHeaders, 128, h.DataDirectory[4].Size
	}
	opt := binary.LittleEndian.Uint32(b[0x3C:]) + 24
	h := sha256.New()
	h.Write(b[:opt+64])
	h.Write(b[opt+68 : opt+dir])
	h.Write(b[opt+dir+8 : headers])
	sections := slices.Clone(f.Sections)
	slices.SortFunc(sections, func(a, b *pe.Section) int { return int(a.Offset) - int(b.Offset) })
	end := headers
	for _, s := range sections {
		h.Write(b[s.Offset : s.Offset+s.Size])
		end += s.Size
	}
	h.Write(b[end : len(b)-int(certs)])
	return digest.SHA256(h.Sum(nil))
}

func events(v reference.Values, pcr int) []digest.SHA256 {
	var out []digest.SHA256
	for _, p := range v.PCRs {
		if p.Index == pcr {
			for _, e := range p.Events {
				out = append(out, e.Digest)
			}
		}
	}
	return out
}

func TestPredictionHasTheMeasurementsOfADirectBoot(t *testing.T) {
	t.Parallel()
	wide := []byte{}
	for _, c := range []byte(commandLine) {
		wide = append(wide, c, 0)
	}
	wide = append(wide, 0, 0)
	sections := map[string][]byte{}
	for _, p := range ukiParts() {
		sections[p.name] = p.data
	}
	var pcr11 []digest.SHA256
	for _, name := range []string{".linux", ".osrel", ".cmdline", ".initrd"} {
		pcr11 = append(pcr11, digest.Of([]byte(name+"\x00")), digest.Of(sections[name]))
	}
	b := uki()
	want := map[int][]digest.SHA256{
		4: {digest.Of([]byte("Calling EFI Application from Boot Option")), digest.Of(make([]byte, 4)),
			oracle(t, b), oracle(t, kernel())},
		9:  {digest.Of(wide), digest.Of(sections[".initrd"])},
		11: pcr11,
		12: nil,
		13: nil,
	}
	v := predict(t, b)
	if v.Version != reference.Version || v.Boot != reference.BootDirectUKI || v.Image != digest.Of(b) || len(v.PCRs) != 5 {
		t.Errorf("got %+v", v)
	}
	for pcr, digests := range want {
		if got := events(v, pcr); !slices.Equal(got, digests) {
			t.Errorf("PCR %d: got %v, want %v", pcr, got, digests)
		}
	}
	for _, p := range v.PCRs {
		var value digest.SHA256
		for _, e := range p.Events {
			value = eventlog.Extend(value, e.Digest)
		}
		if p.Value != value {
			t.Errorf("PCR %d: got %s, want %s", p.Index, p.Value, value)
		}
	}
}

func TestAuthenticodeAgreesWithAnotherReaderOfPE(t *testing.T) {
	t.Parallel()
	parts := ukiParts()
	certs := bytes.Repeat([]byte{0xCE}, 64)
	for name, b := range map[string][]byte{
		"PE32+":                    buildPE(true, parts, nil),
		"PE32":                     buildPE(false, parts, nil),
		"with certificates":        buildPE(true, parts, certs),
		"PE32 with certificates":   buildPE(false, parts, certs),
		"bytes after the sections": append(buildPE(true, parts, nil), "trailing"...),
	} {
		if got, want := events(predict(t, b), 4)[2], oracle(t, b); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestASignatureChangesTheFileNotTheMeasurement(t *testing.T) {
	t.Parallel()
	plain, signed := predict(t, uki()), predict(t, buildPE(true, ukiParts(), bytes.Repeat([]byte{1}, 128)))
	if plain.Image == signed.Image {
		t.Error("the image digest does not see the signature")
	}
	if !slices.Equal(events(plain, 4), events(signed, 4)) {
		t.Error("the signature changed what is measured")
	}
}

func TestOnlySectionsThatAreThereAreMeasured(t *testing.T) {
	t.Parallel()
	parts := slices.DeleteFunc(ukiParts(), func(p part) bool { return p.name == ".cmdline" || p.name == ".initrd" })
	v := predict(t, buildPE(true, parts, nil))
	if got := len(events(v, 11)); got != 4 {
		t.Errorf("PCR 11: %d events, want 4", got)
	}
	if got := len(events(v, 9)); got != 0 {
		t.Errorf("PCR 9: %d events, want 0", got)
	}
}

// with returns the parts with one of them replaced or added.
func with(name string, data []byte) []part {
	parts := ukiParts()
	for i := range parts {
		if parts[i].name == name {
			parts[i].data = data
			return parts
		}
	}
	return append(parts, part{name, data})
}

func TestRefusesToGuess(t *testing.T) {
	t.Parallel()
	for name, parts := range map[string][]part{
		"line end in .cmdline":     with(".cmdline", []byte(commandLine+"\n")),
		"zero byte in .cmdline":    with(".cmdline", []byte(commandLine+"\x00")),
		"text beyond ASCII":        with(".cmdline", []byte("käse")),
		"a long command line":      with(".cmdline", bytes.Repeat([]byte("x"), 65<<10)),
		"another stub version":     with(".sdmagic", []byte("#### LoaderInfo: systemd-stub 255.4 ####\x00")),
		"another loader":           with(".sdmagic", []byte("#### LoaderInfo: something else 252 ####")),
		"a section .dtb":           with(".dtb", []byte("tree")),
		"a section .pcrsig":        with(".pcrsig", []byte("{}")),
		"a section .profile":       with(".profile", []byte("ID=x")),
		"a section .ucode":         with(".ucode", []byte("microcode")),
		"a section .splash":        with(".splash", []byte("BM")),
		"a section for other text": with(".dtbauto", []byte("tree")),
	} {
		b := buildPE(true, parts, nil)
		if _, err := reference.PredictUKI(bytes.NewReader(b), int64(len(b))); !errors.Is(err, reference.ErrUnpredictable) {
			t.Errorf("%s: got %v, want ErrUnpredictable", name, err)
		}
	}
}

func TestRefusesFilesThatAreNoUKI(t *testing.T) {
	t.Parallel()
	const table = optOffset + 112 + 128
	u32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
	}
	u16 := func(off int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[off:], v); return b }
	}
	for name, edit := range map[string]func([]byte) []byte{
		"empty":                       func([]byte) []byte { return nil },
		"text":                        func([]byte) []byte { return bytes.Repeat([]byte("text"), 100) },
		"no MZ":                       u16(0, 0),
		"PE header beyond the file":   u32(0x3C, 0xFFFFFFF0),
		"no PE signature":             u32(peOffset, 0),
		"no section":                  u16(peOffset+6, 0),
		"97 sections":                 u16(peOffset+6, 97),
		"65535 sections":              u16(peOffset+6, 65535),
		"no optional header":          u16(peOffset+20, 0),
		"optional header of 64 KiB":   u16(peOffset+20, 65535),
		"unknown magic":               u16(optOffset, 0x107),
		"headers beyond the file":     u32(optOffset+60, 0xFFFFFFFF),
		"headers of 0 bytes":          u32(optOffset+60, 0),
		"section beyond the file":     u32(table+20, 0xFFFFFE00),
		"section longer than file":    u32(table+16, 0xFFFFFE00),
		"section in the headers":      u32(table+20, 0),
		"sections on top of another":  u32(table+16, 150<<10),
		"certificates in the middle":  u32(optOffset+112+36, 64),
		"certificates of 4 GiB":       u32(optOffset+112+36, 0xFFFFFFFF),
		"two sections .linux":         func([]byte) []byte { return buildPE(true, append(ukiParts(), part{".linux", kernel()}), nil) },
		"a kernel that is no program": func([]byte) []byte { return buildPE(true, with(".linux", bytes.Repeat([]byte("x"), 4096)), nil) },
		"an empty kernel":             func([]byte) []byte { return buildPE(true, with(".linux", nil), nil) },
		"no kernel":                   func([]byte) []byte { return kernel() },
	} {
		b := edit(uki())
		if _, err := reference.PredictUKI(bytes.NewReader(b), int64(len(b))); !errors.Is(err, reference.ErrNotUKI) {
			t.Errorf("%s: got %v, want ErrNotUKI", name, err)
		}
	}
}

func TestAFileThatEndsEarlyIsAnErrorNotAPrediction(t *testing.T) {
	t.Parallel()
	b := uki()
	for n := 0; n < len(b); n += 97 {
		if _, err := reference.PredictUKI(bytes.NewReader(b[:n]), int64(len(b))); err == nil {
			t.Fatalf("%d of %d bytes gave a prediction", n, len(b))
		}
		if _, err := reference.PredictUKI(bytes.NewReader(b[:n]), int64(n)); err == nil {
			t.Fatalf("a file cut at %d of %d bytes gave a prediction", n, len(b))
		}
	}
}

// sparse is a large file of zeros behind real headers.
type sparse struct {
	head []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	if off < int64(len(s.head)) {
		copy(p[:n], s.head[off:])
	}
	return n, nil
}

func TestMemoryStaysFlat(t *testing.T) {
	const size = 64 << 20
	b := uki()
	initrd := bytes.LastIndex(b[:4096], []byte(".initrd"))
	grown := uint32(size - roundUp(len(b)) + roundUp(140<<10))
	binary.LittleEndian.PutUint32(b[initrd+8:], grown)
	binary.LittleEndian.PutUint32(b[initrd+16:], grown)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := reference.PredictUKI(sparse{b, size}, size); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("an image of %d bytes took %d bytes of memory", size, got)
	}
	if _, err := reference.PredictUKI(sparse{b, 2 << 30}, 2<<30); !errors.Is(err, reference.ErrNotUKI) {
		t.Errorf("2 GiB: got %v, want ErrNotUKI", err)
	}
}

func FuzzPredictUKI(f *testing.F) {
	small := []part{{".cmdline", []byte(commandLine)}, {".linux", buildPE(false, []part{{".text", []byte("k")}}, nil)}}
	f.Add(buildPE(true, small, nil))
	f.Add(buildPE(false, small, []byte("certificates")))
	f.Add([]byte(strings.Repeat("MZ", 64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = reference.PredictUKI(bytes.NewReader(b), int64(len(b))) })
		v, err := reference.PredictUKI(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		doc, err := v.Encode()
		if err != nil {
			t.Fatalf("a prediction that cannot be encoded: %v", err)
		}
		if _, err := reference.Decode(doc); err != nil {
			t.Fatalf("a prediction that cannot be read again: %v", err)
		}
	})
}
