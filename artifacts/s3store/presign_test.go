package s3store_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// asks sends a request as somebody who has nothing but the URL.
func asks(t testing.TB, cfg s3store.Config, method, u, rangeHeader string, body io.Reader) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, u, body)
	if err != nil {
		t.Fatal(err)
	}
	if rangeHeader != "" {
		req.Header.Set("Range", rangeHeader)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cfg.Roots}}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
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

func presign(t testing.TB, s *s3store.Store, b []byte, rangeHeader string, life time.Duration) string {
	t.Helper()
	u, err := s.Presign(t.Context(), digest.Of(b), rangeHeader, life)
	if err != nil {
		t.Fatalf("Presign: %v", err)
	}
	return u
}

func TestPresignedURLOpensOneRangeOfOneBlob(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	testPresign(t, s, cfg)
}

// testPresign tries everything else that somebody with the URL could ask for.
func testPresign(t *testing.T, s *s3store.Store, cfg s3store.Config) {
	b, other := storetest.Bytes(40, 5000), storetest.Bytes(41, 5000)
	finish(t, s, b)
	finish(t, s, other)
	for rangeHeader, want := range map[string][]byte{"bytes=0-": b, "bytes=100-": b[100:], "bytes=7-9": b[7:10]} {
		u := presign(t, s, b, rangeHeader, 30*time.Second)
		if status, got := asks(t, cfg, http.MethodGet, u, rangeHeader, nil); status != http.StatusPartialContent || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d and %d bytes, want 206 and %d", rangeHeader, status, len(got), len(want))
		}
	}
	u := presign(t, s, b, "bytes=100-200", 30*time.Second)
	change := func(name, value string) string {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		q := parsed.Query()
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
		parsed.RawQuery = q.Encode()
		return parsed.String()
	}
	for name, try := range map[string]struct{ method, url, rangeHeader string }{
		"other range":      {"GET", u, "bytes=100-201"},
		"whole blob":       {"GET", u, ""},
		"other blob":       {"GET", strings.Replace(u, digest.Of(b).String(), digest.Of(other).String(), 1), "bytes=100-200"},
		"folder":           {"GET", strings.Replace(u, "/blobs/"+digest.Of(b).String(), "", 1), "bytes=100-200"},
		"PUT":              {"PUT", u, "bytes=100-200"},
		"DELETE":           {"DELETE", u, "bytes=100-200"},
		"longer life":      {"GET", change("X-Amz-Expires", "604800"), "bytes=100-200"},
		"other signature":  {"GET", change("X-Amz-Signature", strings.Repeat("0", 64)), "bytes=100-200"},
		"no signature":     {"GET", change("X-Amz-Signature", ""), "bytes=100-200"},
		"range not signed": {"GET", change("X-Amz-SignedHeaders", "host"), "bytes=0-"},
	} {
		var body io.Reader
		if try.method == http.MethodPut {
			body = strings.NewReader("x")
		}
		if status, got := asks(t, cfg, try.method, try.url, try.rangeHeader, body); status < 400 || bytes.Contains(b, got) {
			t.Errorf("%s: got %d and %d bytes", name, status, len(got))
		}
	}
	wantBlob(t, s, b)
}

func TestPresignedURLExpires(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	b := storetest.Bytes(42, 100)
	finish(t, s, b)
	u := presign(t, s, b, "bytes=0-", time.Second)
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(200 * time.Millisecond); ; <-tick.C {
		status, _ := asks(t, cfg, http.MethodGet, u, "bytes=0-", nil)
		if status == http.StatusForbidden {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a URL that was made for a second still answers %d", status)
		}
	}
}

func TestPresignRefusesWhatLivesTooLong(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	for name, ask := range map[string]struct {
		rangeHeader string
		life        time.Duration
	}{"61 s": {"bytes=0-", 61 * time.Second}, "0 s": {"bytes=0-", 0}, "no range": {"", time.Second}} {
		if u, err := s.Presign(t.Context(), digest.Of(nil), ask.rangeHeader, ask.life); err == nil {
			t.Errorf("%s: got %s", name, u)
		}
	}
}

func TestPresignUsesThePublicEndpoint(t *testing.T) {
	t.Parallel()
	cfg := config(parts.TestS3(t))
	cfg.PublicEndpoint = "https://downloads.example:444"
	u := presign(t, open(t, cfg), nil, "bytes=0-", time.Second)
	if !strings.HasPrefix(u, "https://downloads.example:444/"+cfg.Bucket+"/cordon/test/blobs/") {
		t.Errorf("got %s", u)
	}
}
