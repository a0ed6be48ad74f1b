package reference_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reference"
)

// Images in which the stub of version 252 measures something else than a reader of the file finds: a prediction would
// refuse every device that boots them.
func TestRefusesImagesThatLookDifferentInMemory(t *testing.T) {
	t.Parallel()
	const table = optOffset + 112 + 128
	row := func(b []byte, name string) []byte {
		return b[table+bytes.Index(b[table:], append([]byte(name), 0))/40*40:]
	}
	over := func(b []byte, upper, lower string) []byte {
		copy(row(b, upper)[12:16], row(b, lower)[12:16])
		return b
	}
	initrd := uint32(0x10000 * 7)
	for name, b := range map[string][]byte{
		"a section that begins like .initrd":   buildPE(true, append(ukiParts(), part{".initrd2", []byte("evil")}), nil),
		"a section that begins like .linux":    buildPE(true, append([]part{{".linuxx", kernel()}}, ukiParts()...), nil),
		"a name with bytes behind its end":     buildPE(true, append(ukiParts(), part{".osrel\x00x", []byte("ID=evil")}), nil),
		"a section that begins like .dtb":      buildPE(true, append(ukiParts(), part{".dtb1", []byte("tree")}), nil),
		"another section over .osrel":          over(uki(), ".uname", ".osrel"),
		"two measured sections in one place":   over(uki(), ".osrel", ".linux"),
		"a space at the end of .cmdline":       buildPE(true, with(".cmdline", []byte(commandLine+" ")), nil),
		"a space at the beginning of .cmdline": buildPE(true, with(".cmdline", []byte(" "+commandLine)), nil),
		"a section that reaches into .initrd": func() []byte {
			b := uki()
			binary.LittleEndian.PutUint32(row(b, ".uname")[12:], initrd-1)
			return b
		}(),
	} {
		if _, err := reference.PredictUKI(bytes.NewReader(b), int64(len(b))); !errors.Is(err, reference.ErrUnpredictable) {
			t.Errorf("%s: got %v, want ErrUnpredictable", name, err)
		}
	}
}
