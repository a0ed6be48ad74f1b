package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Source is what is backed up.
type Source struct {
	DSN     string
	KeysDir string          // empty: the keys stay where they are
	Blobs   artifacts.Blobs // where the images lie
	// CopyBlobs brings the images into the backup folder. Without it they are left to the artifact store, and the backup
	// only names them.
	CopyBlobs bool
}

// Options say how.
type Options struct {
	Build    string
	Now      func() time.Time
	Progress Progress
}

// Take backs the source up into the folder dir, while servers go on, and returns the path of the backup. A run that is
// killed leaves nothing that could be taken for a backup; the next one removes what it left.
func Take(ctx context.Context, s Source, dir string, o Options) (string, Manifest, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", Manifest{}, fmt.Errorf("cannot make the backup folder: %w", err)
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return "", Manifest{}, err
	}
	defer unlock()
	f, err := os.CreateTemp(dir, partialPattern) // mode 0600
	if err != nil {
		return "", Manifest{}, fmt.Errorf("cannot write the backup: %w", err)
	}
	defer os.Remove(f.Name())
	m, err := write(ctx, f, s, dir, o)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", Manifest{}, err
	}
	path := filepath.Join(dir, fmt.Sprintf("cordon-%s-%d.backup", m.TakenAt.UTC().Format("20060102T150405Z"), m.Events))
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename it overwrites nothing
		return "", Manifest{}, fmt.Errorf("cannot write the backup: %w", err)
	}
	return path, m, syncDir(dir)
}

const partialPattern = ".partial-*"

// lockFolder keeps a second backup away and removes what killed ones left.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the backup folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock the backup folder: another backup is being written there: %w", err), f.Close())
	}
	for _, pattern := range []string{filepath.Join(dir, partialPattern), filepath.Join(dir, "blobs", "*", partialPattern)} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil {
				return nil, errors.Join(fmt.Errorf("cannot remove what an unfinished backup left: %w", err), f.Close())
			}
		}
	}
	return func() { _ = f.Close() }, nil // and with it the lock
}

// write writes rows, keys and the manifest to f, and the blobs beside it.
func write(ctx context.Context, f io.Writer, s Source, dir string, o Options) (Manifest, error) {
	w := newWriter(f, Manifest{Version: Version, TakenAt: o.Now().UTC(), Build: o.Build})
	var releases []store.Release
	err := store.ReadSnapshot(ctx, s.DSN, func(snapshot *store.Snapshot) (err error) {
		m := &w.manifest
		m.Engine, m.Schema = snapshot.Engine, snapshot.Schema
		if m.Events, err = snapshot.Events(ctx); err != nil {
			return err
		}
		if m.Epoch, err = epoch.Load(ctx, snapshot); err != nil {
			return err
		}
		if releases, err = snapshot.Releases(ctx); err != nil {
			return err
		}
		return w.tables(ctx, snapshot, o.Progress)
	})
	if err != nil {
		return Manifest{}, err
	}
	if s.KeysDir != "" {
		if err := w.keys(s.KeysDir); err != nil {
			return Manifest{}, err
		}
	}
	if err := w.blobs(ctx, s, releases, dir, o.Progress); err != nil {
		return Manifest{}, err
	}
	return w.manifest, w.close()
}

// keys adds every file of the key folder.
func (w *writer) keys(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot back up the keys: %w", err)
	}
	for _, file := range files {
		if !entryName.MatchString(keyPrefix + file.Name()) {
			continue // a temporary file of a server that starts just now
		}
		info, err := file.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxKeyBytes {
			return errors.Join(fmt.Errorf("cannot back up key %s: it is no file of at most %d bytes", file.Name(), maxKeyBytes), err)
		}
		b, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return fmt.Errorf("cannot back up the keys: %w", err)
		}
		if err := w.add(keyPrefix+file.Name(), b); err != nil {
			return err
		}
	}
	w.manifest.Keys = true
	return nil
}

// blobs lists what the releases need, and copies what is not in the folder yet.
func (w *writer) blobs(ctx context.Context, s Source, releases []store.Release, dir string, progress Progress) error {
	seen := map[digest.SHA256]bool{}
	for i, row := range releases {
		progress("releases", int64(i), int64(len(releases)))
		needed, err := repository.BlobsOf(row)
		if err != nil {
			return err
		}
		inputs, err := repository.Inputs(ctx, s.Blobs, row)
		if err != nil && !errors.Is(err, artifacts.ErrNotFound) { // values that are missing are found missing below
			return fmt.Errorf("cannot back up release %s: %w", row.Name, err)
		}
		for _, in := range inputs {
			needed = append(needed, in.SHA256)
		}
		for _, sum := range needed {
			if seen[sum] {
				continue
			}
			seen[sum] = true
			size, err := s.Blobs.Stat(ctx, sum)
			if errors.Is(err, artifacts.ErrNotFound) && !row.PrunedAt.IsZero() {
				continue
			}
			if errors.Is(err, artifacts.ErrNotFound) {
				return fmt.Errorf("%w: %s of release %s: %w", ErrMissing, sum, row.Name, err)
			}
			if err != nil {
				return fmt.Errorf("cannot back up release %s: %w", row.Name, err)
			}
			if s.CopyBlobs {
				if err := copyBlob(ctx, s.Blobs, dir, sum, size); err != nil {
					return fmt.Errorf("cannot back up release %s: %w", row.Name, err)
				}
			}
			w.manifest.Blobs = append(w.manifest.Blobs, Blob{SHA256: sum, Length: size, Kept: s.CopyBlobs})
		}
	}
	progress("releases", int64(len(releases)), int64(len(releases)))
	return nil
}

func blobPath(dir string, sum digest.SHA256) string {
	return filepath.Join(dir, "blobs", sum.String()[:2], sum.String())
}

// copyBlob brings a blob into the folder, whole and checked, unless it is there.
func copyBlob(ctx context.Context, blobs artifacts.Blobs, dir string, sum digest.SHA256, size int64) error {
	path := blobPath(dir, sum)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	r, err := blobs.Open(ctx, sum, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Dir(path), partialPattern)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	if err == nil && digest.SHA256(h.Sum(nil)) != sum {
		err = fmt.Errorf("blob %s: %w", sum, artifacts.ErrDigestMismatch)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(path)), syncDir(filepath.Dir(filepath.Dir(path))))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Verify reads a backup and everything beside it that it names, and changes nothing.
func Verify(ctx context.Context, path string, progress Progress) (Manifest, digest.SHA256, error) {
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, digest.SHA256{}, fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	m, sum, err := Read(f, func(string, []byte) error { return ctx.Err() })
	if err != nil {
		return Manifest{}, digest.SHA256{}, err
	}
	for i, b := range m.Blobs {
		progress("images", int64(i), int64(len(m.Blobs)))
		if !b.Kept {
			continue
		}
		if err := checkBlob(ctx, blobPath(filepath.Dir(path), b.SHA256), b); err != nil {
			return Manifest{}, digest.SHA256{}, err
		}
	}
	progress("images", int64(len(m.Blobs)), int64(len(m.Blobs)))
	return m, sum, nil
}

func checkBlob(ctx context.Context, path string, b Blob) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not beside the backup", ErrMissing, b.SHA256)
	}
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.Read(p)
	}))
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	if n != b.Length || digest.SHA256(h.Sum(nil)) != b.SHA256 {
		return damaged("the file %s has other bytes", path)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
