package s3store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// LockMode says who can end a lock early.
type LockMode string

// The modes of S3 object lock.
const (
	LockNone       LockMode = ""           // Retain keeps nothing
	LockGovernance LockMode = "governance" // whoever has s3:BypassGovernanceRetention can
	LockCompliance LockMode = "compliance" // nobody can, the owner of the bucket included
)

// Features are what the bucket has beyond what the store needs.
type Features struct {
	Versioning bool // removing a blob removes its versions
	ObjectLock bool // Retain has an effect, if the configuration asks for it
}

// Features returns what Open learned about the bucket.
func (s *Store) Features() Features { return s.features }

// learn asks for versioning and object lock. A server that knows neither, or a key that may not ask, counts as without.
func (s *Store) learn(ctx context.Context) error {
	err := s.try(ctx, "ask for versioning", func(int) error {
		v, err := s.core.GetBucketVersioning(ctx, s.bucket)
		// Suspended versioning keeps the versions from before.
		s.features.Versioning = err == nil && (v.Enabled() || v.Suspended())
		return unlessUnknown(err)
	})
	if err != nil {
		return err
	}
	return s.try(ctx, "ask for object lock", func(int) error {
		enabled, _, _, _, err := s.core.GetObjectLockConfig(ctx, s.bucket)
		s.features.ObjectLock = err == nil && enabled == "Enabled"
		return unlessUnknown(err)
	})
}

// unlessUnknown lets a server pass that says no: it does not have the feature, or the key must not ask for it.
func unlessUnknown(err error) error {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok && !worthAnotherTry(err) && r.StatusCode >= 400 {
		return nil
	}
	return err
}

// Retain locks a complete blob for the configured days. Without object lock it does nothing.
func (s *Store) Retain(ctx context.Context, d digest.SHA256) error {
	if s.lockMode == LockNone || !s.features.ObjectLock {
		return nil
	}
	until := s.now().Add(s.lockFor).UTC().Truncate(time.Second)
	have, err := s.Retained(ctx, d)
	if err != nil || have.After(until.Add(-time.Hour)) { // the same release again needs no new lock
		return err
	}
	mode := minio.Governance
	if s.lockMode == LockCompliance {
		mode = minio.Compliance
	}
	return s.try(ctx, "lock blob "+d.String(), func(int) error {
		return s.core.PutObjectRetention(ctx, s.bucket, s.blobKey(d), minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	})
}

// farAway stands for the end of a legal hold, which has none.
const farAway = 100 * 365 * 24 * time.Hour

// Retained says until when the blob is locked, by whomever. The state is read from the headers of the object: that works
// on every server.
func (s *Store) Retained(ctx context.Context, d digest.SHA256) (until time.Time, err error) {
	err = s.try(ctx, "look at blob "+d.String(), func(int) error {
		until, err = s.lockedUntil(ctx, s.blobKey(d), "")
		return err
	})
	return until, err
}

func (s *Store) lockedUntil(ctx context.Context, key, version string) (time.Time, error) {
	info, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return time.Time{}, err
	}
	now := s.now()
	if info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == "ON" {
		return now.Add(farAway), nil
	}
	text := info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if text == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %q is not when a lock ends", errAnswer, text)
	}
	if !until.After(now) {
		return time.Time{}, nil
	}
	return until, nil
}

// removeVersions deletes an object with all its versions, the oldest first: when a lock stops it, what was readable still
// is. A lock is artifacts.ErrRetained.
func (s *Store) removeVersions(ctx context.Context, key string) error {
	var versions []minio.ObjectInfo
	err := s.try(ctx, "list the versions of "+key, func(int) error {
		versions = nil
		options := minio.ListObjectsOptions{Prefix: key, WithVersions: true, Recursive: true, MaxKeys: pageKeys}
		for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
			if object.Err != nil {
				return object.Err
			}
			if object.Key == key {
				versions = append(versions, object)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(versions) // S3 lists the newest first
	for _, v := range versions {
		if err := s.removeVersion(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) removeVersion(ctx context.Context, v minio.ObjectInfo) error {
	err := s.try(ctx, "remove "+v.Key, func(int) error {
		return s.core.RemoveObject(ctx, s.bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID})
	})
	if err == nil || errors.Is(err, artifacts.ErrNotFound) {
		return nil
	}
	if v.IsDeleteMarker {
		return err
	}
	// Servers have different codes for a locked version: the object itself says whether it is.
	until, lockErr := s.lockedUntil(ctx, v.Key, v.VersionID)
	if lockErr == nil && !until.IsZero() {
		return fmt.Errorf("%w: %s until %s", artifacts.ErrRetained, v.Key, until.UTC().Format(time.RFC3339))
	}
	return err
}
