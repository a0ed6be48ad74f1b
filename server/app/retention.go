package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/deviceapi"
	"github.com/cordon-ota/cordon/server/retention"
)

// wireRetention joins the collection of garbage. It needs the metrics and the admin API.
func (a *App) wireRetention(blobs retention.Artifacts) {
	r, metrics := a.cfg.Retention, a.metrics
	done := func(result retention.Result) {
		metrics.Collected.SetToCurrentTime()
		metrics.Removed.WithLabelValues("blob").Add(float64(result.Blobs))
		metrics.Removed.WithLabelValues("upload").Add(float64(result.Uploads))
		metrics.RemovedBytes.Add(float64(result.Bytes))
	}
	var holder string
	if a.lock != nil { // the data directory, and the database in it, is this process's alone
		holder = "only server"
	}
	a.retention = retention.New(a.store, blobs, a.repository, retention.Config{
		Every: r.Every.Std(), Grace: r.Grace.Std(), Uploads: r.Uploads.Std(), KeepReleases: r.KeepReleases,
		Restored: a.epoch.RestoredAt, Holder: holder,
	}, a.opt.Now, a.opt.Log, done)
	a.admin.Retention = a.retention
}

// wireRedirects lets devices of some products read from the bucket itself, and says what trust bundles must name for it;
// nil when no product does.
func (a *App) wireRedirects(ctx context.Context, blobs retention.Artifacts) ([]wire.Download, error) {
	cfg := a.cfg.Presign
	if len(cfg.Products) == 0 {
		return nil, nil
	}
	presigner, ok := blobs.(deviceapi.Presigner)
	if !ok {
		return nil, errors.New("presign.products needs artifacts in a bucket")
	}
	// Whether the bucket stands in the host name is for the store to know.
	sample, err := presigner.Presign(ctx, digest.SHA256{}, "bytes=0-", time.Second)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(sample)
	if err != nil {
		return nil, fmt.Errorf("cannot read a presigned URL: %w", err)
	}
	d := wire.Download{Host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))}
	if file := cmp.Or(cfg.CAFile, a.cfg.S3.CAFile); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read presign.ca_file: %w", err)
		}
		d.CA = string(b)
	}
	if _, err := d.Pool(); err != nil {
		return nil, fmt.Errorf("presign.ca_file: %w", err)
	}
	a.device.Redirects = deviceapi.Redirects{Presigner: presigner, Products: cfg.Products, Life: cfg.Life.Std()}
	return []wire.Download{d}, nil
}

// collect runs garbage collection, unless the configuration leaves it to people.
func (a *App) collect(ctx context.Context) error {
	if a.cfg.Retention.Disabled {
		<-ctx.Done()
		return nil
	}
	return a.retention.Run(ctx)
}
