package deviceapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
)

// A key that is registered, and be it of a pending device, must not be able to fill the audit log at the door.
func TestDoorEventsAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	last := fmt.Sprintf("bytes=%d-", len(appraisetest.Bytes("lamp/1"))-1)
	for i := range 300 {
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
			t.Errorf("%d events %s of 300 requests", n, kind)
		}
	}
	before := count("artifact.refused")
	s.Advance(10 * time.Minute)
	body(t, c.do(t, s, http.MethodGet, path("lamp/9"), nil))
	if count("artifact.refused") != before+1 {
		t.Error("after a while refusals are not written down any more")
	}
}
