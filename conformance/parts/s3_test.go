package parts_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// askS3 is an unsigned request; any answer of the server is good.
func askS3(server *parts.S3) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.Roots()}, DisableKeepAlives: true}
	r, err := (&http.Client{Transport: transport}).Get(server.Endpoint())
	if err != nil {
		return err
	}
	return r.Body.Close()
}

func TestEachTestHasItsOwnBucket(t *testing.T) {
	t.Parallel()
	server, one := parts.TestS3(t)
	again, two := parts.TestS3(t)
	if server != again || one == two {
		t.Errorf("got buckets %q and %q, want two buckets of one server", one, two)
	}
	if err := askS3(server); err != nil {
		t.Error(err)
	}
}

func TestS3ComesBackAfterACrashAndStops(t *testing.T) {
	t.Parallel()
	testCrash(t, parts.StartS3)
}

func testCrash(t *testing.T, start func(context.Context, string) (*parts.S3, error)) {
	dir := t.TempDir()
	server, err := start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	bucket, err := server.NewBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, endpoint := server.PID(), server.Endpoint()
	server.Kill()
	if err := syscall.Kill(first, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("killed server: got %v, want no such process", err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.Endpoint() != endpoint || server.PID() == first {
		t.Errorf("got pid %d at %s, want another process at %s", server.PID(), server.Endpoint(), endpoint)
	}
	if err := askS3(server); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/data/" + bucket); err != nil {
		t.Errorf("bucket after the crash: %v", err)
	}
	for range 2 {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
	if err := askS3(server); err == nil {
		t.Error("a stopped server answers")
	}
}
