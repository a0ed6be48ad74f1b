package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/retention"
)

// openArtifacts opens the directory or the bucket that the configuration names.
func (a *App) openArtifacts(ctx context.Context) (retention.Artifacts, error) {
	s3 := a.cfg.S3
	if s3 == (config.S3{}) {
		return dirstore.Open(a.cfg.Artifacts)
	}
	access, err := os.ReadFile(s3.AccessKeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read s3.access_key_file: %w", err)
	}
	secret, err := os.ReadFile(s3.SecretKeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read s3.secret_key_file: %w", err)
	}
	roots, err := readRoots("s3.ca_file", s3.CAFile)
	if err != nil {
		return nil, err
	}
	store, err := s3store.Open(ctx, s3store.Config{
		Endpoint: s3.Endpoint, Bucket: s3.Bucket, Prefix: s3.Prefix, Region: s3.Region, AccessKey: string(access), SecretKey: string(secret),
		Roots: roots, PathStyle: s3.PathStyle, OmitChecksums: s3.OmitChecksums,
		IdleTimeout: s3.IdleTimeout.Std(), PublicEndpoint: a.cfg.Presign.Endpoint, LockMode: s3store.LockMode(s3.LockMode), LockFor: time.Duration(s3.LockDays) * 24 * time.Hour, Now: a.opt.Now,
	})
	if err != nil {
		return nil, err
	}
	if s3.LockMode != "" && !store.Features().ObjectLock {
		a.opt.Log.WarnContext(ctx, "published images are not locked: s3.lock_mode is set, and the bucket has no object lock", "bucket", s3.Bucket)
	}
	return store, nil
}

// readRoots reads the CA certificates that the configuration names under that key. Without a file it is nil, which means
// the system's.
func readRoots(key, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", key, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s %s holds no PEM certificate", key, path)
	}
	return pool, nil
}
