package s3store_test

import (
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// What a crash leaves, a multipart upload or a tail that no state names, is found and removed; what a state names stays.
func TestLeftoversOfCrashesAreRemoved(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	orphan, live, tail := storetest.Bytes(50, 100), storetest.Bytes(51, s3store.PartBytes+100), storetest.Bytes(52, 100)
	core := bucket(t, cfg)
	if _, err := core.NewMultipartUpload(t.Context(), cfg.Bucket, cfg.Prefix+"/blobs/"+digest.Of(orphan).String(), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	write(t, s, live, 0, s3store.PartBytes+50)
	if _, err := core.NewMultipartUpload(t.Context(), cfg.Bucket, cfg.Prefix+"/blobs/"+digest.Of(live).String(), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	putKey(t, cfg, "uploads/"+digest.Of(tail).String()+".ABC", "xyz")
	putKey(t, cfg, "uploads/"+digest.Of(live).String()+".ABC", "xyz")

	found, err := s.Walk(t.Context(), artifacts.UnfinishedUploads, digest.SHA256{}, 10)
	if err != nil || len(found) != 3 {
		t.Fatalf("Walk: got %v, %v, want 3 uploads", found, err)
	}
	// The live upload moved just now: its own parts and tail stay, whatever their age.
	for _, d := range []digest.SHA256{digest.Of(orphan), digest.Of(tail)} {
		if removed, err := s.RemoveUpload(t.Context(), d, time.Now().Add(time.Minute)); err != nil || !removed {
			t.Errorf("RemoveUpload: got %v, %v", removed, err)
		}
	}
	if removed, err := s.RemoveUpload(t.Context(), digest.Of(live), time.Now().Add(-time.Minute)); err != nil || removed {
		t.Errorf("RemoveUpload of a young one: got %v, %v", removed, err)
	}
	wantUploaded(t, s, live, s3store.PartBytes+50)
	finish(t, s, live)
	wantBlob(t, s, live)
	if removed, err := s.RemoveUpload(t.Context(), digest.Of(live), time.Now().Add(time.Minute)); err != nil || !removed {
		t.Errorf("RemoveUpload of leftovers beside a blob: got %v, %v", removed, err)
	}
	wantBlob(t, s, live)
	wantKeys(t, cfg, 1)
}

// An upload that began long ago and still goes on keeps the parts of its beginning.
func TestSlowUploadKeepsItsParts(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	b := storetest.Bytes(53, 2*s3store.PartBytes)
	write(t, s, b, 0, s3store.PartBytes+1)
	for at := s3store.PartBytes + 1; ; at++ {
		write(t, s, b, at, at+1)
		found, err := s.Walk(t.Context(), artifacts.UnfinishedUploads, digest.SHA256{}, 10)
		if err != nil || len(found) != 1 {
			t.Fatalf("Walk: got %v, %v", found, err)
		}
		if !found[0].Modified.After(uploads(t, cfg)[0].Initiated.Add(time.Second)) {
			continue // the server's clock has to go on
		}
		if removed, err := s.RemoveUpload(t.Context(), digest.Of(b), found[0].Modified); err != nil || removed {
			t.Errorf("RemoveUpload: got %v, %v", removed, err)
		}
		wantUploaded(t, s, b, at+1)
		write(t, s, b, at+1, len(b))
		wantBlob(t, s, b)
		return
	}
}
