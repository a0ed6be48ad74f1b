package deviceapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/deviceapi"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// redirecting is a server whose artifacts lie in a bucket, for the product lamp past the door.
func redirecting(t *testing.T) (server, *http.Client) {
	t.Helper()
	s := newServer(t)
	s3, bucket := parts.TestS3(t)
	access, secret := s3.Keys()
	blobs, err := s3store.Open(t.Context(), s3store.Config{Endpoint: s3.Endpoint(), Bucket: bucket, Region: s3.Region(), AccessKey: access, SecretKey: secret,
		Roots: s3.Roots(), PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lamp/1", "lamp/2", "lamp/rescue"} {
		b := appraisetest.Bytes(name)
		if _, err := blobs.Write(t.Context(), digest.Of(b), int64(len(b)), 0, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	s.api.Blobs = blobs
	s.api.Redirects = deviceapi.Redirects{Presigner: blobs, Products: []string{"lamp"}, Life: 30 * time.Second}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s3.Roots()}}
	t.Cleanup(transport.CloseIdleConnections)
	return s, &http.Client{Transport: transport}
}

// unfollowed asks the door and returns what it says, without following.
func unfollowed(t *testing.T, s server, c *client, name string, header ...string) *http.Response {
	t.Helper()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c.do(t, s, http.MethodGet, path(name), nil, header...)
}

func fetch(t *testing.T, c *http.Client, u, rangeHeader string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", rangeHeader)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, b
}

func TestDoorRedirectsWhoCanFollow(t *testing.T) {
	t.Parallel()
	s, elsewhere := redirecting(t)
	d, c := device(t, s)
	all := appraisetest.Bytes("lamp/2")
	for rangeHeader, want := range map[string][]byte{"bytes=0-": all, "bytes=100-": all[100:], "bytes=5-9": all[5:10]} {
		res := unfollowed(t, s, c, "lamp/2", wire.HeaderRedirect, "1", "Range", rangeHeader)
		if b := body(t, res); res.StatusCode != http.StatusTemporaryRedirect || len(b) > 0 || res.Header.Get("Cache-Control") != "private, no-store" {
			t.Fatalf("%s: got %d %q, %v", rangeHeader, res.StatusCode, b, res.Header)
		}
		location := res.Header.Get("Location")
		if status, got := fetch(t, elsewhere, location, rangeHeader); status != http.StatusPartialContent || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d and %d bytes, want %d", rangeHeader, status, len(got), len(want))
		}
		if status, _ := fetch(t, elsewhere, location, "bytes=1-"); status != http.StatusForbidden {
			t.Errorf("%s: another range answers %d", rangeHeader, status)
		}
	}
	if n := len(slices.DeleteFunc(s.Events(d.ID), func(k string) bool { return k != "artifact.presigned" })); n != 3 {
		t.Errorf("%d events, want one for each URL", n)
	}
}

// Clients from before redirects, and products that have not opted in, are served as ever.
func TestDoorServesWhoCannotFollow(t *testing.T) {
	t.Parallel()
	s, _ := redirecting(t)
	_, c := device(t, s)
	all := appraisetest.Bytes("lamp/2")
	want := func(what string, header ...string) {
		t.Helper()
		res := unfollowed(t, s, c, "lamp/2", header...)
		if got := body(t, res); res.StatusCode/100 != 2 || !bytes.Equal(got, all) {
			t.Errorf("%s: got %d and %d bytes", what, res.StatusCode, len(got))
		}
	}
	want("a client of v1")
	want("a client of v1 with a range", "Range", "bytes=0-")
	want("no range to sign", wire.HeaderRedirect, "1")
	s.api.Redirects.Products = []string{"pump"}
	want("a product that has not opted in", wire.HeaderRedirect, "1", "Range", "bytes=0-")
	s.api.Redirects = deviceapi.Redirects{}
	want("nothing configured", wire.HeaderRedirect, "1", "Range", "bytes=0-")
}

// The door decides before it redirects: who may not read, gets no URL. What it cannot do is take a URL back: until that
// expires, a quarantined device reads on.
func TestRedirectIsAuthorisedLikeEveryRange(t *testing.T) {
	t.Parallel()
	s, elsewhere := redirecting(t)
	d, c := device(t, s)
	ask := []string{wire.HeaderRedirect, "1", "Range", "bytes=0-"}
	wantProblem(t, "not offered", unfollowed(t, s, c, "lamp/9", ask...), http.StatusForbidden, reason.ReleaseUnknown)
	res := unfollowed(t, s, c, "lamp/2", ask...)
	body(t, res)
	given := res.Header.Get("Location")
	step := fleet.Isolate(d.Row(), nil, "alice", "looks odd", s.Now())
	if err := s.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: step.Device}, store.PutQuarantine{Quarantine: *step.Quarantine}}}); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "quarantined", unfollowed(t, s, c, "lamp/2", ask...), http.StatusForbidden, reason.DeviceQuarantined)
	if status, got := fetch(t, elsewhere, given, "bytes=0-"); status != http.StatusPartialContent || !bytes.Equal(got, appraisetest.Bytes("lamp/2")) {
		t.Errorf("a URL from before the quarantine: got %d; the threat model says that it still opens", status)
	}
	res = unfollowed(t, s, c, "lamp/rescue", ask...)
	body(t, res)
	if res.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("recovery: got %d", res.StatusCode)
	}
}

// forgetful is a database that loses events.
type forgetful struct{ deviceapi.Store }

func (forgetful) Commit(context.Context, store.Change) error { return errors.New("injected failure") }

// brokenPresigner cannot sign, and says for how long it was asked to.
type brokenPresigner struct{ life time.Duration }

func (b *brokenPresigner) Presign(_ context.Context, _ digest.SHA256, _ string, life time.Duration) (string, error) {
	b.life = life
	return "", errors.New("injected failure")
}

func TestNoRedirectThatCannotBeWrittenDown(t *testing.T) {
	t.Parallel()
	s, _ := redirecting(t)
	d, c := device(t, s)
	ask := []string{wire.HeaderRedirect, "1", "Range", "bytes=0-"}
	real := s.api.Store
	s.api.Store = forgetful{real}
	res := unfollowed(t, s, c, "lamp/2", ask...)
	if b := body(t, res); res.StatusCode != http.StatusPartialContent || len(b) == 0 {
		t.Errorf("without its event: got %d", res.StatusCode)
	}
	s.api.Store = real
	redirects := 0
	for range 100 {
		res := unfollowed(t, s, c, "lamp/2", ask...)
		if body(t, res); res.StatusCode == http.StatusTemporaryRedirect {
			redirects++
		}
	}
	events := len(slices.DeleteFunc(s.Events(d.ID), func(k string) bool { return k != "artifact.presigned" }))
	if redirects == 0 || redirects > 40 || events != redirects {
		t.Errorf("%d URLs with %d events of 100 requests", redirects, events)
	}
	broken := &brokenPresigner{}
	s.api.Redirects.Presigner, s.api.Redirects.Life = broken, time.Hour
	res = unfollowed(t, s, c, "lamp/1", ask...)
	if body(t, res); res.StatusCode != http.StatusPartialContent || broken.life != time.Minute {
		t.Errorf("a presigner that fails: got %d, asked for a life of %s, want at most a minute", res.StatusCode, broken.life)
	}
	if strings.Contains(res.Header.Get("Location"), "http") {
		t.Error("a location beside the bytes")
	}
}
