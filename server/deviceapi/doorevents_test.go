package deviceapi_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/deviceapi"
	"github.com/cordon-ota/cordon/server/store"
)

// A key that is registered, and be it of a pending device, must not be able to fill the audit log at the door.
func TestDoorEventsAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	last := fmt.Sprintf("bytes=%d-", len(appraisetest.Bytes("lamp/1"))-1)
	for i := range 100 {
		unknown := wire.PathArtifacts + "/" + digest.Of(fmt.Appendf(nil, "%d", i)).String()
		res := c.do(t, s, http.MethodGet, unknown, nil)
		if body(t, res); res.StatusCode != http.StatusForbidden {
			t.Fatalf("unknown artifact: got %d", res.StatusCode)
		}
		res = c.do(t, s, http.MethodGet, path("lamp/1"), nil, "Range", last)
		if body(t, res); res.StatusCode != http.StatusPartialContent {
			t.Fatalf("last byte: got %d", res.StatusCode)
		}
	}
	count := func(kind string) int {
		return len(slices.DeleteFunc(s.Events(d.ID), func(k string) bool { return k != kind }))
	}
	for _, kind := range []string{"artifact.refused", "artifact.served"} {
		if n := count(kind); n == 0 || n > 64 {
			t.Errorf("%d events %s of 100 requests", n, kind)
		}
	}
	before := count("artifact.refused")
	s.Advance(10 * time.Minute)
	body(t, c.do(t, s, http.MethodGet, path("lamp/9"), nil))
	if count("artifact.refused") != before+1 {
		t.Error("after a while refusals are not written down any more")
	}
}

// leaving is a store whose caller is gone by the time something is committed.
type leaving struct {
	deviceapi.Store
	tied *atomic.Int64
}

func (l leaving) Commit(ctx context.Context, change store.Change) error {
	if ctx.Done() != nil {
		l.tied.Add(1)
	}
	return l.Store.Commit(ctx, change)
}

// A device that hangs up with the last byte, or before it hears the refusal, does not take the event with it.
func TestHangingUpDoesNotSuppressTheEvent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var tied atomic.Int64
	s.api.Store = leaving{Store: s.api.Store, tied: &tied}
	d, c := device(t, s)
	body(t, c.do(t, s, http.MethodGet, path("lamp/1"), nil))
	body(t, c.do(t, s, http.MethodGet, path("lamp/9"), nil))
	got := s.Events(d.ID)
	if !slices.Contains(got, "artifact.refused") || tied.Load() > 0 {
		t.Errorf("%d events would be lost with the connection; events %v", tied.Load(), got)
	}
}
