package adminapi

import (
	"context"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// uploads knows which blobs this process is receiving. After a line broke, the request that was cut off is still making
// durable what arrived when the client asks on a new line how far the upload is; an answer before its end would have those
// bytes sent twice.
type uploads struct {
	mu   sync.Mutex
	open map[digest.SHA256]*receiving // guarded by mu
}

type receiving struct {
	requests int           // guarded by uploads.mu
	ended    chan struct{} // closed when the last of them has ended
}

// begin notes a request that brings bytes of a blob; the caller calls end after it.
func (u *uploads) begin(sum digest.SHA256) (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open == nil {
		u.open = map[digest.SHA256]*receiving{}
	}
	r := u.open[sum]
	if r == nil {
		r = &receiving{ended: make(chan struct{})}
		u.open[sum] = r
	}
	r.requests++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if r.requests--; r.requests == 0 {
			delete(u.open, sum)
			close(r.ended)
		}
	}
}

// settled waits until no request brings bytes of the blob, but not longer than limit: somebody else may be uploading it.
func (u *uploads) settled(ctx context.Context, sum digest.SHA256, limit time.Duration) {
	u.mu.Lock()
	r := u.open[sum]
	u.mu.Unlock()
	if r == nil {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
	case <-ctx.Done():
	}
}
