package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

var cacheKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,150}$`)

// CacheDir is the folder under the user's cache that holds what the parts build: kernels, images, the TPM maker's CA.
// It may be deleted whenever nothing runs.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache folder: %w", err)
	}
	dir := filepath.Join(base, "cordon", "parts")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache folder: %w", err)
	}
	return dir, nil
}

// Cached returns the folder kind/key of the cache. When it is absent, build fills an empty folder that takes its place
// only if build succeeds; parallel processes build it once.
func Cached(ctx context.Context, kind, key string, build func(ctx context.Context, dir string) error) (string, error) {
	if !cacheKey.MatchString(kind) || !cacheKey.MatchString(key) {
		return "", fmt.Errorf("cannot cache %q/%q: not a file name", kind, key)
	}
	base, err := CacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(base, kind, key)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := lock(ctx, kind+"-"+key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("cannot make cache folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(final), ".building-")
	if err != nil {
		return "", fmt.Errorf("cannot make cache folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("cannot keep %s in the cache: %w", kind, err)
	}
	return final, nil
}

// lock takes the named lock of the cache, among all processes of this user.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	base, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make lock folder: %w", err)
	}
	return lockFile(ctx, filepath.Join(dir, name))
}

func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open lock: %w", err)
	}
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil // closing the only descriptor releases the lock
}

// poll asks until done says so, fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// writeFile replaces path in one step: readers see the old bytes or the new ones.
func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
