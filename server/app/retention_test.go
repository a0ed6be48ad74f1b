package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/app"
	"github.com/cordon-ota/cordon/server/config"
)

// inBucket is a configuration with artifacts in a bucket.
func inBucket(t *testing.T) config.Config {
	t.Helper()
	server, bucket := parts.TestS3(t)
	dir := t.TempDir()
	access, secret := server.Keys()
	for name, text := range map[string]string{"access": access, "secret": secret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := configured(t, filepath.Join(dir, "data"))
	c.Artifacts = ""
	c.S3 = config.S3{Endpoint: server.Endpoint(), Bucket: bucket, Region: server.Region(), AccessKeyFile: filepath.Join(dir, "access"),
		SecretKeyFile: filepath.Join(dir, "secret"), CAFile: server.CertificateFile(), PathStyle: true}
	return c
}

// Whoever provisions devices is told where the door may send them, and only when it may.
func TestStatusNamesDownloadsOnlyWhenTheyAreOn(t *testing.T) {
	t.Parallel()
	c := inBucket(t)
	off := start(t, c)
	if got := off.status(t).Downloads; got != nil {
		t.Errorf("off: got %+v", got)
	}
	if err := off.stop(); err != nil {
		t.Fatal(err)
	}
	c.Presign.Products = []string{"lamp"}
	got := start(t, c).status(t).Downloads
	if len(got) != 1 || "https://"+got[0].Host != c.S3.Endpoint || !strings.Contains(got[0].CA, "BEGIN CERTIFICATE") {
		t.Errorf("on: got %+v, want %s with its CA", got, c.S3.Endpoint)
	}
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Database = "sqlite:" + filepath.Join(t.TempDir(), "cordon.db")
	c.Presign.Endpoint = "https://downloads.example"
	if got := start(t, c).status(t).Downloads; len(got) != 1 || got[0].Host != "downloads.example:443" {
		t.Errorf("public endpoint: got %+v", got)
	}
}

func TestLockWithoutObjectLockIsAWarning(t *testing.T) {
	t.Parallel()
	c := inBucket(t)
	c.S3.LockMode, c.S3.LockDays = "compliance", 30
	if r := start(t, c); !strings.Contains(r.log.String(), "published images are not locked") {
		t.Errorf("log: got %s", r.log)
	}
}

// Garbage collection runs by itself, and an uninitialised server collects nothing.
func TestRetentionRunsByItself(t *testing.T) {
	t.Parallel()
	c := configured(t, t.TempDir())
	r := start(t, c)
	deadline := time.After(time.Minute)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		if _, body := get(t, "http://"+r.Addr(app.Metrics)+"/metrics"); strings.Contains(body, "cordon_retention_last_success_timestamp_seconds 1.") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no round came to its end")
		}
	}
}
