package installer_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
)

// Images of others are put behind a proven one and never removed, whatever already has the name that they get: another
// image that was put there before, or a folder.
func TestUKIKeepsWhatOthersPutThereUnderEveryName(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	newer, older := m.image("theirs, again", 9), m.image("theirs", 8)
	two := m.image("two", 2)
	if err := m.install(two); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("two", true)
	m.Put("fw-9.efi", newer)
	m.Put("fw-9-old+0.efi", older)
	if err := os.MkdirAll(filepath.Join(m.Linux(), "fw-9-old-old+0.efi", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.uki.Commit(t.Context()); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	m.boot()
	m.wantRunning("two", false)
	for name, want := range map[string][]byte{"fw-9-old-old-old+0.efi": newer, "fw-9-old+0.efi": older} {
		if b, err := os.ReadFile(filepath.Join(m.Linux(), name)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s holds %d bytes, %v, want the image of somebody else", name, len(b), err)
		}
	}
	if _, err := os.Stat(filepath.Join(m.Linux(), "fw-9-old-old+0.efi", "x")); err != nil {
		t.Errorf("the folder of somebody else: %v", err)
	}
}

// Of a file that others left on the partition nothing is read but the release description, bounded as systemd-boot does:
// tens of thousands of sections whose relocations overlap would otherwise take all memory of the device.
func TestUKIReadsNothingButTheReleaseOfAHostileImage(t *testing.T) {
	t.Parallel()
	b := installertest.UKI(7, "content")
	binary.LittleEndian.PutUint32(b[0x58+24:], 0x200)  // relocations
	binary.LittleEndian.PutUint16(b[0x58+32:], 0xffff) // more than the file holds
	binary.LittleEndian.PutUint32(b[0x4c:], 0x200)     // symbols
	binary.LittleEndian.PutUint32(b[0x50:], 0xffffff)  // likewise
	if key, version, err := installer.ReadRelease(b); err != nil || key != "acme" || version != "7" {
		t.Errorf("ReadRelease = %q, %q, %v, want what systemd-boot shows", key, version, err)
	}
	many := append(bytes.Clone(b), make([]byte, 100*40)...)
	binary.LittleEndian.PutUint16(many[0x46:], 97)
	if _, _, err := installer.ReadRelease(many); err == nil {
		t.Error("an image with 97 sections was read: systemd-boot takes 96")
	}
	for n := range b {
		_, _, _ = installer.ReadRelease(b[:n])
	}
}
