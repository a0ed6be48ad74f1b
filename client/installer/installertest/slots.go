package installertest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Slots is a machine with two images as files, whose boot loader works by the files that installer.AB describes. An image
// that contains the word BROKEN does not start.
type Slots struct {
	t   testing.TB
	Dir string
}

// NewSlots makes a machine that runs slot a.
func NewSlots(t testing.TB, dir string) *Slots {
	t.Helper()
	s := &Slots{t: t, Dir: dir}
	for name, text := range map[string]string{"a.img": "the factory image", "active": "a\n", "running": "a\n"} {
		s.write(name, text)
	}
	return s
}

func (s *Slots) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Slots) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return b
}

// Boot starts the slot in next once, if there is one and it starts, or else the active one.
func (s *Slots) Boot() {
	s.t.Helper()
	slot := string(bytes.TrimSpace(s.read("next")))
	if slot != "" {
		if err := os.Rename(filepath.Join(s.Dir, "next"), filepath.Join(s.Dir, "tried")); err != nil {
			s.t.Fatal(err)
		}
	}
	if slot == "" || bytes.Contains(s.read(slot+".img"), []byte("BROKEN")) {
		slot = string(bytes.TrimSpace(s.read("active")))
	}
	s.write("running", slot+"\n")
}
