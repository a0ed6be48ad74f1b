//go:build interop

package s3store_test

import (
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// The contract on MinIO, and on buckets with versioning and object lock of both servers.
func TestContractOnOtherServers(t *testing.T) {
	t.Parallel()
	minIO, _ := parts.TestMinIO(t)
	versity, _ := parts.TestS3(t)
	for name, test := range map[string]struct {
		server *parts.S3
		locked bool
		change func(*s3store.Config)
	}{
		"MinIO":            {minIO, false, func(*s3store.Config) {}},
		"MinIONoChecksums": {minIO, false, func(c *s3store.Config) { c.OmitChecksums, c.Prefix = true, "" }},
		"MinIOLocked":      {minIO, true, func(*s3store.Config) {}},
		"VersityLocked":    {versity, true, func(*s3store.Config) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var configs sync.Map
			storetest.Run(t, func(t *testing.T) artifacts.Store {
				cfg := newConfig(t, test.server, test.locked)
				test.change(&cfg)
				s := open(t, cfg)
				configs.Store(s, cfg)
				return s
			}, storetest.WithReopen(func(t *testing.T, s artifacts.Store) artifacts.Store {
				cfg, _ := configs.Load(s)
				again := open(t, cfg.(s3store.Config))
				configs.Store(again, cfg)
				return again
			}))
		})
	}
}

func newConfig(t *testing.T, server *parts.S3, locked bool) s3store.Config {
	t.Helper()
	make := server.NewBucket
	if locked {
		make = server.NewLockedBucket
	}
	name, err := make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return config(server, name)
}

func TestMinIOLockedBlobCannotBeRemoved(t *testing.T) {
	t.Parallel()
	server, _ := parts.TestMinIO(t)
	testLock(t, server)
}

func TestMinIOListBeyondOnePage(t *testing.T) {
	t.Parallel()
	testListBeyondOnePage(t, open(t, config(parts.TestMinIO(t))))
}

func TestMinIOPresignedURLOpensOneRangeOfOneBlob(t *testing.T) {
	t.Parallel()
	cfg := config(parts.TestMinIO(t))
	testPresign(t, open(t, cfg), cfg)
}
