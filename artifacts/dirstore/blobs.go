package dirstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// pieceBytes is how much is read from an uploader before it is written under the lock. No lock is held while an
// uploader's network is waited for, so a stalled upload cannot stop another one of the same blob.
const pieceBytes = 1 << 20

// Uploaded says how far the upload of a blob has come.
func (s *Store) Uploaded(ctx context.Context, d digest.SHA256, size int64) (int64, error) {
	if done, err := s.complete(ctx, d, size); done || err != nil {
		return sizeIf(done, size), err
	}
	p, err := s.openPart(ctx, d, false)
	if errors.Is(err, artifacts.ErrNotFound) {
		// It may have been completed between the two looks.
		done, err := s.complete(ctx, d, size)
		return sizeIf(done, size), err
	}
	if err != nil {
		return 0, err
	}
	defer p.close()
	switch {
	case p.length > size:
		return 0, p.discard()
	case p.length < size:
		return p.length, p.sync()
	}
	// All bytes are there, but the writer died before it checked them: do it now, since a caller that is told "size"
	// has nothing left to write.
	err = s.finish(p, d, size)
	if errors.Is(err, artifacts.ErrDigestMismatch) {
		return 0, nil
	}
	return sizeIf(err == nil, size), err
}

// Write continues the upload of a blob.
func (s *Store) Write(ctx context.Context, d digest.SHA256, size, offset int64, r io.Reader) (int64, error) {
	if done, err := s.complete(ctx, d, size); done || err != nil {
		return sizeIf(done, size), err
	}
	if at := s.standing(d); at != offset {
		return s.settle(ctx, d, size, 0, fmt.Errorf("%w: at %d, not %d", artifacts.ErrOffset, at, offset))
	}
	buf := make([]byte, min(pieceBytes, size))
	for at := offset; at < size; {
		n, readErr := readFull(ctx, r, buf[:min(int64(len(buf)), size-at)])
		if n > 0 {
			if err := s.writePiece(ctx, d, size, at, buf[:n]); err != nil {
				return s.settle(ctx, d, size, offset, err)
			}
			at += int64(n)
		}
		if readErr == io.EOF && at < size {
			return s.settle(ctx, d, size, offset, nil)
		}
		if readErr != nil && readErr != io.EOF {
			return s.settle(ctx, d, size, offset, fmt.Errorf("cannot read the upload: %w", readErr))
		}
	}
	return s.conclude(ctx, d, size, hasMore(ctx, r))
}

// conclude ends an upload whose bytes are all there: it becomes a blob, or is thrown away with the reason why.
func (s *Store) conclude(ctx context.Context, d digest.SHA256, size int64, tooLong bool) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	p, err := s.openPart(ctx, d, false)
	if errors.Is(err, artifacts.ErrNotFound) {
		if done, err := s.complete(ctx, d, size); done || err != nil {
			return sizeIf(done, size), err
		}
		return 0, fmt.Errorf("%w: the upload was removed in between", artifacts.ErrOffset)
	}
	if err != nil {
		return 0, err
	}
	defer p.close()
	if tooLong || p.length > size {
		return 0, errors.Join(fmt.Errorf("%w: more than %d bytes", artifacts.ErrLengthMismatch, size), p.discard())
	}
	if p.length < size {
		return p.length, errors.Join(fmt.Errorf("%w: at %d", artifacts.ErrOffset, p.length), p.sync())
	}
	if err := s.finish(p, d, size); err != nil {
		return p.length, err
	}
	return size, nil
}

// writePiece appends b at offset if the upload still stands there.
func (s *Store) writePiece(ctx context.Context, d digest.SHA256, size, offset int64, b []byte) error {
	p, err := s.openPart(context.WithoutCancel(ctx), d, offset == 0)
	if errors.Is(err, artifacts.ErrNotFound) {
		return fmt.Errorf("%w: the upload was completed or removed in between", artifacts.ErrOffset)
	}
	if err != nil {
		return err
	}
	defer p.close()
	if p.length != offset {
		return fmt.Errorf("%w: at %d, not %d", artifacts.ErrOffset, p.length, offset)
	}
	if err := s.checkRoom(len(b)); err != nil {
		return err
	}
	if _, err := s.writeAt(p.f, b, offset); err != nil {
		return errors.Join(unavailable("write", err), p.truncate(offset))
	}
	return nil
}

// settle ends a Write before the last byte: what is there becomes durable, and its length is returned beside err. If
// that fails, the upload goes back to keep, where an earlier call had made it durable.
func (s *Store) settle(ctx context.Context, d digest.SHA256, size, keep int64, err error) (int64, error) {
	ctx = context.WithoutCancel(ctx)
	p, openErr := s.openPart(ctx, d, false)
	if errors.Is(openErr, artifacts.ErrNotFound) {
		done, completeErr := s.complete(ctx, d, size)
		if done {
			return size, nil // another upload of the same bytes was faster
		}
		return 0, errors.Join(err, completeErr)
	}
	if openErr != nil {
		return 0, errors.Join(err, openErr)
	}
	defer p.close()
	if p.length > size {
		mismatch := fmt.Errorf("%w: the upload has %d bytes, %d announced", artifacts.ErrLengthMismatch, p.length, size)
		return 0, errors.Join(mismatch, p.discard())
	}
	if syncErr := p.sync(); syncErr != nil {
		return keep, errors.Join(err, syncErr, p.truncate(keep))
	}
	return p.length, err
}

// finish checks the digest of a full upload and makes it a blob. A mismatch throws the upload away; p.length is then 0.
func (s *Store) finish(p *part, d digest.SHA256, size int64) error {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(p.f, 0, size)); err != nil {
		return unavailable("read", err)
	}
	if got := digest.SHA256(h.Sum(nil)); got != d {
		return errors.Join(fmt.Errorf("%w: they have %s, not %s", artifacts.ErrDigestMismatch, got, d), p.discard())
	}
	if err := p.f.Sync(); err != nil {
		return unavailable("sync", err)
	}
	path := s.blobPath(d)
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	crash.Here(crash.BlobChecked)
	if err := os.Rename(p.f.Name(), path); err != nil {
		return unavailable("rename", err)
	}
	crash.Here(crash.BlobRenamed)
	return errors.Join(syncDir(filepath.Dir(path)), syncDir(filepath.Join(s.dir, "uploads")))
}

// Stat returns the length of a complete blob.
func (s *Store) Stat(ctx context.Context, d digest.SHA256) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	info, err := os.Stat(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w", d, artifacts.ErrNotFound)
	}
	if err != nil {
		return 0, unavailable("look at", err)
	}
	return info.Size(), nil
}

// Open reads a complete blob.
func (s *Store) Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error) {
	size, err := s.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > size || length < -1 {
		return nil, fmt.Errorf("%w: offset %d, length %d of %d bytes", artifacts.ErrOffset, offset, length, size)
	}
	f, err := os.Open(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, artifacts.ErrNotFound)
	}
	if err != nil {
		return nil, unavailable("open", err)
	}
	if length < 0 || length > size-offset {
		length = size - offset
	}
	return &reader{ctx: ctx, r: io.NewSectionReader(f, offset, length), f: f}, nil
}

// Remove deletes a blob or an unfinished upload.
func (s *Store) Remove(ctx context.Context, d digest.SHA256) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := s.openPart(ctx, d, false)
	if err == nil {
		defer p.close()
		err = p.discard()
	}
	if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
		return err
	}
	path := s.blobPath(d)
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unavailable("remove", err)
	}
	return syncDir(filepath.Dir(path))
}

// complete checks the announced size and reports whether the blob is there.
func (s *Store) complete(ctx context.Context, d digest.SHA256, size int64) (bool, error) {
	if size < 1 {
		return false, fmt.Errorf("%w: a blob has at least one byte, %d announced", artifacts.ErrLengthMismatch, size)
	}
	if size > artifacts.MaxImageBytes {
		return false, fmt.Errorf("%w: %d bytes announced, at most %d are allowed", artifacts.ErrTooLarge, size, int64(artifacts.MaxImageBytes))
	}
	have, err := s.Stat(ctx, d)
	if errors.Is(err, artifacts.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have != size {
		return false, fmt.Errorf("%w: blob %s has %d bytes, %d announced", artifacts.ErrLengthMismatch, d, have, size)
	}
	return true, nil
}

// standing is where an upload stands, as far as it can be told without its lock.
func (s *Store) standing(d digest.SHA256) int64 {
	info, err := os.Stat(s.partPath(d))
	if err != nil {
		return 0
	}
	return info.Size()
}

func sizeIf(complete bool, size int64) int64 {
	if complete {
		return size
	}
	return 0
}
