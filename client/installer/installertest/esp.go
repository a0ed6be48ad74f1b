// Package installertest holds machines for the tests of installers, and the contract that every installer keeps.
//
// ESP is a machine with systemd-boot as far as an installer sees it: a partition, EFI variables, and a loader that picks
// and counts by rules of its own. Nobody has to trust the package.
package installertest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// LoaderVendor ends the file names of systemd-boot's variables.
const LoaderVendor = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// ESP is a machine with systemd-boot.
type ESP struct {
	t    testing.TB
	Root string          // of the partition
	Vars string          // the EFI variables
	Bad  map[string]bool // names of images that do not start

	images map[string]string // name by content
}

// NewESP makes a machine without any image.
func NewESP(t testing.TB) *ESP {
	t.Helper()
	m := &ESP{t: t, Root: t.TempDir(), Vars: t.TempDir(), Bad: map[string]bool{}, images: map[string]string{}}
	if err := os.MkdirAll(m.Linux(), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// Spec is what the agent's --installer takes.
func (m *ESP) Spec() string { return "uki:" + m.Root + ",efivars=" + m.Vars }

// Linux is the folder of the images.
func (m *ESP) Linux() string { return filepath.Join(m.Root, "EFI", "Linux") }

// Put writes a file there.
func (m *ESP) Put(name string, b []byte) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.Linux(), name), b, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// Image makes an image with a name for messages and a version to sort by.
func (m *ESP) Image(name string, version int) []byte {
	b := UKI(version, strings.Repeat(name+" content ", 100))
	m.images[string(b)] = name
	return b
}

// Variable sets a variable of systemd-boot to a text; without one the variable goes.
func (m *ESP) Variable(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.Vars, name+LoaderVendor)
	if text == "" {
		if err := os.RemoveAll(path); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	b := []byte{6, 0, 0, 0}
	for _, u := range append(utf16.Encode([]rune(text)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// oneShot is the file that systemd-boot is to start once.
func (m *ESP) oneShot() string {
	b, err := os.ReadFile(filepath.Join(m.Vars, "LoaderEntryOneShot"+LoaderVendor))
	if err != nil {
		return ""
	}
	var out []rune
	for b = b[4:]; len(b) > 2; b = b[2:] {
		out = append(out, rune(b[0]))
	}
	return string(out)
}

var counterName = regexp.MustCompile(`^(.*)\+([0-9]+)(?:-([0-9]+))?\.efi$`)

// UKI returns an image that systemd-boot would list: a PE file with a release description and some content.
func UKI(version int, content string) []byte {
	release := fmt.Appendf(nil, "ID=acme\nIMAGE_ID=acme\nNAME=\"Acme\"\nIMAGE_VERSION=%d\n", version)
	b := make([]byte, 0x200)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[0x44:], 0x8664)
	binary.LittleEndian.PutUint16(b[0x46:], 1) // sections
	copy(b[0x58:], ".osrel")
	binary.LittleEndian.PutUint32(b[0x58+8:], uint32(len(release)))
	binary.LittleEndian.PutUint32(b[0x58+16:], uint32(len(release)))
	binary.LittleEndian.PutUint32(b[0x58+20:], 0x200)
	return append(append(b, release...), content...)
}

var imageVersion = regexp.MustCompile(`(?m)^IMAGE_VERSION=([0-9]+)$`)

// Boot restarts the machine until something starts, as many times as it takes, and returns the file that did.
func (m *ESP) Boot() string {
	m.t.Helper()
	for range 16 {
		file, ok := m.bootOnce()
		if ok {
			return file
		}
	}
	m.t.Fatalf("nothing boots: %v", m.Files())
	return ""
}

func (m *ESP) bootOnce() (file string, ok bool) {
	m.t.Helper()
	once := m.oneShot()
	m.Variable("LoaderEntryOneShot", "")
	m.Variable("LoaderBootCountPath", "")
	file = m.choose(once)
	if file == "" {
		m.t.Fatalf("systemd-boot finds no image: %v", m.Files())
	}
	m.Variable("LoaderEntrySelected", strings.ToLower(file))
	if s := counterName.FindStringSubmatch(file); s != nil {
		left, _ := strconv.Atoi(s[2])
		done, _ := strconv.Atoi(s[3])
		next := fmt.Sprintf("%s+%d-%d.efi", s[1], max(left-1, 0), done+1)
		if err := os.Rename(filepath.Join(m.Linux(), file), filepath.Join(m.Linux(), next)); err != nil {
			m.t.Fatal(err)
		}
		file = next
		m.Variable("LoaderBootCountPath", `\EFI\Linux\`+file)
	}
	return file, !m.Bad[m.Name(file)]
}

func (m *ESP) choose(once string) string {
	type candidate struct {
		file    string
		spent   bool
		version int
	}
	var all []candidate
	for _, f := range m.Files() {
		b, err := os.ReadFile(filepath.Join(m.Linux(), f))
		v := imageVersion.FindSubmatch(b)
		if err != nil || v == nil || !strings.HasSuffix(f, ".efi") {
			continue
		}
		if strings.EqualFold(f, once) {
			return f
		}
		c := candidate{file: f}
		c.version, _ = strconv.Atoi(string(v[1]))
		if s := counterName.FindStringSubmatch(f); s != nil {
			c.spent = s[2] == "0"
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return ""
	}
	return slices.MinFunc(all, func(a, b candidate) int {
		if a.spent != b.spent {
			if b.spent {
				return -1
			}
			return 1
		}
		return cmp.Or(-cmp.Compare(a.version, b.version), -strings.Compare(a.file, b.file))
	}).file
}

// Files lists the folder of the images.
func (m *ESP) Files() []string {
	m.t.Helper()
	entries, err := os.ReadDir(m.Linux())
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Name is what the test calls the content of a file, or "torn" for what it never made.
func (m *ESP) Name(file string) string {
	b, err := os.ReadFile(filepath.Join(m.Linux(), file))
	if err != nil {
		return "missing"
	}
	if name, ok := m.images[string(b)]; ok {
		return name
	}
	return "torn"
}
