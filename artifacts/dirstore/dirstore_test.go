package dirstore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
)

const swapperEnv = "DIRSTORE_TEST_SWAPPER"

// TestMain lets the test binary be the second process of TestSwapBetweenProcesses.
func TestMain(m *testing.M) {
	if dir := os.Getenv(swapperEnv); dir != "" {
		if err := swapper(dir); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *dirstore.Store {
	t.Helper()
	s, err := dirstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t,
		func(t *testing.T) artifacts.Store { dir := t.TempDir(); return dirOf{open(t, dir), dir} },
		storetest.WithReopen(func(t *testing.T, s artifacts.Store) artifacts.Store {
			dir := s.(dirOf).dir
			return dirOf{open(t, dir), dir}
		}))
}

type dirOf struct {
	*dirstore.Store
	dir string
}

const swaps = 40

// swapper adds a byte to the counter, swaps times.
func swapper(dir string) error {
	s, err := dirstore.Open(dir)
	if err != nil {
		return err
	}
	for done := 0; done < swaps; {
		ctx := context.Background()
		data, revision, err := s.Load(ctx, "counter")
		if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
			return err
		}
		_, err = s.Swap(ctx, "counter", revision, append(data, 'n'))
		if err == nil {
			done++
		} else if !errors.Is(err, artifacts.ErrRevision) {
			return err
		}
	}
	return nil
}

func TestSwapBetweenProcesses(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var commands []*exec.Cmd
	for range 3 {
		c := exec.CommandContext(t.Context(), self)
		c.Env = append(os.Environ(), swapperEnv+"="+dir)
		c.Stderr = new(bytes.Buffer)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, c)
	}
	for _, c := range commands {
		if err := c.Wait(); err != nil {
			t.Errorf("second process: %v: %s", err, c.Stderr)
		}
	}
	got, _, err := open(t, dir).Load(t.Context(), "counter")
	if err != nil || len(got) != 3*swaps {
		t.Errorf("got %d swaps, %v, want %d: updates were lost", len(got), err, 3*swaps)
	}
}

func TestTornUploadIsNeverReadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := storetest.Bytes(1, 5000)
	d := digest.Of(b)
	s := open(t, dir)
	if _, err := s.Write(t.Context(), d, 5000, 0, bytes.NewReader(b[:3000])); err != nil {
		t.Fatal(err)
	}
	// A power cut can leave a file of full length whose last blocks were never written.
	part := filepath.Join(dir, "uploads", d.String()+".part")
	if err := os.Truncate(part, 5000); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := s.Stat(t.Context(), d); !errors.Is(err, artifacts.ErrNotFound) {
		t.Errorf("Stat of a torn upload: got %v, want ErrNotFound", err)
	}
	if at, err := s.Uploaded(t.Context(), d, 5000); at != 0 || err != nil {
		t.Errorf("Uploaded: got %d, %v, want 0: the torn bytes are thrown away", at, err)
	}
	if at, err := s.Write(t.Context(), d, 5000, 0, bytes.NewReader(b)); at != 5000 || err != nil {
		t.Errorf("Write: got %d, %v", at, err)
	}
}

func TestFullUploadOfDeadProcessBecomesBlob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := storetest.Bytes(2, 5000)
	d := digest.Of(b)
	s := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "uploads", d.String()+".part"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if at, err := s.Uploaded(t.Context(), d, 5000); at != 5000 || err != nil {
		t.Errorf("Uploaded: got %d, %v, want 5000", at, err)
	}
	if size, err := s.Stat(t.Context(), d); size != 5000 || err != nil {
		t.Errorf("Stat: got %d, %v, want 5000", size, err)
	}
}

// full is a disk with room for n more bytes.
func full(n int) func(*os.File, []byte, int64) (int, error) {
	return func(f *os.File, b []byte, offset int64) (int, error) {
		if len(b) <= n {
			n -= len(b)
			return f.WriteAt(b, offset)
		}
		m, err := f.WriteAt(b[:n], offset)
		n = 0
		if err != nil {
			return m, err
		}
		return m, &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
}

func TestFullDiskKeepsWhatWasThere(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	revision, err := s.Swap(t.Context(), "pointer", "", []byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	b := storetest.Bytes(3, 3<<20)
	d := digest.Of(b)
	if _, err := s.Write(t.Context(), d, 3<<20, 0, bytes.NewReader(b[:1000])); err != nil {
		t.Fatal(err)
	}

	s.SetWriteAt(full(1<<20 + 500))
	at, err := s.Write(t.Context(), d, 3<<20, 1000, bytes.NewReader(b[1000:]))
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, artifacts.ErrUnavailable) || at != 1<<20+1000 {
		t.Errorf("Write: got %d, %v, want %d and no space left", at, err, 1<<20+1000)
	}
	s.SetWriteAt(full(3))
	if _, err := s.Swap(t.Context(), "pointer", revision, []byte("after")); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("Swap: got %v, want ErrUnavailable", err)
	}
	s.SetWriteAt((*os.File).WriteAt)

	if got, _, err := s.Load(t.Context(), "pointer"); string(got) != "before" || err != nil {
		t.Errorf("Load: got %q, %v, want the state from before", got, err)
	}
	if end, err := s.Write(t.Context(), d, 3<<20, at, bytes.NewReader(b[at:])); end != 3<<20 || err != nil {
		t.Errorf("Write after room was made: got %d, %v", end, err)
	}
}

func TestOpenCleansTemporaryFilesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Create(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	dead, used := filepath.Join(dir, "temp", "dead"), filepath.Join(dir, "temp", "used")
	for _, path := range []string{dead, used} {
		if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(used)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("temporary file of a dead process: %v, want it removed", err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("temporary file of a living process: %v, want it kept", err)
	}
	if _, _, err := s.Load(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestFilesAreForOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	b := storetest.Bytes(4, 10)
	if _, err := s.Write(t.Context(), digest.Of(b), 10, 0, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "x/y", b); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatIsNoDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := dirstore.Open(file)
	if !errors.Is(err, artifacts.ErrUnavailable) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want ErrUnavailable with the path", err)
	}
}

func TestLostDirectoryIsUnavailable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a", []byte("x")); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("Create: got %v, want ErrUnavailable", err)
	}
	if _, err := s.List(t.Context(), "", "", 1); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("List: got %v, want ErrUnavailable", err)
	}
	b := []byte("x")
	if _, err := s.Write(t.Context(), digest.Of(b), 1, 0, bytes.NewReader(b)); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("Write: got %v, want ErrUnavailable", err)
	}
}

// A writer that waited for the lock must not go on with a file that the holder before has renamed or removed.
func TestLockedUploadIsTheNamedOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "part")
	create := func() *os.File {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	waited := create()
	if ok, err := dirstore.LockPart(t.Context(), waited, path); !ok || err != nil {
		t.Errorf("the named file: got %v, %v", ok, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if ok, err := dirstore.LockPart(t.Context(), waited, path); ok || err != nil {
		t.Errorf("a removed file: got %v, %v, want to open again", ok, err)
	}
	create()
	if ok, err := dirstore.LockPart(t.Context(), waited, path); ok || err != nil {
		t.Errorf("a replaced file: got %v, %v, want to open again", ok, err)
	}
}
