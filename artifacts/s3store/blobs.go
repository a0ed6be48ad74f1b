package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Uploaded says how far the upload of a blob has come.
func (s *Store) Uploaded(ctx context.Context, d digest.SHA256, size int64) (int64, error) {
	if done, err := s.complete(ctx, d, size); done || err != nil {
		return sizeIf(done, size), err
	}
	u, err := s.standing(ctx, d, size)
	if err != nil {
		return 0, err
	}
	switch at := u.st.offset(); {
	case at == 0:
		// It may have been completed between the two looks.
		done, err := s.complete(ctx, d, size)
		return sizeIf(done, size), err
	case at > size:
		return 0, u.discardMine(ctx)
	case at < size:
		return at, nil
	}
	// All bytes are there, but another size was announced when they came: check them now, since a caller that is told
	// "size" has nothing left to write.
	at, err := s.Write(ctx, d, size, size, http.NoBody)
	if errors.Is(err, artifacts.ErrDigestMismatch) {
		return 0, nil
	}
	return at, err
}

// Write continues the upload of a blob.
func (s *Store) Write(ctx context.Context, d digest.SHA256, size, offset int64, r io.Reader) (int64, error) {
	if done, err := s.complete(ctx, d, size); done || err != nil {
		return sizeIf(done, size), err
	}
	u, err := s.standing(ctx, d, size)
	if err != nil {
		return 0, err
	}
	at := u.st.offset()
	if at > size {
		mismatch := fmt.Errorf("%w: the upload has %d bytes, %d announced", artifacts.ErrLengthMismatch, at, size)
		return 0, errors.Join(mismatch, u.discardMine(ctx))
	}
	if at != offset {
		return u.lost(ctx, fmt.Errorf("%w: at %d, not %d", artifacts.ErrOffset, at, offset))
	}
	if err := u.loadTail(ctx); err != nil {
		return u.failed(ctx, err)
	}
	return u.receive(ctx, r)
}

// Stat returns the length of a complete blob.
func (s *Store) Stat(ctx context.Context, d digest.SHA256) (int64, error) {
	var size int64
	err := s.try(ctx, "look at blob "+d.String(), func(int) error {
		info, err := s.core.StatObject(ctx, s.bucket, s.blobKey(d), minio.StatObjectOptions{})
		if err == nil && info.Size < 1 {
			return fmt.Errorf("%w: a blob of %d bytes", errAnswer, info.Size)
		}
		size = info.Size
		return err
	})
	return size, err
}

// Remove deletes a blob or an unfinished upload. A blob that is locked is artifacts.ErrRetained and stays readable.
func (s *Store) Remove(ctx context.Context, d digest.SHA256) error {
	for round := 0; ; round++ {
		u, err := s.standing(ctx, d, artifacts.MaxImageBytes)
		if err == nil && u.revision != "" {
			err = u.discard(ctx)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errChanged) {
			return err
		}
		if round >= 10 {
			return fmt.Errorf("%w: cannot remove %s: another one keeps uploading it", artifacts.ErrUnavailable, d)
		}
	}
	if s.features.Versioning {
		return s.removeVersions(ctx, s.blobKey(d))
	}
	return s.remove(ctx, s.blobKey(d))
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

func sizeIf(complete bool, size int64) int64 {
	if complete {
		return size
	}
	return 0
}
