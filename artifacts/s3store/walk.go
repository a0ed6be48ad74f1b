package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Walk lists blobs or unfinished uploads. An upload is what has a state, a tail or a multipart upload at the server; some
// servers (MinIO) list the last kind only to who knows the key, and end such uploads themselves after a day. Objects
// that this store did not write are passed over.
func (s *Store) Walk(ctx context.Context, kind artifacts.Kind, after digest.SHA256, limit int) ([]artifacts.Found, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	var found []artifacts.Found
	err := s.try(ctx, "list what is stored", func(int) error {
		var err error
		if kind == artifacts.CompleteBlobs {
			found, err = s.walkKeys(ctx, s.prefix+"blobs/", after, limit, true)
			return err
		}
		if found, err = s.walkKeys(ctx, s.prefix+"uploads/", after, limit, false); err != nil {
			return err
		}
		multiparts, err := s.walkMultiparts(ctx, after, limit)
		found = join(found, multiparts, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// walkKeys lists the digests of keys below root. Keys of one upload follow each other: <hex>, <hex>.<random>.
func (s *Store) walkKeys(ctx context.Context, root string, after digest.SHA256, limit int, sized bool) ([]artifacts.Found, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when there are enough
	defer cancel()
	options := minio.ListObjectsOptions{Prefix: root, Recursive: true, MaxKeys: pageKeys}
	if !after.IsZero() {
		options.StartAfter = root + after.String()
	}
	var found []artifacts.Found
	for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
		if object.Err != nil {
			return nil, object.Err
		}
		hex, _, _ := strings.Cut(strings.TrimPrefix(object.Key, root), ".")
		d, err := digest.Parse(hex)
		if err != nil || !after.IsZero() && bytes.Compare(d[:], after[:]) <= 0 {
			continue
		}
		one := artifacts.Found{SHA256: d, Modified: object.LastModified}
		if sized {
			one.Size = object.Size
		}
		if n := len(found); n > 0 && found[n-1].SHA256 == d {
			found[n-1].Modified = latest(found[n-1].Modified, one.Modified)
			continue
		}
		if len(found) == limit {
			break
		}
		found = append(found, one)
	}
	return found, nil
}

// walkMultiparts lists the digests that have a multipart upload.
func (s *Store) walkMultiparts(ctx context.Context, after digest.SHA256, limit int) ([]artifacts.Found, error) {
	root, marker, id := s.prefix+"blobs/", "", ""
	if !after.IsZero() {
		marker = root + after.String()
	}
	var found []artifacts.Found
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.bucket, root, marker, id, "", pageKeys)
		if err != nil {
			return nil, err
		}
		for _, u := range page.Uploads {
			d, err := digest.Parse(strings.TrimPrefix(u.Key, root))
			if err != nil || !after.IsZero() && bytes.Compare(d[:], after[:]) <= 0 {
				continue
			}
			found = append(found, artifacts.Found{SHA256: d, Modified: u.Initiated})
		}
		if !page.IsTruncated || len(found) > limit {
			return join(found, nil, limit), nil
		}
		if page.NextKeyMarker == marker && page.NextUploadIDMarker == id {
			return nil, fmt.Errorf("%w: its list of multipart uploads does not go on", errAnswer)
		}
		marker, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// join sorts two lists, keeps the newest of equal digests, and cuts at limit.
func join(a, b []artifacts.Found, limit int) []artifacts.Found {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y artifacts.Found) int { return bytes.Compare(x.SHA256[:], y.SHA256[:]) })
	var out []artifacts.Found
	for _, f := range all {
		if n := len(out); n > 0 && out[n-1].SHA256 == f.SHA256 {
			out[n-1].Modified = latest(out[n-1].Modified, f.Modified)
			continue
		}
		if len(out) == limit {
			break
		}
		out = append(out, f)
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// RemoveUpload throws away an upload that nobody has continued since before, with what crashes left beside it.
func (s *Store) RemoveUpload(ctx context.Context, d digest.SHA256, before time.Time) (bool, error) {
	removed, live, err := s.removeState(ctx, d, before)
	if err != nil {
		return removed, err
	}
	leftovers, err := s.removeTails(ctx, d, before, live)
	if err != nil {
		return removed, err
	}
	ended, err := s.endMultiparts(ctx, d, before, live)
	return removed || leftovers || ended, err
}

// removeState discards an old upload by its state, and returns the state that stays.
func (s *Store) removeState(ctx context.Context, d digest.SHA256, before time.Time) (removed bool, live state, err error) {
	var info minio.ObjectInfo
	err = s.try(ctx, "look at the upload of "+d.String(), func(int) (err error) {
		info, err = s.core.StatObject(ctx, s.bucket, s.stateKey(d), minio.StatObjectOptions{})
		return err
	})
	if errors.Is(err, artifacts.ErrNotFound) {
		return false, state{}, nil
	}
	if err != nil {
		return false, state{}, err
	}
	u, err := s.standing(ctx, d, artifacts.MaxImageBytes)
	if err != nil || u.revision == "" {
		return false, state{}, err
	}
	if !info.LastModified.Before(before) || u.revision != info.ETag {
		return false, u.st, nil // somebody is at it
	}
	stays := u.st
	if err := u.discard(ctx); errors.Is(err, errChanged) {
		return false, stays, nil
	} else if err != nil {
		return false, stays, err
	}
	return true, state{}, nil
}

// removeTails removes tails that no state names.
func (s *Store) removeTails(ctx context.Context, d digest.SHA256, before time.Time, live state) (bool, error) {
	var old []string
	err := s.try(ctx, "list the upload of "+d.String(), func(int) error {
		old = nil
		options := minio.ListObjectsOptions{Prefix: s.stateKey(d) + ".", Recursive: true, MaxKeys: pageKeys}
		for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
			if object.Err != nil {
				return object.Err
			}
			if object.LastModified.Before(before) && object.Key != s.stateKey(d)+"."+live.Tail.Suffix {
				old = append(old, object.Key)
			}
		}
		return nil
	})
	for _, key := range old {
		if err := s.remove(ctx, key); err != nil {
			return false, err
		}
	}
	return len(old) > 0, err
}

// endMultiparts ends multipart uploads that no state names.
func (s *Store) endMultiparts(ctx context.Context, d digest.SHA256, before time.Time, live state) (bool, error) {
	var page minio.ListMultipartUploadsResult
	err := s.try(ctx, "list the upload of "+d.String(), func(int) (err error) {
		page, err = s.core.ListMultipartUploads(ctx, s.bucket, s.blobKey(d), "", "", "", pageKeys)
		return err
	})
	ended := false
	for _, u := range page.Uploads {
		if u.Key != s.blobKey(d) || u.UploadID == live.UploadID || !u.Initiated.Before(before) {
			continue
		}
		if err := s.abortMultipart(ctx, d, u.UploadID); err != nil {
			return ended, err
		}
		ended = true
	}
	return ended, err
}
