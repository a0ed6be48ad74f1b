package dirstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// leafMark ends the file name of a document. It is outside the alphabet of names, so that the document "a" and the
// document "a/b" can both exist.
const leafMark = "~"

// Load returns a document and its revision, the SHA-256 of its bytes.
func (s *Store) Load(ctx context.Context, name string) ([]byte, string, error) {
	path, err := s.namePath(ctx, name)
	if err != nil {
		return nil, "", err
	}
	return load(path, name)
}

// Create writes an immutable document.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	_, err := s.change(ctx, name, data, func(old []byte, exists bool) (bool, error) {
		if exists && !bytes.Equal(old, data) {
			return false, fmt.Errorf("%q: %w", name, artifacts.ErrExists)
		}
		return !exists, nil
	})
	return err
}

// Swap moves a pointer.
func (s *Store) Swap(ctx context.Context, name, revision string, data []byte) (string, error) {
	return s.change(ctx, name, data, func(old []byte, exists bool) (bool, error) {
		if exists != (revision != "") || (exists && digest.Of(old).String() != revision) {
			return false, fmt.Errorf("%q: %w", name, artifacts.ErrRevision)
		}
		return true, nil
	})
}

// List returns names in byte order.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	var names []string
	root := filepath.Join(s.dir, "names")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil // removed while we looked
		}
		if err != nil {
			return unavailable("list", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(path, root), string(filepath.Separator)))
		if e.IsDir() {
			if within := name + "/"; name != "" && !strings.HasPrefix(within, prefix) && !strings.HasPrefix(prefix, within) {
				return fs.SkipDir
			}
			return nil
		}
		if name, ok := strings.CutSuffix(name, leafMark); ok && strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // the walk sorts by segment, which is another order
	return names[:min(limit, len(names))], nil
}

// change writes data under name if decide, which sees the old bytes under the lock, says so.
func (s *Store) change(ctx context.Context, name string, data []byte, decide func(old []byte, exists bool) (bool, error)) (string, error) {
	path, err := s.namePath(ctx, name)
	if err != nil {
		return "", err
	}
	if len(data) > artifacts.MaxNamedBytes {
		return "", fmt.Errorf("%q: %w: %d bytes, at most %d are allowed", name, artifacts.ErrTooLarge, len(data), artifacts.MaxNamedBytes)
	}
	unlock, err := s.lockName(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	old, _, err := load(path, name)
	exists := err == nil
	if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
		return "", err
	}
	write, err := decide(old, exists)
	if err != nil {
		return "", err
	}
	if write {
		err = s.replace(path, data)
	} else {
		// The same bytes may stand there from a call that failed at the last step: make them durable now.
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", err
	}
	return digest.Of(data).String(), nil
}

// replace writes data to a temporary file and renames it, durably.
func (s *Store) replace(path string, data []byte) error {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	temp := filepath.Join(s.dir, "temp", rand.Text())
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return unavailable("create", err)
	}
	defer f.Close()
	// The lock tells a process that opens the store now that this file is in use.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	if _, gone := os.Lstat(temp); errors.Is(gone, fs.ErrNotExist) {
		return s.replace(path, data) // that process was faster than the lock
	}
	if err == nil {
		_, err = s.writeAt(f, data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		crash.Here(crash.NameWritten)
		err = os.Rename(temp, path)
	}
	crash.Here(crash.NameRenamed)
	if err != nil {
		_ = os.Remove(temp) // else Open removes it
		return unavailable("write", err)
	}
	return syncDir(filepath.Dir(path))
}

func (s *Store) namePath(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := artifacts.ValidStoredName(name); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, "names", filepath.FromSlash(name)+leafMark), nil
}

// lockName excludes every other change of the name, in all processes.
func (s *Store) lockName(ctx context.Context, name string) (unlock func(), err error) {
	h := fnv.New32a()
	_, _ = io.WriteString(h, name)
	f, err := os.OpenFile(s.lockPath(int(h.Sum32()%stripes)), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, unavailable("open", err)
	}
	if err := lock(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func load(path, name string) ([]byte, string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%q: %w", name, artifacts.ErrNotFound)
	}
	if err != nil {
		return nil, "", unavailable("open", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, artifacts.MaxNamedBytes+1))
	if err != nil {
		return nil, "", unavailable("read", err)
	}
	if len(b) > artifacts.MaxNamedBytes {
		return nil, "", fmt.Errorf("%q: %w", name, artifacts.ErrTooLarge)
	}
	return b, digest.Of(b).String(), nil
}
