package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// part is an unfinished upload whose lock this call holds.
type part struct {
	f      *os.File
	length int64
}

// openPart opens and locks the upload of a blob; without create, one that is not there is ErrNotFound.
func (s *Store) openPart(ctx context.Context, d digest.SHA256, create bool) (*part, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	path := s.partPath(d)
	for {
		f, err := os.OpenFile(path, flags, fileMode)
		if errors.Is(err, fs.ErrNotExist) && !create {
			return nil, fmt.Errorf("upload of %s: %w", d, artifacts.ErrNotFound)
		}
		if err != nil {
			return nil, unavailable("open", err)
		}
		p, err := lockPart(ctx, f, path)
		if p != nil {
			return p, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// lockPart locks f; it returns nil and no error if the path means another file by then, because the holder before
// completed or removed the upload.
func lockPart(ctx context.Context, f *os.File, path string) (*part, error) {
	if err := lock(ctx, f); err != nil {
		return nil, err
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, unavailable("look at", err)
	}
	named, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("look at", err)
	}
	if !os.SameFile(mine, named) {
		return nil, nil
	}
	return &part{f: f, length: mine.Size()}, nil
}

// close gives the lock back. Nothing counts as durable before it was synced, so an error here loses nothing.
func (p *part) close() { _ = p.f.Close() }

// discard throws the upload away.
func (p *part) discard() error {
	p.length = 0
	if err := os.Remove(p.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unavailable("remove", err)
	}
	return syncDir(filepath.Dir(p.f.Name()))
}

// sync makes the upload and its name durable.
func (p *part) sync() error {
	if err := p.f.Sync(); err != nil {
		return unavailable("sync", err)
	}
	return syncDir(filepath.Dir(p.f.Name()))
}

func (p *part) truncate(length int64) error {
	if err := p.f.Truncate(length); err != nil {
		return unavailable("truncate", err)
	}
	return nil
}

// readFull fills b from r unless the context or r ends. It returns io.EOF at the end of r, also beside n > 0.
func readFull(ctx context.Context, r io.Reader, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m, err := r.Read(b[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// hasMore reports whether r has bytes after the last one that was announced.
func hasMore(ctx context.Context, r io.Reader) bool {
	var b [1]byte
	n, _ := readFull(ctx, r, b[:])
	return n > 0
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
	f   *os.File
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func (r *reader) Close() error { return r.f.Close() }
