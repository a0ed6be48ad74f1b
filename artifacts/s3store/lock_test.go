package s3store_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// lockedBucket is a store in a bucket with object lock.
func lockedBucket(t testing.TB, server *parts.S3, mode s3store.LockMode) (*s3store.Store, s3store.Config) {
	t.Helper()
	name, err := server.NewLockedBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(server, name)
	if cfg.LockMode = mode; mode != s3store.LockNone {
		cfg.LockFor = 48 * time.Hour
	}
	return open(t, cfg), cfg
}

func TestBucketFeaturesAreLearned(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestS3(t)
	plain, _ := newStore(t)
	if got := plain.Features(); got != (s3store.Features{}) {
		t.Errorf("plain bucket: got %+v, want nothing", got)
	}
	locked, _ := lockedBucket(t, server, s3store.LockNone)
	if got, want := locked.Features(), (s3store.Features{Versioning: true, ObjectLock: true}); got != want {
		t.Errorf("locked bucket: got %+v, want %+v", got, want)
	}
}

func TestLockedBlobCannotBeRemoved(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestS3(t)
	testLock(t, server)
}

// testLock attacks a locked blob with the store's own credentials, which may do everything.
func testLock(t *testing.T, server *parts.S3) {
	for _, mode := range []s3store.LockMode{s3store.LockGovernance, s3store.LockCompliance} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			s, cfg := lockedBucket(t, server, mode)
			b, free := storetest.Bytes(30, 3000), storetest.Bytes(31, s3store.PartBytes+1)
			finish(t, s, b)
			finish(t, s, free)
			d := digest.Of(b)
			if err := s.Retain(t.Context(), d); err != nil {
				t.Fatalf("Retain: %v", err)
			}
			until, err := s.Retained(t.Context(), d)
			if left := time.Until(until); err != nil || left < 47*time.Hour || left > 49*time.Hour {
				t.Errorf("Retained: got %s, %v, want two days", until, err)
			}
			wantErr(t, "Remove", s.Remove(t.Context(), d), artifacts.ErrRetained)
			wantBlob(t, s, b)
			wantVersionStays(t, cfg, d)
			wantBlob(t, s, b)

			if until, err := s.Retained(t.Context(), digest.Of(free)); err != nil || !until.IsZero() {
				t.Errorf("Retained of a blob without lock: got %s, %v", until, err)
			}
			if err := s.Remove(t.Context(), digest.Of(free)); err != nil {
				t.Errorf("Remove of a blob without lock: %v", err)
			}
			wantErr(t, "Stat", statErr(t, s, digest.Of(free)), artifacts.ErrNotFound)
			if left := versions(t, cfg, digest.Of(free).String()); len(left) > 0 {
				t.Errorf("Remove left %d versions", len(left))
			}
		})
	}
}

func versions(t testing.TB, cfg s3store.Config, part string) []minio.ObjectInfo {
	t.Helper()
	var out []minio.ObjectInfo
	options := minio.ListObjectsOptions{Prefix: cfg.Prefix + "/blobs/" + part, Recursive: true, WithVersions: true}
	for o := range bucket(t, cfg).ListObjectsIter(t.Context(), cfg.Bucket, options) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		out = append(out, o)
	}
	return out
}

// wantVersionStays tries what somebody with the server's credentials could try. A delete marker may hide the blob; the
// bytes stay, and without the marker the blob is back.
func wantVersionStays(t *testing.T, cfg s3store.Config, d digest.SHA256) {
	t.Helper()
	all := versions(t, cfg, d.String())
	if len(all) != 1 {
		t.Fatalf("got %d versions, want 1", len(all))
	}
	key, core := all[0].Key, bucket(t, cfg)
	if err := core.RemoveObject(t.Context(), cfg.Bucket, key, minio.RemoveObjectOptions{VersionID: all[0].VersionID}); err == nil {
		t.Error("a locked version was removed")
	}
	_, err := core.PutObject(t.Context(), cfg.Bucket, key, bytes.NewReader([]byte("x")), 1, "", "", minio.PutObjectOptions{SendContentMd5: true})
	hidden := core.RemoveObject(t.Context(), cfg.Bucket, key, minio.RemoveObjectOptions{})
	for _, v := range versions(t, cfg, d.String()) {
		if v.VersionID == all[0].VersionID {
			continue
		}
		if err := core.RemoveObject(t.Context(), cfg.Bucket, key, minio.RemoveObjectOptions{VersionID: v.VersionID}); err != nil {
			t.Errorf("remove what hides the blob: %v", err)
		}
	}
	t.Logf("overwritten: %v, hidden: %v", err == nil, hidden == nil)
}

// A publisher of unfinished uploads cannot fill a bucket with what nobody can remove: only Retain locks.
func TestUploadsAreNotLocked(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestS3(t)
	s, _ := lockedBucket(t, server, s3store.LockCompliance)
	b := storetest.Bytes(32, 5000)
	finish(t, s, b)
	if err := s.Remove(t.Context(), digest.Of(b)); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

// An earlier, shorter lock is made longer; the same again changes nothing.
func TestLockIsOnlyMadeLonger(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestS3(t)
	s, cfg := lockedBucket(t, server, s3store.LockGovernance)
	b := storetest.Bytes(33, 100)
	finish(t, s, b)
	retain := func(cfg s3store.Config) time.Time {
		again := open(t, cfg)
		if err := again.Retain(t.Context(), digest.Of(b)); err != nil {
			t.Fatalf("Retain: %v", err)
		}
		until, err := again.Retained(t.Context(), digest.Of(b))
		if err != nil {
			t.Fatalf("Retained: %v", err)
		}
		return until
	}
	first := retain(cfg)
	cfg.LockFor = 24 * time.Hour
	if got := retain(cfg); !got.Equal(first) {
		t.Errorf("shorter lock: got %s, want %s", got, first)
	}
	cfg.LockFor = 240 * time.Hour
	if got := retain(cfg); !got.After(first.Add(100 * time.Hour)) {
		t.Errorf("longer lock: got %s", got)
	}
}

func TestLockNeedsALength(t *testing.T) {
	t.Parallel()
	good := s3store.Config{Endpoint: "https://127.0.0.1:1", Bucket: "bucket", AccessKey: "a", SecretKey: "s"}
	for name, spoil := range map[string]func(*s3store.Config){
		"unknown mode":    func(c *s3store.Config) { c.LockMode, c.LockFor = "strict", 48*time.Hour },
		"no length":       func(c *s3store.Config) { c.LockMode = s3store.LockCompliance },
		"an hour":         func(c *s3store.Config) { c.LockMode, c.LockFor = s3store.LockCompliance, time.Hour },
		"for ever":        func(c *s3store.Config) { c.LockMode, c.LockFor = s3store.LockCompliance, 200*365*24*time.Hour },
		"length alone":    func(c *s3store.Config) { c.LockFor = 48 * time.Hour },
		"public endpoint": func(c *s3store.Config) { c.PublicEndpoint = "https://x/y" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := s3store.Open(t.Context(), cfg); !errors.Is(err, s3store.ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, s3store.ErrConfig)
		}
	}
}
