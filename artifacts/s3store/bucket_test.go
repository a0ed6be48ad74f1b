package s3store_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// bucket looks at the store from outside.
func bucket(t testing.TB, cfg s3store.Config) *minio.Core {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cfg.Roots}}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := minio.NewCore(strings.TrimPrefix(cfg.Endpoint, "https://"), &minio.Options{
		Creds:  credentials.NewStaticV4(strings.TrimSpace(cfg.AccessKey), strings.TrimSpace(cfg.SecretKey), ""),
		Secure: true, Region: cfg.Region, BucketLookup: minio.BucketLookupPath, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keys(t testing.TB, cfg s3store.Config, part string) []string {
	t.Helper()
	var found []string
	for o := range bucket(t, cfg).ListObjectsIter(t.Context(), cfg.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if strings.Contains(o.Key, part) {
			found = append(found, o.Key)
		}
	}
	return found
}

// wantKeys checks that there are so many blobs and nothing of any upload.
func wantKeys(t testing.TB, cfg s3store.Config, blobs int) {
	t.Helper()
	if got := keys(t, cfg, "blobs/"); len(got) != blobs {
		t.Errorf("blobs: got %q, want %d", got, blobs)
	}
	if got := keys(t, cfg, "uploads/"); len(got) != 0 {
		t.Errorf("an ended upload left %q", got)
	}
	if got := uploads(t, cfg); len(got) != 0 {
		t.Errorf("an ended upload left %d multipart uploads", len(got))
	}
}

func uploads(t testing.TB, cfg s3store.Config) []minio.ObjectMultipartInfo {
	t.Helper()
	list, err := bucket(t, cfg).ListMultipartUploads(t.Context(), cfg.Bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list.Uploads
}

func abortUploads(t *testing.T, cfg s3store.Config, _ digest.SHA256) {
	t.Helper()
	for _, u := range uploads(t, cfg) {
		if err := bucket(t, cfg).AbortMultipartUpload(t.Context(), cfg.Bucket, u.Key, u.UploadID); err != nil {
			t.Fatal(err)
		}
	}
}

func overwritePart(t *testing.T, cfg s3store.Config, d digest.SHA256, b []byte) {
	t.Helper()
	for _, u := range uploads(t, cfg) {
		if !strings.HasSuffix(u.Key, d.String()) {
			continue
		}
		header := http.Header{"X-Amz-Checksum-Sha256": {checksum(b)}}
		_, err := bucket(t, cfg).PutObjectPart(t.Context(), cfg.Bucket, u.Key, u.UploadID, 1, bytes.NewReader(b), int64(len(b)),
			minio.PutObjectPartOptions{Sha256Hex: digest.Of(b).String(), CustomHeader: header})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no multipart upload")
}

func removeKeys(t *testing.T, cfg s3store.Config, part string) {
	t.Helper()
	found := keys(t, cfg, part)
	if len(found) == 0 {
		t.Fatalf("there is no key with %q", part)
	}
	for _, key := range found {
		if err := bucket(t, cfg).RemoveObject(t.Context(), cfg.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func putKey(t *testing.T, cfg s3store.Config, key, text string) {
	t.Helper()
	_, err := bucket(t, cfg).PutObject(t.Context(), cfg.Bucket, cfg.Prefix+"/"+key, strings.NewReader(text), int64(len(text)), "", "", minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// damageKeys changes bytes and keeps their number and, as a failing disk does, the metadata.
func damageKeys(t *testing.T, cfg s3store.Config, part string, metadata bool) {
	t.Helper()
	found := keys(t, cfg, part)
	if len(found) == 0 {
		t.Fatalf("there is no key with %q", part)
	}
	for _, key := range found {
		info, err := bucket(t, cfg).StatObject(t.Context(), cfg.Bucket, key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !metadata {
			info.UserMetadata = nil
		}
		b := bytes.Repeat([]byte("x"), int(info.Size))
		_, err = bucket(t, cfg).PutObject(t.Context(), cfg.Bucket, key, bytes.NewReader(b), info.Size, "", "", minio.PutObjectOptions{UserMetadata: info.UserMetadata})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func checksum(b []byte) string {
	d := digest.Of(b)
	return base64.StdEncoding.EncodeToString(d[:])
}
