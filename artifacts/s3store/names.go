package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
)

// leafMark ends the key of a document. It is outside the alphabet of names, so that servers which keep keys as files
// can hold the document "a" and the document "a/b"; and it sorts before the whole alphabet, so that the order of keys
// is the order of names.
const leafMark = "!"

// pageKeys is how many keys one request lists; S3 allows no more. Always as many: MinIO ends a list early when it is asked
// for a few keys after one in another folder.
const pageKeys = 1000

// Load returns a document and its revision, which is the object's ETag.
func (s *Store) Load(ctx context.Context, name string) ([]byte, string, error) {
	key, err := s.nameKey(ctx, name)
	if err != nil {
		return nil, "", err
	}
	data, etag, err := s.get(ctx, key, artifacts.MaxNamedBytes)
	if err != nil {
		return nil, "", fmt.Errorf("%q: %w", name, err)
	}
	return data, etag, nil
}

// Create writes an immutable document.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	key, err := s.writableKey(ctx, name, data)
	if err != nil {
		return err
	}
	_, err = s.swap(ctx, key, data, condition{mustNotExist})
	if !errors.Is(err, errChanged) {
		return err
	}
	old, _, err := s.get(ctx, key, artifacts.MaxNamedBytes)
	if err != nil {
		if errors.Is(err, artifacts.ErrNotFound) { // a conflict with a write that then failed
			return fmt.Errorf("%w: %q was written by another one at the same time", artifacts.ErrUnavailable, name)
		}
		return err
	}
	if !bytes.Equal(old, data) {
		return fmt.Errorf("%q: %w", name, artifacts.ErrExists)
	}
	return nil
}

// Swap moves a pointer.
func (s *Store) Swap(ctx context.Context, name, revision string, data []byte) (string, error) {
	key, err := s.writableKey(ctx, name, data)
	if err != nil {
		return "", err
	}
	c := condition{mustNotExist}
	if revision != "" {
		if !validETag(revision) {
			return "", fmt.Errorf("%q: %w", name, artifacts.ErrRevision)
		}
		c.match = revision
	}
	next, err := s.swap(ctx, key, data, c)
	if errors.Is(err, errChanged) {
		return "", fmt.Errorf("%q: %w", name, artifacts.ErrRevision)
	}
	return next, err
}

// List returns names in byte order.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil || limit <= 0 || !possiblePrefix(prefix) {
		return nil, err
	}
	var names []string
	err := s.try(ctx, "list names", func(int) error {
		var err error
		names, err = s.listOnce(ctx, prefix, after, limit)
		return err
	})
	return names, err
}

func (s *Store) listOnce(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when there are enough
	defer cancel()
	root := s.prefix + "names/"
	options := minio.ListObjectsOptions{Prefix: root + prefix, Recursive: true, MaxKeys: pageKeys}
	if after != "" {
		options.StartAfter = root + after + leafMark
	}
	var names []string
	for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
		if object.Err != nil {
			return nil, object.Err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(object.Key, root), leafMark)
		if !ok || name <= after {
			continue
		}
		if len(names) > 0 && name <= names[len(names)-1] {
			return nil, fmt.Errorf("%w: it lists %q after %q", errAnswer, name, names[len(names)-1])
		}
		if names = append(names, name); len(names) == limit {
			break
		}
	}
	return names, nil
}

// possiblePrefix says whether a valid name can start like this; others are not even asked for, because a server that
// keeps keys as files may take ".." for a folder.
func possiblePrefix(prefix string) bool {
	if prefix == "" {
		return true
	}
	if folder, ok := strings.CutSuffix(prefix, "/"); ok {
		return artifacts.ValidStoredName(folder) == nil
	}
	// The last segment may be "." here, as the start of ".hidden".
	return artifacts.ValidStoredName(prefix) == nil || artifacts.ValidStoredName(prefix+"x") == nil
}

func (s *Store) nameKey(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := artifacts.ValidStoredName(name); err != nil {
		return "", err
	}
	return s.prefix + "names/" + name + leafMark, nil
}

func (s *Store) writableKey(ctx context.Context, name string, data []byte) (string, error) {
	key, err := s.nameKey(ctx, name)
	if err != nil {
		return "", err
	}
	if len(data) > artifacts.MaxNamedBytes {
		return "", fmt.Errorf("%q: %w: %d bytes, at most %d are allowed", name, artifacts.ErrTooLarge, len(data), artifacts.MaxNamedBytes)
	}
	return key, nil
}
