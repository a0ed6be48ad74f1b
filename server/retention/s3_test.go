package retention_test

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
)

// In a bucket with object lock a published image is locked. Pruned, and long past the grace, it is reported as kept and
// stays; what was never published goes, also half of it.
func TestLockedImagesOutliveTheirRelease(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestS3(t)
	bucket, err := server.NewLockedBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	access, secret := server.Keys()
	blobs, err := s3store.Open(t.Context(), s3store.Config{Endpoint: server.Endpoint(), Bucket: bucket, Region: server.Region(), AccessKey: access,
		SecretKey: secret, Roots: server.Roots(), PathStyle: true, LockMode: s3store.LockCompliance, LockFor: 240 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	upload := func(b []byte, n int) digest.SHA256 {
		if _, err := blobs.Write(t.Context(), digest.Of(b), int64(len(b)), 0, bytes.NewReader(b[:n])); err != nil {
			t.Fatal(err)
		}
		return digest.Of(b)
	}
	w := repositorytest.New(t)
	w.Pass(time.Since(w.Now()))
	s := w.ServiceOn(w.Store, blobs)
	if _, err := s.Apply(t.Context(), "alice", w.First(w.Policy("lamp"))); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	drafts := map[string]*repositorytest.Draft{}
	for i, version := range []string{"1", "2"} {
		d := w.Draft("lamp", version, uint64(i)+1)
		for _, b := range [][]byte{d.Image, w.ValuesOf(d), w.SBOMOf(d)} {
			upload(b, len(b))
		}
		if _, err := s.Publish(t.Context(), "robot", d.Signed(w.Publisher)); err != nil {
			t.Fatalf("Publish: %v", err)
		}
		drafts[version] = d
	}
	unused, half := []byte("never published"), []byte("never published, and half of it")
	upload(unused, len(unused))
	upload(half, 5)

	w.Pass(8 * 24 * time.Hour)
	w.Load(s)
	gc := retention.New(w.Store, blobs, s, settings, w.Now, slog.New(slog.DiscardHandler), func(retention.Result) {})
	if _, err := gc.Prune(t.Context(), "alice", "lamp/1", "too old"); err != nil {
		t.Fatalf("Prune: %v", err)
	}
	w.Pass(25 * time.Hour)
	plan, err := gc.Plan(t.Context())
	if err != nil || plan.Removable != 1 || len(plan.Blobs) != 2 || len(plan.Uploads) != 1 {
		t.Errorf("Plan: got %+v, %v", plan, err)
	}
	if r := collect(t, gc); r.Blobs != 1 || r.Uploads != 1 || r.Retained != 1 {
		t.Errorf("Collect: got %+v", r)
	}
	image := drafts["1"].Release.Components[0].SHA256
	if until, err := blobs.Retained(t.Context(), image); err != nil || until.IsZero() {
		t.Errorf("the image of the pruned release: got %s, %v", until, err)
	}
	if _, err := blobs.Stat(t.Context(), digest.Of(unused)); err == nil {
		t.Error("the unused blob is still there")
	}
}
