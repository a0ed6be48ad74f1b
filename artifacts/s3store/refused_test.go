package s3store_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// startDeaf is a server that ignores one request header, as S3 servers with gaps do.
func startDeaf(t *testing.T, header string) s3store.Config {
	t.Helper()
	var mu sync.Mutex
	objects := map[string][]byte{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		r.Header.Del(header)
		object, there := objects[r.URL.Path]
		w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
		w.Header().Set("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
		switch {
		case r.Method == http.MethodPut:
			if (r.Header.Get("If-None-Match") != "" && there) || r.Header.Get("If-Match") != "" {
				w.WriteHeader(http.StatusPreconditionFailed)
				return
			}
			objects[r.URL.Path], _ = io.ReadAll(r.Body)
		case there:
			_, _ = w.Write(object)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	cfg := s3store.Config{Endpoint: server.URL, Bucket: "bucket", AccessKey: "a", SecretKey: "s", PathStyle: true, Roots: x509.NewCertPool()}
	cfg.Roots.AddCert(server.Certificate())
	return cfg
}

// A server without conditional writes loses updates, so it is refused at the start.
func TestServerWithoutConditionsIsRefused(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"If-None-Match", "If-Match"} {
		_, err := s3store.Open(t.Context(), startDeaf(t, header))
		wantErr(t, header, err, s3store.ErrServer, artifacts.ErrUnavailable)
	}
}

// A server that ignores ranges would pass off the start of a blob as its middle.
func TestIgnoredRangeIsNoBlob(t *testing.T) {
	t.Parallel()
	s := open(t, startDeaf(t, "Range"))
	b := storetest.Bytes(50, 1000)
	finish(t, s, b)
	r, err := s.Open(t.Context(), digest.Of(b), 500, -1)
	if err == nil {
		_ = r.Close()
	}
	wantErr(t, "Open", err, artifacts.ErrUnavailable)
}

// Wrong bytes throw their own upload away, not the one that a rival has continued meanwhile.
func TestWrongBytesLeaveTheRivalAlone(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	rival := open(t, cfg)
	b := storetest.Bytes(51, 5000)
	bad := bytes.Clone(b)
	bad[4999] ^= 1
	write(t, s, b, 0, 1000)
	hook := func() { write(t, rival, b, 1000, 3000) }
	r := io.MultiReader(&hookReader{bytes.NewReader(bad[1000:2000]), hook}, bytes.NewReader(bad[2000:]))
	at, err := s.Write(t.Context(), digest.Of(b), 5000, 1000, r)
	wantErr(t, "Write", err, artifacts.ErrOffset)
	if at != 3000 || errors.Is(err, artifacts.ErrDigestMismatch) {
		t.Errorf("Write: got %d, %v, want the rival's 3000", at, err)
	}
	wantUploaded(t, rival, b, 3000)
	finish(t, rival, b)
	wantBlob(t, s, b)
}
