package s3store_test

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// killReader ends the server in the middle of an upload.
type killReader struct {
	r    io.Reader
	left int
	kill func()
}

func (k *killReader) Read(b []byte) (int, error) {
	n, err := k.r.Read(b[:min(len(b), 64<<10)])
	if k.left -= n; k.left <= 0 && k.kill != nil {
		k.kill()
		k.kill = nil
	}
	return n, err
}

func TestUploadSurvivesKilledServer(t *testing.T) {
	t.Parallel()
	server, err := parts.StartS3(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Stop() }()
	name, err := server.NewBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(server, name)
	s := open(t, cfg)
	b := storetest.Bytes(30, 4*s3store.PartBytes+1)
	d, size := digest.Of(b), int64(len(b))
	if err := s.Create(t.Context(), "before", []byte("the crash")); err != nil {
		t.Fatal(err)
	}

	at, err := s.Write(t.Context(), d, size, 0, &killReader{bytes.NewReader(b), 2*s3store.PartBytes + s3store.PartBytes/2, server.Kill})
	wantErr(t, "Write", err, artifacts.ErrUnavailable)
	if at < s3store.PartBytes || at > 3*s3store.PartBytes {
		t.Errorf("offset beside the error: got %d, want a part or more", at)
	}
	_, err = s.Uploaded(t.Context(), d, size)
	wantErr(t, "Uploaded without a server", err, artifacts.ErrUnavailable)
	wantErr(t, "Remove without a server", s.Remove(t.Context(), d), artifacts.ErrUnavailable)
	_, _, err = s.Load(t.Context(), "before")
	wantErr(t, "Load without a server", err, artifacts.ErrUnavailable)

	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	stands, err := s.Uploaded(t.Context(), d, size)
	if err != nil || stands < at {
		t.Errorf("Uploaded: got %d, %v, want at least the %d that Write returned", stands, err, at)
	}
	wantErr(t, "Stat", statErr(t, s, d), artifacts.ErrNotFound)
	if end, err := s.Write(t.Context(), d, size, stands, bytes.NewReader(b[stands:])); err != nil || end != size {
		t.Errorf("Write: got %d, %v, want %d", end, err, size)
	}
	wantBlob(t, s, b)
	if got, _, err := s.Load(t.Context(), "before"); err != nil || string(got) != "the crash" {
		t.Errorf("Load: got %q, %v", got, err)
	}
	wantKeys(t, cfg, 1)
}

// stream gives the same bytes in every run, without keeping them.
type stream struct {
	random *rand.ChaCha8
	left   int64
}

func newStream(n int64) *stream { return &stream{rand.NewChaCha8([32]byte{1}), n} }

func (s *stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.random.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	return n, err
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// Not parallel: what other tests allocate would count. Everything ever allocated counts, freed or not, so the bound
// also holds for what is in use at any moment.
func TestLargeBlobNeedsLittleMemory(t *testing.T) {
	const size, bound = 100 << 20, 32 << 20
	h := sha256.New()
	if _, err := io.Copy(h, newStream(size)); err != nil {
		t.Fatal(err)
	}
	d := digest.SHA256(h.Sum(nil))
	s, _ := newStore(t)

	before := allocated()
	at, err := s.Write(t.Context(), d, size, 0, newStream(size))
	if err != nil || at != size {
		t.Fatalf("Write: got %d, %v", at, err)
	}
	if got := allocated() - before; got > bound {
		t.Errorf("writing %d bytes allocated %d, want at most %d", size, got, bound)
	}

	before = allocated()
	if got := readSum(t, s, d); got != d {
		t.Errorf("read: got digest %s, want %s", got, d)
	}
	if got := allocated() - before; got > bound/8 {
		t.Errorf("reading %d bytes allocated %d, want at most %d", size, got, bound/8)
	}
}

func readSum(t *testing.T, s artifacts.Store, d digest.SHA256) digest.SHA256 {
	t.Helper()
	r, err := s.Open(t.Context(), d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var h hash.Hash = sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return digest.SHA256(h.Sum(nil))
}
