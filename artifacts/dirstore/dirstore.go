// Package dirstore keeps artifacts in a directory of a local POSIX file system.
//
// It promises what artifacts.Store says, also between several processes that open the same directory. It refuses names
// and sizes outside the contract and never serves a byte of a blob before the blob's digest was checked. It does not
// check digests again when it reads: a reader that must not trust the disk compares the SHA-256, as every device does.
// Trusted with availability only: an attacker who controls the directory can withhold or change bytes, and every change
// is noticed by TUF, the bundle or the digest.
//
// Layout: blobs/ab/<hex>, uploads/<hex>.part, names/<segment>/.../<segment>~, temp/, locks/.
package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
	stripes  = 64 // lock files for names
)

// Store is a directory with artifacts. All methods may be called at once.
type Store struct {
	dir     string
	writeAt func(f *os.File, b []byte, offset int64) (int, error) // (*os.File).WriteAt; a test lets the disk run full
	free    func(dir string) (uint64, error)                      // room in bytes; a test says how much
}

var (
	_ artifacts.Store  = (*Store)(nil)
	_ artifacts.Walker = (*Store)(nil)
)

// Open opens the store in dir and creates what is missing. Temporary files that a dead process left are removed;
// unfinished uploads stay, so that they can be continued. A directory that cannot be written wraps
// artifacts.ErrUnavailable.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, writeAt: (*os.File).WriteAt, free: room}
	for _, sub := range []string{"blobs", "uploads", "names", "temp", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), dirMode); err != nil {
			return nil, unavailable("create", err)
		}
	}
	for i := range stripes {
		f, err := os.OpenFile(s.lockPath(i), os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return nil, unavailable("write", err)
		}
		if err := f.Close(); err != nil {
			return nil, unavailable("write", err)
		}
	}
	if err := s.cleanTemp(); err != nil {
		return nil, err
	}
	return s, syncDir(dir)
}

// reserve is what uploads leave of the disk: the database and the keys often lie on the same one, and whoever may upload
// could fill it otherwise.
const reserve = 256 << 20

// room is how much an ordinary user may still write where dir lies.
func room(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}

// checkRoom refuses n bytes that would leave less than the reserve.
func (s *Store) checkRoom(n int) error {
	free, err := s.free(s.dir)
	if err != nil {
		return unavailable("measure the free space", err)
	}
	if free < uint64(n)+reserve {
		return fmt.Errorf("%w: %d bytes are free, and uploads leave %d", artifacts.ErrUnavailable, free, reserve)
	}
	return nil
}

// cleanTemp removes temporary files that no living process holds a lock on.
func (s *Store) cleanTemp() error {
	temp := filepath.Join(s.dir, "temp")
	entries, err := os.ReadDir(temp)
	if err != nil {
		return unavailable("read", err)
	}
	for _, e := range entries {
		if err := removeUnlocked(filepath.Join(temp, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func removeUnlocked(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unavailable("open", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // its writer lives
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unavailable("remove", err)
	}
	return nil
}

func (s *Store) lockPath(stripe int) string {
	return filepath.Join(s.dir, "locks", fmt.Sprintf("%02x", stripe))
}

func (s *Store) blobPath(d digest.SHA256) string {
	hex := d.String()
	return filepath.Join(s.dir, "blobs", hex[:2], hex)
}

func (s *Store) partPath(d digest.SHA256) string {
	return filepath.Join(s.dir, "uploads", d.String()+".part")
}

// unavailable wraps an error of the file system. The error itself names the path.
func unavailable(verb string, err error) error {
	return fmt.Errorf("%w: cannot %s: %w", artifacts.ErrUnavailable, verb, err)
}

// lock takes the exclusive lock of an open file. It waits for other holders, which hold it for one local operation
// only and never while they wait for a network; a context that has ended is noticed right after.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return unavailable("lock", &fs.PathError{Op: "flock", Path: f.Name(), Err: err})
		}
		return ctx.Err()
	}
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return unavailable("open", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return unavailable("sync", err)
	}
	return nil
}

// makeDir creates dir and its missing parents and makes each new entry durable.
func makeDir(dir string) error {
	err := os.Mkdir(dir, dirMode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return unavailable("create", err)
		}
	case err != nil:
		return unavailable("create", err)
	}
	return syncDir(filepath.Dir(dir))
}
