package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// maxReopen bounds how often one reader takes up a broken connection again.
const maxReopen = 32

// Open reads a complete blob. A connection that breaks is taken up again at the same byte, of the same object.
func (s *Store) Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length < -1 {
		return nil, fmt.Errorf("%w: offset %d, length %d", artifacts.ErrOffset, offset, length)
	}
	if length > artifacts.MaxImageBytes {
		length = -1 // a length beyond the end is cut there
	}
	if length == 0 || offset > artifacts.MaxImageBytes {
		return s.openNothing(ctx, d, offset)
	}
	r := &reader{ctx: ctx, s: s, d: d, offset: offset, left: length}
	err := r.open()
	if code(err) == minio.InvalidRange {
		return s.openNothing(ctx, d, offset)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openNothing is a reader without bytes at any offset inside the blob or at its end.
func (s *Store) openNothing(ctx context.Context, d digest.SHA256, offset int64) (io.ReadCloser, error) {
	size, err := s.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	if offset > size {
		return nil, fmt.Errorf("%w: offset %d of %d bytes", artifacts.ErrOffset, offset, size)
	}
	return io.NopCloser(bytes.NewReader(nil)), nil
}

// reader of a range. It ends with its context.
type reader struct {
	ctx    context.Context
	s      *Store
	d      digest.SHA256
	offset int64  // of the next byte
	left   int64  // bytes to come; -1 before the first answer means up to the end
	etag   string // of the object that the first answer came from
	body   io.ReadCloser
	opened int
}

// open asks for the rest of the range.
func (r *reader) open() error {
	r.opened++
	return r.s.try(r.ctx, "read blob "+r.d.String(), func(int) error {
		options := minio.GetObjectOptions{}
		options.Set("Range", r.rangeHeader())
		if r.etag != "" {
			if err := options.SetMatchETag(r.etag); err != nil {
				return err
			}
		}
		body, info, header, err := r.s.core.GetObject(r.ctx, r.s.bucket, r.s.blobKey(r.d), options)
		if err != nil {
			return err
		}
		if err := r.accept(info, header); err != nil {
			return errors.Join(err, body.Close())
		}
		r.body = body
		return nil
	})
}

func (r *reader) rangeHeader() string {
	if r.left < 0 {
		return fmt.Sprintf("bytes=%d-", r.offset)
	}
	return fmt.Sprintf("bytes=%d-%d", r.offset, r.offset+r.left-1)
}

// accept holds the answer against what was asked for: a server that ignores ranges would pass off other bytes.
func (r *reader) accept(info minio.ObjectInfo, header http.Header) error {
	if got, want := header.Get("Content-Range"), fmt.Sprintf("bytes %d-", r.offset); !strings.HasPrefix(got, want) {
		return fmt.Errorf("%w: range %.80q, asked for %q", errAnswer, got, want)
	}
	if info.Size < 1 || (r.left >= 0 && info.Size > r.left) || !validETag(info.ETag) {
		return fmt.Errorf("%w: %d bytes with ETag %.80q", errAnswer, info.Size, info.ETag)
	}
	if r.etag != "" && (info.Size != r.left || info.ETag != r.etag) {
		return fmt.Errorf("%w: the blob is another one than before", errAnswer)
	}
	r.left, r.etag = info.Size, info.ETag
	return nil
}

// Read continues after a broken connection and returns io.EOF only after the last byte of the range.
func (r *reader) Read(b []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		if r.left == 0 {
			return 0, io.EOF
		}
		n, err := r.body.Read(b[:min(int64(len(b)), r.left)])
		r.offset += int64(n)
		r.left -= int64(n)
		if n > 0 || err == nil {
			return n, nil // an error comes again
		}
		if ctxErr := r.ctx.Err(); ctxErr != nil {
			return 0, ctxErr
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if r.s.attempts < 2 || r.opened > maxReopen {
			return 0, r.s.explain("read blob "+r.d.String(), err)
		}
		_ = r.body.Close()
		if err := r.open(); err != nil {
			return 0, err
		}
	}
}

func (r *reader) Close() error { return r.body.Close() }
