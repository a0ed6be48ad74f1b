package publish_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/signer/publish"
)

type part struct {
	name string
	data []byte
}

// program writes a PE32+ program with these sections.
func program(parts ...part) []byte {
	const alignment, peOffset, optOffset, optSize = 512, 64, 64 + 24, 112 + 16*8
	round := func(n int) int { return (n + alignment - 1) / alignment * alignment }
	headers := round(optOffset + optSize + 40*len(parts))
	b := make([]byte, headers)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3C:], peOffset)
	copy(b[peOffset:], "PE\x00\x00\x64\x86")
	le.PutUint16(b[peOffset+6:], uint16(len(parts)))
	le.PutUint16(b[peOffset+20:], optSize)
	le.PutUint16(b[optOffset:], 0x20B)
	le.PutUint32(b[optOffset+60:], uint32(headers))
	le.PutUint32(b[optOffset+108:], 16)
	for i, p := range parts {
		row := b[optOffset+optSize+40*i:]
		copy(row[:8], p.name)
		le.PutUint32(row[8:], uint32(len(p.data)))
		le.PutUint32(row[12:], uint32(0x10000*(i+1)))
		le.PutUint32(row[16:], uint32(round(len(p.data))))
		le.PutUint32(row[20:], uint32(len(b)))
		b = append(append(b, p.data...), make([]byte, round(len(p.data))-len(p.data))...)
	}
	return b
}

func uki() []byte {
	return program(part{".sdmagic", []byte("#### LoaderInfo: systemd-stub 252.39-1 ####\x00")}, part{".osrel", []byte("ID=x\n")},
		part{".cmdline", []byte("quiet")}, part{".linux", program(part{".text", []byte("kernel")})}, part{".initrd", []byte("initrd")})
}

func loader(version string) []byte {
	return program(part{".sdmagic", []byte("#### LoaderInfo: systemd-boot " + version + " ####\x00")})
}

func booted(t *testing.T, o publish.Options, change func(s *publish.Spec)) publish.Options {
	t.Helper()
	s := publish.Spec{Name: "system", File: writeFile(t, "system.efi", string(uki())), Hardware: []string{"board-a"}, Installer: "ab", Measured: true}
	change(&s)
	o.Components = []publish.Spec{s}
	return o
}

// The loaders and the chain go to the server with the values that name them.
func TestBootLoadersAndChainsAreUploaded(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	chain, err := reference.Chain{Version: 1, Starts: []reference.ChainStart{{Separator: true}, {Name: "grub", SHA256: digest.Of(nil)}},
		Commands: []string{"grub_cmd: boot"}, Files: []reference.ChainFile{}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	a, b := loader("252.1"), loader("252.2")
	for name, c := range map[string]struct {
		change func(s *publish.Spec)
		path   string
		inputs [][]byte
	}{
		"direct": {func(*publish.Spec) {}, reference.BootDirectUKI, nil},
		"loaders": {func(s *publish.Spec) {
			s.Loaders = []string{writeFile(t, "a.efi", string(a)), writeFile(t, "b.efi", string(b))}
		}, reference.BootSystemdBoot, [][]byte{a, b}},
		"chain": {func(s *publish.Spec) { s.Chain = writeFile(t, "boot.json", string(chain)) }, reference.BootChain, [][]byte{chain}},
	} {
		m := newMemory(1, pub)
		got := run(t, m, booted(t, options(t, key, "x"), c.change))
		v, err := reference.Decode(m.blobs[got.Components[0].ReferenceValues])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v.Boot != c.path || len(v.Inputs) != len(c.inputs) {
			t.Errorf("%s: got boot path %s with %d inputs", name, v.Boot, len(v.Inputs))
		}
		for _, in := range c.inputs {
			if !bytes.Equal(m.blobs[digest.Of(in)], in) {
				t.Errorf("%s: an input was not uploaded", name)
			}
		}
	}
}

// A release that was published before boot shapes were known is the same release still.
func TestEarlierValuesOfTheSameImageAreNoConflict(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	m := newMemory(1, pub)
	o := booted(t, options(t, key, "x"), func(*publish.Spec) {})
	run(t, m, o)
	earlier, err := reference.PredictUKI(bytes.NewReader(uki()), int64(len(uki())))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := earlier.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c := &m.releases[0].Release.Components[0]
	c.ReferenceValues, c.ReferenceLength = digest.Of(doc), int64(len(doc))
	if got := run(t, m, o); got.Changed || got.Components[0].ReferenceValues != digest.Of(doc) {
		t.Errorf("got %+v", got)
	}
	c.ReferenceValues = digest.Of([]byte("of another image"))
	if _, err := publish.Run(t.Context(), m, o); !errors.Is(err, publish.ErrConflict) {
		t.Errorf("other values: error = %v, want ErrConflict", err)
	}
}

func TestRefusesBootFilesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	key, pub := newPublisher(t, "ci")
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, reference.MaxLoaderBytes+1), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(s *publish.Spec)
		want   error
	}{
		"loader gone":       {func(s *publish.Spec) { s.Loaders = []string{filepath.Join(t.TempDir(), "gone")} }, publish.ErrImage},
		"loader too long":   {func(s *publish.Spec) { s.Loaders = []string{big} }, publish.ErrImage},
		"loader is text":    {func(s *publish.Spec) { s.Loaders = []string{writeFile(t, "l", string(bytes.Repeat([]byte("x"), 100)))} }, reference.ErrNotLoader},
		"a later loader":    {func(s *publish.Spec) { s.Loaders = []string{writeFile(t, "l", string(loader("255")))} }, reference.ErrUnpredictable},
		"chain gone":        {func(s *publish.Spec) { s.Chain = filepath.Join(t.TempDir(), "gone") }, publish.ErrImage},
		"chain is no chain": {func(s *publish.Spec) { s.Chain = writeFile(t, "c", "{}") }, reference.ErrChain},
	} {
		m := newMemory(1, pub)
		if _, err := publish.Run(t.Context(), m, booted(t, options(t, key, "x"), c.change)); !errors.Is(err, c.want) {
			t.Errorf("%s: error = %v, want %v", name, err, c.want)
		}
		if len(m.blobs) != 0 {
			t.Errorf("%s: something was uploaded", name)
		}
	}
}

func TestParseSpecOfBoot(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]publish.Spec{
		"app=a.efi,hw=x,installer=ab,boot_loader=l1.efi,boot_loader=l+2.efi": {Name: "app", File: "a.efi", Hardware: []string{"x"}, Installer: "ab", Measured: true, Loaders: []string{"l1.efi", "l+2.efi"}},
		"app=a.img,hw=x,installer=rauc,boot_chain=boot.json":                 {Name: "app", File: "a.img", Hardware: []string{"x"}, Installer: "rauc", Measured: true, Chain: "boot.json"},
	} {
		got, err := publish.ParseSpec(text)
		if err != nil || !cmp.Equal(want, got) {
			t.Errorf("%s: %v %s", text, err, cmp.Diff(want, got))
		}
	}
	five := slices.Repeat([]byte(",boot_loader=l"), 5)
	for _, text := range []string{
		"app=f,hw=x,installer=ab" + string(five), "app=f,hw=x,installer=ab,boot_loader=l,boot_chain=c", "app=f,hw=x,installer=ab,boot_chain=c,boot_chain=d",
		"app=f,hw=x,installer=ab,boot_loader=", "app=f,hw=x,installer=ab,measured=no,boot_loader=l", "app=f,hw=x,installer=ab,measured=no,boot_chain=c",
	} {
		if _, err := publish.ParseSpec(text); !errors.Is(err, publish.ErrSpec) {
			t.Errorf("%q: error = %v, want ErrSpec", text, err)
		}
	}
}
