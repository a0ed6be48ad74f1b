package parts_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestDiskIsEditedWhileItIsOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image := filepath.Join(dir, "image.efi")
	content := bytes.Repeat([]byte("kernel"), 100_000)
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := parts.DiskSpec{
		Out: filepath.Join(dir, "disk.img"), ESPBytes: 64 << 20, DataBytes: 8 << 20,
		ESP: map[string]string{"EFI/Linux/fw-1.efi": image}, Text: map[string]string{"loader/loader.conf": "timeout 0\n"},
	}
	if err := parts.MakeDisk(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := parts.MakeDisk(t.Context(), spec); err == nil {
		t.Error("a disk was made over another one")
	}
	esp := parts.OpenESP(spec.Out)
	if got, err := esp.Read(t.Context(), "EFI/Linux/fw-1.efi"); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("read %d bytes back, want %d: %v", len(got), len(content), err)
	}
	for _, step := range []error{
		esp.Rename(t.Context(), "EFI/Linux/fw-1.efi", "EFI/Linux/fw-1+2-1.efi"),
		esp.Write(t.Context(), "EFI/Linux/deeper/more.txt", []byte("more")),
		esp.Write(t.Context(), "loader/loader.conf", []byte("timeout 5\n")),
		esp.Copy(t.Context(), "EFI/Linux/fw-2.efi", image),
		esp.Remove(t.Context(), "EFI/Linux/fw-2.efi"),
	} {
		if step != nil {
			t.Error(step)
		}
	}
	names, err := esp.List(t.Context(), "EFI/Linux")
	if diff := cmp.Diff([]string{"deeper", "fw-1+2-1.efi"}, slices.DeleteFunc(names, func(n string) bool { return n == "." || n == ".." })); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := esp.Read(t.Context(), "loader/loader.conf"); err != nil || string(got) != "timeout 5\n" {
		t.Errorf("loader.conf is %q: %v", got, err)
	}
	for _, name := range []string{"", "/EFI", "../x", "EFI/../x", "a::b", "EFI/*"} {
		if err := esp.Write(t.Context(), name, nil); err == nil {
			t.Errorf("path %q was taken", name)
		}
	}
}

// The identifiers that the firmware measures, and the partition table around them, do not depend on when a disk was made.
func TestPartitionTableIsReproducible(t *testing.T) {
	t.Parallel()
	var tables [][]byte
	for _, name := range []string{"a.img", "b.img"} {
		spec := parts.DiskSpec{Out: filepath.Join(t.TempDir(), name), ESPBytes: 64 << 20, DataBytes: 8 << 20}
		if err := parts.MakeDisk(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(spec.Out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table := make([]byte, 34*512)
		if _, err := f.ReadAt(table, 0); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if !bytes.Equal(tables[0], tables[1]) {
		t.Error("two disks of one description have different partition tables")
	}
}

func TestKernelModules(t *testing.T) {
	t.Parallel()
	kernel := parts.TestKernels(t)[0]
	found, err := parts.KernelModules(t.Context(), kernel, "vfat", "efivarfs", "there-is-no-such-module")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vfat", "efivarfs"} {
		if !bytes.HasPrefix(found[name], []byte("\x7fELF")) {
			t.Errorf("module %s begins with %x", name, found[name][:min(4, len(found[name]))])
		}
	}
	if len(found) != 2 {
		t.Errorf("found %d modules, want 2", len(found))
	}
}

func TestEditedUKIHasTheOtherSectionsUnchanged(t *testing.T) {
	t.Parallel()
	genuine := parts.TestUKI(t, parts.UKISpec{Version: "7", Files: map[string][]byte{"init": []byte("first")}})
	same, changed := filepath.Join(t.TempDir(), "same.efi"), filepath.Join(t.TempDir(), "changed.efi")
	if err := parts.EditUKI(t.Context(), genuine, same, func(map[string][]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(genuine)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(same); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a copy without a change differs: %v", err)
	}
	err = parts.EditUKI(t.Context(), genuine, changed, func(s map[string][]byte) error {
		s[".cmdline"] = append(s[".cmdline"], " single"...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var before, after map[string][]byte
	for path, into := range map[string]*map[string][]byte{genuine: &before, changed: &after} {
		err := parts.EditUKI(t.Context(), path, filepath.Join(t.TempDir(), "x.efi"), func(s map[string][]byte) error { *into = s; return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range before {
		if same := bytes.Equal(before[name], after[name]); same != (name != ".cmdline") {
			t.Errorf("section %s is the same: %v", name, same)
		}
	}
}
