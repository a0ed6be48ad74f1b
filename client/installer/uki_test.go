package installer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestUKIUpdatesThroughACountedTrial(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	m.wantRunning("one", false)
	for i, name := range []string{"two", "three", "four"} {
		if err := m.install(m.image(name, i+2)); err != nil {
			t.Fatalf("install %s: %v", name, err)
		}
		file := m.boot()
		if !strings.HasSuffix(file, "+2-1.efi") {
			t.Errorf("the trial runs as %q, want two tries left", file)
		}
		m.wantRunning(name, true)
		if _, err := m.uki.Prepare(t.Context(), installer.Image{}); !errors.Is(err, installer.ErrBusy) {
			t.Errorf("Prepare during a trial: %v, want ErrBusy", err)
		}
		for range 2 { // a second time after a crash
			if err := m.uki.Commit(t.Context()); err != nil {
				t.Fatalf("Commit: %v", err)
			}
		}
		m.wantRunning(name, false)
		m.boot()
		m.wantRunning(name, false)
	}
	if got := m.Files(); len(got) != 3 || m.Name(got[0]) != "three" || m.Name(got[1]) != "four" || got[2] != "fw-1.efi" {
		t.Errorf("files = %v, want the running image, the one before, and the one that somebody else put there", got)
	}
}

func TestUKIFallsBackAfterThreeTries(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	two := m.image("two", 2)
	m.Bad["two"] = true
	if err := m.install(two); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("one", false)
	tries, ok, err := m.uki.Tries(t.Context(), describe(two))
	if err != nil || !ok || tries.Used != 3 || tries.Of != 3 || !strings.HasSuffix(tries.Name, "+0-3.efi") {
		t.Errorf("Tries = %+v, %v, %v, want 3 of 3", tries, ok, err)
	}
	if err := m.uki.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.Files(); len(got) != 1 {
		t.Errorf("files = %v, want the failed image gone", got)
	}
	if _, ok, err := m.uki.Tries(t.Context(), describe(two)); ok || err != nil {
		t.Errorf("Tries after the cleanup = %v, %v", ok, err)
	}
}

// A recovery release is often older than what it replaces, and systemd-boot prefers the newer version.
func TestUKIBootsAnOlderVersion(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-9.efi", m.image("nine", 9))
	m.boot()
	old := m.image("two", 2)
	if err := m.install(old); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("two", true)
	m.boot() // nobody committed: the one try by name is used up
	m.wantRunning("nine", false)
	if err := m.uki.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.install(old); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("two", true)
	if err := m.uki.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("two", false)
	three := m.image("ten", 10)
	if err := m.install(three); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("ten", true)
	if err := m.uki.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("ten", false)
}

func TestUKIRollbackEndsARunningTrial(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	if err := m.install(m.image("two", 2)); err != nil {
		t.Fatal(err)
	}
	m.boot()
	if err := m.uki.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("one", false)
	if err := m.install(m.image("three", 3)); err != nil {
		t.Fatal(err)
	}
	if err := m.uki.Rollback(t.Context()); err != nil { // before it was ever booted
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("one", false)
}

func TestUKIKeepsWhatWasWritten(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	two := m.image("two", 2)
	s, err := m.uki.Prepare(t.Context(), describe(two))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WriteAt(two[:100], 0)
	if err := errors.Join(err, s.Sync(), s.Close()); err != nil {
		t.Fatal(err)
	}
	m.boot() // in the middle of the download
	m.wantRunning("one", false)
	if s, err = m.uki.Prepare(t.Context(), describe(two)); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	have := make([]byte, 100)
	if _, err := s.ReadAt(have, 0); err != nil || string(have) != string(two[:100]) {
		t.Errorf("the first bytes are gone: %v", err)
	}
}

func TestUKIRefusesWhatWouldNotFitOrNotBoot(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	if _, err := m.uki.Prepare(t.Context(), installer.Image{Length: 1 << 60}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Prepare of 2^60 bytes: %v, want ENOSPC", err)
	}
	if err := m.install([]byte("no image at all")); !errors.Is(err, installer.ErrFailed) || !strings.Contains(err.Error(), ".osrel") {
		t.Errorf("Activate of something that systemd-boot does not list: %v", err)
	}
	m.boot()
	m.wantRunning("one", false)
}

func TestUKIRefusesToGuessWhatRuns(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(m *esp){
		"no variables":      func(m *esp) {},
		"another folder":    func(m *esp) { m.Variable("LoaderBootCountPath", `\EFI\BOOT\fw-1.efi`) },
		"out of the folder": func(m *esp) { m.Variable("LoaderEntrySelected", `..`) },
		"no image":          func(m *esp) { m.Variable("LoaderEntrySelected", `notes.txt`) },
		"a removed image":   func(m *esp) { m.Variable("LoaderEntrySelected", `fw-7.efi`) },
		"two images": func(m *esp) {
			m.Variable("LoaderEntrySelected", "fw-1.efi")
			m.Variable("StubImageIdentifier", `\EFI\Linux\fw-2.efi`)
		},
		"two files of one name": func(m *esp) {
			m.Put("fw-3+1-2.efi", installertest.UKI(3, "x"))
			m.Put("fw-3+0-3.efi", installertest.UKI(3, "x"))
			m.Variable("LoaderEntrySelected", "fw-3+2-1.efi")
		},
		"a pipe": func(m *esp) {
			if err := syscall.Mkfifo(filepath.Join(m.Vars, "LoaderEntrySelected"+vendor), 0o600); err != nil {
				m.t.Fatal(err)
			}
		},
		"too long": func(m *esp) { m.Variable("LoaderEntrySelected", strings.Repeat("x", 5000)+".efi") },
		"a folder": func(m *esp) {
			m.Variable("LoaderEntrySelected", "fw-4.efi")
			if err := os.Mkdir(filepath.Join(m.Linux(), "fw-4.efi"), 0o755); err != nil {
				m.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newESP(t, map[string][]byte{"fw-1.efi": installertest.UKI(1, "one"), "fw-2.efi": installertest.UKI(2, "two")})
			set(m)
			if b, err := m.uki.Running(t.Context()); err == nil {
				t.Errorf("Running = %+v, want an error", b)
			}
			if _, err := m.uki.Prepare(t.Context(), installer.Image{Length: 1}); err == nil {
				t.Error("Prepare went on without knowing what runs")
			}
			if err := m.uki.Commit(t.Context()); err == nil {
				t.Error("Commit went on without knowing what runs")
			}
		})
	}
}

// Whoever mounts the partition elsewhere may have left anything on it.
func TestUKITouchesNothingThatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	m.boot()
	two := m.image("two", 2)
	own := "cordon-0000000001-" + describe(two).SHA256.String()[:16]
	plant := []error{
		os.Symlink(victim, filepath.Join(m.Linux(), "cordon-next.part")),
		os.Symlink(victim, filepath.Join(m.Linux(), "cordon-0000000009-0123456789abcdef+3.efi")),
		os.MkdirAll(filepath.Join(m.Linux(), own+".efi", "x"), 0o755),
		os.MkdirAll(filepath.Join(m.Linux(), "cordon-0000000007-0123456789abcdef.efi"), 0o755),
	}
	if err := errors.Join(plant...); err != nil {
		t.Fatal(err)
	}
	garbage := []string{"+.efi", "+3.efi", "a+99999999999.efi", "a+3-.efi", "cordon-.efi", "cordon-x-y+3.efi", "x+3+2-1.efi", ".efi", "\xff.efi", "auto-x+1.efi", "cordon-9999999999-0123456789abcdeX.efi"}
	for _, name := range garbage {
		m.Put(name, []byte("garbage"))
	}
	if err := m.install(two); err != nil {
		t.Fatalf("install: %v", err)
	}
	m.boot()
	m.wantRunning("two", true)
	if err := m.uki.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	m.boot()
	m.wantRunning("two", false)
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the file elsewhere holds %q now, %v", b, err)
	}
	for _, name := range garbage {
		if b, err := os.ReadFile(filepath.Join(m.Linux(), name)); err != nil || string(b) != "garbage" {
			t.Errorf("%q is not what it was: %v", name, err)
		}
	}
}

func TestUKIWritesNoSecondNameOfAnotherFile(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	if err := os.Link(filepath.Join(m.Linux(), "fw-1.efi"), filepath.Join(m.Linux(), "cordon-next.part")); err != nil {
		t.Fatal(err)
	}
	m.boot()
	if err := m.install(m.image("two", 2)); err != nil {
		t.Fatal(err)
	}
	m.wantRunning("one", false)
}

func TestUKIBoundsACrowdedPartition(t *testing.T) {
	t.Parallel()
	m := newESP(t, nil)
	m.Put("fw-1.efi", m.image("one", 1))
	for i := range 10_000 {
		m.Put("cordon-"+strings.Repeat("z", i%50)+string(rune('a'+i%26))+strings.Repeat("9", i/400)+".efi", nil)
	}
	m.boot()
	if err := m.install(m.image("two", 2)); err != nil {
		t.Fatal(err)
	}
	m.boot()
	m.wantRunning("two", true)
}

// TestUKIReadsRealImages takes the release description from images as publishers build them.
func TestUKIReadsRealImages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, version string) string {
		b, err := os.ReadFile(parts.TestUKI(t, parts.UKISpec{Version: version}))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, next, spent := put("z.efi", "1.9.0"), put("a+3.efi", "1.10.0"), put("y+0-3.efi", "2.0.0")
	for _, pair := range [][2]string{{next, old}, {next, spent}, {old, spent}} {
		if !installer.Prefers(pair[0], pair[1]) || installer.Prefers(pair[1], pair[0]) {
			t.Errorf("%s does not boot before %s", filepath.Base(pair[0]), filepath.Base(pair[1]))
		}
	}
}

// The order of the UAPI version format specification, from its own examples.
func TestComparesVersionsAsSystemdDoes(t *testing.T) {
	t.Parallel()
	ascending := []string{"~1", "", "1~rc1", "1", "1-2", "1-11", "1^1", "1.1", "1.9.0", "1.10.0", "2", "11", "11α", "122", "123.a"}
	for i, a := range ascending {
		for j, b := range ascending {
			got := installer.CompareVersions(a, b)
			if a == "11" && b == "11α" || a == "11α" && b == "11" {
				if got != 0 {
					t.Errorf("compare(%q, %q) = %d, want 0: letters beyond ASCII do not count", a, b, got)
				}
				continue
			}
			if want := max(-1, min(i-j, 1)); got != want {
				t.Errorf("compare(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}
