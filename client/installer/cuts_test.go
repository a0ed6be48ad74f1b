package installer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var errCut = errors.New("the power failed")

// cut lets n changes of the disk happen and none after them. It remembers the changes that were not synced.
type cut struct {
	left     int
	hit      bool
	unsynced []string // renames, as "FROM TO"
}

func (c *cut) step(op, path string) error {
	if c.left == 0 {
		c.hit = true
		return fmt.Errorf("%w before %s", errCut, op)
	}
	c.left--
	switch op {
	case "rename":
		c.unsynced = append(c.unsynced, path)
	case "sync":
		c.unsynced = nil
	}
	return nil
}

// fate is what a FAT file system may make of a rename that was not durable when the power failed.
type fate struct {
	name string
	do   func(from, to string) error
}

var fates = []fate{
	{"happened", func(from, to string) error { return nil }},
	{"did not happen", func(from, to string) error { return os.Rename(to, from) }},
	{"left both names", func(from, to string) error { return os.Link(to, from) }},
	{"left no name", func(from, to string) error { return os.Remove(to) }},
}

// story is one way of an update, from a machine that runs "one".
type story struct {
	version int // of the update "two"; "one" is 5
	fails   bool
	abandon bool // rolled back before its first boot
}

// play goes through the story until the power fails, or to its end.
func (s story) play(m *esp, two []byte) error {
	if err := m.install(two); err != nil {
		return err
	}
	if s.abandon {
		return m.uki.Rollback(m.t.Context())
	}
	c := m.cutting
	m.boot()
	m.uki.Cut(c.step)
	b, err := m.uki.Running(m.t.Context())
	if err != nil {
		return err
	}
	if !b.Trial {
		return m.uki.Rollback(m.t.Context())
	}
	return m.uki.Commit(m.t.Context())
}

// TestUKISurvivesAPowerCutAnywhere cuts the power before every change of the disk, and gives the renames that were not
// durable each fate that a FAT file system has for them. Afterwards a whole image boots, and the update can be made.
func TestUKISurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	cuts := 0
	for name, s := range map[string]story{
		"newer": {version: 6}, "older": {version: 4}, "same version": {version: 5}, "newer, fails": {version: 6, fails: true}, "older, fails": {version: 4, fails: true},
		"newer, abandoned": {version: 6, abandon: true}, "older, abandoned": {version: 4, abandon: true},
	} {
		for _, f := range fates {
			for n := 0; ; n++ {
				if !s.survives(t, fmt.Sprintf("%s, cut after %d changes, the last rename %s", name, n, f.name), n, f) {
					break
				}
				cuts++
			}
		}
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 100 {
		t.Errorf("%d power cuts, want at least 100", cuts)
	}
}

// survives reports whether the power failed at all in the story.
func (s story) survives(t *testing.T, what string, n int, f fate) bool {
	t.Helper()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 5))
	m.boot()
	two := m.image("two", s.version)
	m.Bad["two"] = s.fails
	m.cutting = &cut{left: n}
	m.uki.Cut(m.cutting.step)
	err := s.play(m, two)
	if err != nil && !errors.Is(err, errCut) {
		t.Fatalf("%s: %v", what, err)
	}
	if !m.cutting.hit {
		return false
	}
	for _, r := range slices.Backward(m.cutting.unsynced) {
		from, to, _ := strings.Cut(r, " ")
		if err := f.do(from, to); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	m.Bad["torn"] = true
	m.boot()
	m.aftermath(what, two, s.fails)
	return true
}

// aftermath is what the agent does after the cut, until the machine runs the update for good, or the image before if the
// update does not start.
func (m *esp) aftermath(what string, two []byte, fails bool) {
	m.t.Helper()
	want := "two"
	if fails {
		want = "one"
	}
	for range 6 {
		b, err := m.uki.Running(m.t.Context())
		if err != nil {
			m.t.Fatalf("%s: Running: %v, files %v", what, err, m.Files())
		}
		switch isTwo := b.SHA256 == describe(two).SHA256; {
		case isTwo:
			err = m.uki.Commit(m.t.Context())
		case !fails:
			err = errors.Join(m.uki.Rollback(m.t.Context()), m.install(two))
		default:
			err = m.uki.Rollback(m.t.Context())
		}
		if err != nil {
			m.t.Fatalf("%s: %v, files %v", what, err, m.Files())
		}
		file := m.boot()
		if got := m.Name(file); got != "one" && got != "two" {
			m.t.Fatalf("%s: %s boots, which is %s", what, file, got)
		}
	}
	b, err := m.uki.Running(m.t.Context())
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
	running := "one"
	if b.SHA256 == describe(two).SHA256 {
		running = "two"
	}
	if running != want || b.Trial {
		m.t.Errorf("%s: %s runs in the end, trial %v, want %s; files %v", what, running, b.Trial, want, m.Files())
	}
	if left, err := filepath.Glob(filepath.Join(m.Linux(), "*")); err != nil || len(left) > 3 {
		m.t.Errorf("%s: %d files are left, %v", what, len(left), left)
	}
}
