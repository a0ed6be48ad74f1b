package installer_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
)

// FuzzEntry reads file names as other systems may leave them on the partition.
func FuzzEntry(f *testing.F) {
	for _, s := range []string{"fw-1.efi", "fw-2+3.efi", "fw-2+2-1.efi", "fw-3+0-3.efi", "cordon-0000000001-0123456789abcdef+3.efi", "+3.efi", "a+3+2-1.EFI", "auto-x.efi", "a+-1.efi"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		stem, left, done, trial, own, ok := installer.EntryText(file)
		if !ok {
			return
		}
		if !strings.HasPrefix(file, stem) || stem == "" || left < 0 || done < 0 {
			t.Errorf("%q: stem %q, left %d, done %d", file, stem, left, done)
		}
		if own && (!strings.HasPrefix(stem, "cordon-") || strings.ContainsAny(stem, "/\\")) {
			t.Errorf("%q counts as this installer's", file)
		}
		if !trial && (left != 0 || done != 0) && !strings.HasSuffix(stem, "-old") {
			t.Errorf("%q has a counter and is no trial", file)
		}
	})
}

// FuzzVariable reads EFI variables.
func FuzzVariable(f *testing.F) {
	f.Add([]byte("\x06\x00\x00\x00f\x00w\x00.\x00e\x00f\x00i\x00\x00\x00"))
	f.Add([]byte("\x06\x00\x00\x00\x00\xd8\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := installer.DecodeVariable(b)
		if err == nil && (text == "" || strings.ContainsAny(text, "\x00\n\x1b")) {
			t.Errorf("text %q", text)
		}
	})
}

// FuzzCompareVersions holds what any order has to hold.
func FuzzCompareVersions(f *testing.F) {
	f.Add("1.9.0", "1.10.0")
	f.Add("1~rc1", "1^2")
	f.Add("\x00-..", "00")
	f.Fuzz(func(t *testing.T, a, b string) {
		if installer.CompareVersions(a, b) != -installer.CompareVersions(b, a) || installer.CompareVersions(a, a) != 0 {
			t.Errorf("no order between %q and %q", a, b)
		}
	})
}

// FuzzRelease reads images that were never made by a publisher.
func FuzzRelease(f *testing.F) {
	f.Add(installertest.UKI(7, "content"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, version, err := installer.ReadRelease(b)
		if err == nil && len(key)+len(version) > 64<<10 {
			t.Errorf("%d bytes of text", len(key)+len(version))
		}
	})
}

// FuzzAnswers reads what the programs of others print, and what somebody may have made of the ledger.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"slot":"a","trial":true,"path":"/slots/a.img","length":3}`))
	f.Add([]byte(`{"compatible":"acme","variant":"","booted":"A","boot_primary":"rootfs.1","slots":[]}`))
	f.Add([]byte(`{"slots":{"A":{"sha256":"00","length":1}},"from":"A","next":{"length":-1}}`))
	f.Add([]byte("SWUPDATE successful !"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if slot, _, length, err := installer.DecodeRunning(b); err == nil && (slot == "" || length < 0) {
			t.Errorf("slot %q, length %d", slot, length)
		}
		if slot, err := installer.DecodeRAUC(b); err == nil && (slot == "" || len(slot) > 255) {
			t.Errorf("slot %q", slot)
		}
		if n, _ := installer.DecodeLedger(b, "A"); n > 16 {
			t.Errorf("%d slots", n)
		}
		_, _ = installer.SWUpdateSays(string(b))
	})
}
