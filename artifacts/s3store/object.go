package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// User metadata of an object.
const (
	sumMetadata   = "Cordon-Sha256" // of the object's bytes, in hex
	writeMetadata = "Cordon-Write"  // random, one per conditional write: tells whose write it was when its answer is lost
)

// mustNotExist as the match of a condition.
const mustNotExist = "*"

// condition of a write: the zero value is none, mustNotExist that there is no object, else the ETag that it must have.
type condition struct{ match string }

// errChanged: the condition of a write does not hold.
var errChanged = errors.New("object was changed in between")

// get reads a whole object of at most limit bytes and returns its ETag. Bytes that differ from the sum stored with
// them are errDamaged.
func (s *Store) get(ctx context.Context, key string, limit int64) (data []byte, etag string, err error) {
	return s.getInto(ctx, key, limit, nil)
}

// getInto is get into buf, as far as its capacity goes.
func (s *Store) getInto(ctx context.Context, key string, limit int64, buf []byte) (data []byte, etag string, err error) {
	err = s.try(ctx, "read "+key, func(int) error {
		data, etag, err = s.getOnce(ctx, key, limit, buf)
		return err
	})
	return data, etag, err
}

// errDamaged: an object is not what was written.
var errDamaged = errors.New("object does not have the bytes that were written")

func (s *Store) getOnce(ctx context.Context, key string, limit int64, buf []byte) ([]byte, string, error) {
	body, info, _, err := s.core.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	if info.Size > limit {
		return nil, "", fmt.Errorf("%w: %q has %d of them, at most %d are expected", errDamaged, key, info.Size, limit)
	}
	if info.Size < 0 || !validETag(info.ETag) {
		return nil, "", fmt.Errorf("%w: %q comes without its length or without an ETag", errAnswer, key)
	}
	data := slices.Grow(buf[:0], int(info.Size))[:info.Size] // all at once: the tail of an upload has megabytes
	if _, err := io.ReadFull(body, data); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, "", err
	}
	if hasMore(ctx, body) {
		return nil, "", fmt.Errorf("%w: %q comes without its length or without an ETag", errAnswer, key)
	}
	if want := info.UserMetadata[sumMetadata]; want != "" && want != digest.Of(data).String() {
		return nil, "", fmt.Errorf("%w: %q", errDamaged, key)
	}
	return data, info.ETag, nil
}

// put writes an object whole, over what may be there.
func (s *Store) put(ctx context.Context, key string, data []byte) error {
	return s.try(ctx, "write "+key, func(int) error {
		_, err := s.putOnce(ctx, key, data, condition{}, nil)
		return err
	})
}

// swap writes an object if the condition holds and returns its new ETag; else errChanged. Its own write is recognised
// when the answer to it was lost.
func (s *Store) swap(ctx context.Context, key string, data []byte, c condition) (etag string, err error) {
	id := rand.Text()
	err = s.try(ctx, "write "+key, func(attempt int) error {
		etag, err = s.putOnce(ctx, key, data, c, map[string]string{writeMetadata: id})
		if attempt == 0 || !failedCondition(err, c) {
			return err
		}
		info, headErr := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
		if headErr == nil && info.UserMetadata[writeMetadata] == id && validETag(info.ETag) {
			etag = info.ETag
			return nil
		}
		if headErr != nil && code(headErr) != minio.NoSuchKey {
			return headErr
		}
		return err
	})
	if failedCondition(err, c) {
		return "", fmt.Errorf("%w: %q", errChanged, key)
	}
	return etag, err
}

// failedCondition: If-Match on an object that is not there is 404, not 412.
func failedCondition(err error, c condition) bool {
	return refusedByCondition(err) || (c.match != mustNotExist && c.match != "" && code(err) == minio.NoSuchKey)
}

func (s *Store) putOnce(ctx context.Context, key string, data []byte, c condition, metadata map[string]string) (etag string, err error) {
	sum := digest.Of(data)
	options := minio.PutObjectOptions{DisableContentSha256: true, UserMetadata: map[string]string{sumMetadata: sum.String()}}
	for k, v := range metadata {
		options.UserMetadata[k] = v
	}
	for k, v := range s.checksumHeader(sum) {
		options.UserMetadata[k] = v[0]
	}
	switch c.match {
	case "":
	case mustNotExist:
		options.SetMatchETagExcept("*")
	default:
		options.SetMatchETag(c.match)
	}
	info, err := s.core.PutObject(ctx, s.bucket, key, bytes.NewReader(data), int64(len(data)), "", sum.String(), options)
	if err != nil {
		return "", err
	}
	if !validETag(info.ETag) {
		return "", fmt.Errorf("%w: %q was written, but no ETag came back", errAnswer, key)
	}
	return info.ETag, nil
}

// checksumHeader lets the server store the sum and compare it again when parts are put together.
func (s *Store) checksumHeader(sum digest.SHA256) http.Header {
	if !s.checksums {
		return http.Header{}
	}
	return http.Header{"X-Amz-Checksum-Sha256": {base64.StdEncoding.EncodeToString(sum[:])}}
}

// remove deletes an object; one that is not there is no error. In a bucket with versioning its versions go too, unless a
// lock of the bucket's own keeps them: then it is only hidden.
func (s *Store) remove(ctx context.Context, key string) error {
	if s.features.Versioning {
		if err := s.removeVersions(ctx, key); !errors.Is(err, artifacts.ErrRetained) {
			return err
		}
	}
	err := s.try(ctx, "remove "+key, func(int) error {
		return s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, artifacts.ErrNotFound) {
		return nil
	}
	return err
}

// validETag keeps what goes into an If-Match header to the form that servers use, and the wildcard out.
func validETag(etag string) bool {
	if etag == "" || len(etag) > 200 {
		return false
	}
	return !strings.ContainsFunc(etag, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '*' || r == ',' })
}
