package s3store

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// conclusionTimeout bounds the last part and the request that puts the parts together, which takes minutes for large
// blobs on some servers.
const conclusionTimeout = 15 * time.Minute

const (
	codeNoSuchUpload = "NoSuchUpload"
	codeInvalidPart  = "InvalidPart"
)

func (s *Store) newMultipart(ctx context.Context, d digest.SHA256) (id string, err error) {
	options := minio.PutObjectOptions{}
	if s.checksums {
		options.UserMetadata = map[string]string{"X-Amz-Checksum-Algorithm": "SHA256"}
	}
	err = s.try(ctx, "begin the upload of "+d.String(), func(int) error {
		id, err = s.core.NewMultipartUpload(ctx, s.bucket, s.blobKey(d), options)
		if err == nil && (id == "" || len(id) > 1024) {
			return fmt.Errorf("%w: upload id of %d bytes", errAnswer, len(id))
		}
		return err
	})
	return id, err
}

// putPart stores one part. An upload that is not there is errGone.
func (s *Store) putPart(ctx context.Context, d digest.SHA256, id string, number int, data []byte) (part, error) {
	sum := digest.Of(data)
	p := part{SHA256: sum}
	err := s.try(ctx, fmt.Sprintf("upload part %d of %s", number, d), func(int) error {
		got, err := s.core.PutObjectPart(ctx, s.bucket, s.blobKey(d), id, number, bytes.NewReader(data), int64(len(data)),
			minio.PutObjectPartOptions{Sha256Hex: sum.String(), DisableContentSha256: true, CustomHeader: s.checksumHeader(sum)})
		if err == nil && !validETag(got.ETag) {
			return fmt.Errorf("%w: part %d has no ETag", errAnswer, number)
		}
		p.ETag = got.ETag
		return err
	})
	if err = goneIf(err, codeNoSuchUpload); err != nil && !errors.Is(err, errGone) && s.uploadGone(ctx, d, id) {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return p, err
}

// uploadGone asks whether an upload is gone after a part failed. A server that refuses a part without reading it resets
// the connection, and then its answer is lost with it.
func (s *Store) uploadGone(ctx context.Context, d digest.SHA256, id string) bool {
	err := s.try(ctx, "look at the upload of "+d.String(), func(int) error {
		_, err := s.core.ListObjectParts(ctx, s.bucket, s.blobKey(d), id, 0, 1)
		return err
	})
	return errors.Is(goneIf(err, codeNoSuchUpload), errGone)
}

// completeMultipart makes the parts a blob. The server compares ETags and sums, so parts that a rival wrote over these
// are errGone, and no blob comes to be. It is errGone, too, when an earlier attempt was carried out and its answer lost:
// then the blob is there.
func (s *Store) completeMultipart(ctx context.Context, d digest.SHA256, id string, parts []part) error {
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: i + 1, ETag: p.ETag}
		if s.checksums {
			list[i].ChecksumSHA256 = base64.StdEncoding.EncodeToString(p.SHA256[:])
		}
	}
	err := s.try(ctx, "complete the upload of "+d.String(), func(int) error {
		_, err := s.core.CompleteMultipartUpload(ctx, s.bucket, s.blobKey(d), id, list, minio.PutObjectOptions{})
		return err
	})
	return goneIf(err, codeNoSuchUpload, codeInvalidPart, "InvalidPartOrder", "EntityTooSmall")
}

// abortMultipart frees the parts; an upload that is not there is no error.
func (s *Store) abortMultipart(ctx context.Context, d digest.SHA256, id string) error {
	err := s.try(ctx, "end the upload of "+d.String(), func(int) error {
		return s.core.AbortMultipartUpload(ctx, s.bucket, s.blobKey(d), id)
	})
	if errors.Is(err, artifacts.ErrNotFound) || code(err) == codeNoSuchUpload {
		return nil
	}
	return err
}

// goneIf makes errors with these codes errGone.
func goneIf(err error, codes ...string) error {
	have := code(err)
	for _, c := range codes {
		if have == c {
			return fmt.Errorf("%w: %w", errGone, err)
		}
	}
	return err
}
