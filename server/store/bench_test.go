package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// BenchmarkCommitParallel is the database's share of a durable warm attestation: one device row by compare-and-swap,
// one appraisal, for 64 devices at a time. The test server of PostgreSQL may run without fsync.
func BenchmarkCommitParallel(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			s := open(b, engines()[engine](b))
			var workers atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				id := fmt.Sprintf("device-%d", workers.Add(1))
				d := fleet.Device{ID: id, EKSPKI: digest.Of([]byte("ek" + id)), TLSKey: digest.Of([]byte("tls" + id)), LastAnswer: make([]byte, 300)}
				input := make([]byte, 2000)
				for version := int64(0); pb.Next(); version++ {
					d.Epoch = version
					appraisal := store.Appraisal{ID: digest.Of(fmt.Appendf(nil, "%s/%d", id, version)), Device: id, At: noon, Input: input}
					err := s.Commit(b.Context(), store.Change{
						Expect: []store.Expect{{Table: store.Devices, Key: id, Version: version}},
						Writes: []store.Write{store.PutDevice{Device: d}, store.AddAppraisal{Appraisal: appraisal}},
					})
					if err != nil {
						b.Errorf("Commit: %v", err)
						return
					}
				}
			})
		})
	}
}
