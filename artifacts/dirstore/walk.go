package dirstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

const partSuffix = ".part"

// Walk lists blobs or unfinished uploads. A file that this store did not write is passed over.
func (s *Store) Walk(ctx context.Context, kind artifacts.Kind, after digest.SHA256, limit int) ([]artifacts.Found, error) {
	w := &walk{ctx: ctx, after: after.String(), limit: limit}
	if after.IsZero() {
		w.after = ""
	}
	if kind == artifacts.UnfinishedUploads {
		err := w.folder(filepath.Join(s.dir, "uploads"), partSuffix)
		return w.found, err
	}
	blobs := filepath.Join(s.dir, "blobs")
	folders, err := os.ReadDir(blobs) // sorted
	if err != nil {
		return nil, unavailable("read", err)
	}
	for _, folder := range folders {
		if len(w.found) == limit {
			break
		}
		if w.after != "" && folder.Name() < w.after[:2] || !folder.IsDir() {
			continue
		}
		if err := w.folder(filepath.Join(blobs, folder.Name()), ""); err != nil {
			return nil, err
		}
	}
	return w.found, nil
}

// walk is one call of Walk.
type walk struct {
	ctx   context.Context
	after string // hex; empty for the start
	limit int
	found []artifacts.Found
}

// folder adds the files of one folder whose names are a digest and the suffix.
func (w *walk) folder(dir, suffix string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return unavailable("read", err)
	}
	for _, f := range files {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if len(w.found) >= w.limit {
			return nil
		}
		hex, ok := strings.CutSuffix(f.Name(), suffix)
		d, err := digest.Parse(hex)
		if !ok || err != nil || hex <= w.after {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // completed or removed since the folder was read
		}
		if err != nil {
			return unavailable("look at", err)
		}
		one := artifacts.Found{SHA256: d, Modified: info.ModTime()}
		if suffix == "" {
			one.Size = info.Size()
		}
		w.found = append(w.found, one)
	}
	return nil
}

// RemoveUpload throws away an upload that nobody has continued since before.
func (s *Store) RemoveUpload(ctx context.Context, d digest.SHA256, before time.Time) (bool, error) {
	p, err := s.openPart(ctx, d, false)
	if errors.Is(err, artifacts.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.close()
	// Under the lock: a writer that comes now begins a new upload.
	info, err := p.f.Stat()
	if err != nil {
		return false, unavailable("look at", err)
	}
	if !info.ModTime().Before(before) {
		return false, nil
	}
	return true, p.discard()
}
