// Package storetest is the one contract suite that every artifacts.Store passes.
//
// It promises to hold each sentence of the comments on artifacts.Blobs, artifacts.Names and artifacts.Walker; it refuses
// to know how a store works inside. It is imported by tests only.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Option changes what Run can check.
type Option func(*suite)

// WithReopen lets the suite check what survives a restart: reopen gets a store that is no longer used and returns
// another one over the same data.
func WithReopen(reopen func(t *testing.T, s artifacts.Store) artifacts.Store) Option {
	return func(s *suite) { s.reopen = reopen }
}

type suite struct {
	open   func(t *testing.T) artifacts.Store
	reopen func(t *testing.T, s artifacts.Store) artifacts.Store
}

// Run checks the contract. Each test gets an own empty store from open.
func Run(t *testing.T, open func(t *testing.T) artifacts.Store, options ...Option) {
	s := &suite{open: open}
	for _, o := range options {
		o(s)
	}
	for _, tests := range []map[string]func(*testing.T, artifacts.Store){blobTests, uploadTests, nameTests, walkTests} {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s.open(t))
			})
		}
	}
	if s.reopen == nil {
		return
	}
	for name, test := range reopenTests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s.open(t), s.reopen)
		})
	}
}

// Bytes returns n bytes that are the same in every run and differ between seeds.
func Bytes(seed uint64, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(out) < n; i++ {
		var block [16]byte
		binary.BigEndian.PutUint64(block[:8], seed)
		binary.BigEndian.PutUint64(block[8:], i)
		sum := sha256.Sum256(block[:])
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// put uploads b in one piece.
func put(t *testing.T, s artifacts.Store, b []byte) digest.SHA256 {
	t.Helper()
	d := digest.Of(b)
	write(t, s, d, b, 0, len(b))
	return d
}

// write uploads b[from:to] of the blob b.
func write(t *testing.T, s artifacts.Store, d digest.SHA256, b []byte, from, to int) {
	t.Helper()
	at, err := s.Write(t.Context(), d, int64(len(b)), int64(from), bytes.NewReader(b[from:to]))
	if err != nil || at != int64(to) {
		t.Fatalf("Write from %d to %d: got %d, %v", from, to, at, err)
	}
}

func wantUploaded(t *testing.T, s artifacts.Store, d digest.SHA256, size, want int) {
	t.Helper()
	got, err := s.Uploaded(t.Context(), d, int64(size))
	if err != nil || got != int64(want) {
		t.Errorf("Uploaded: got %d, %v, want %d", got, err, want)
	}
}

// wantBlob checks that the blob is complete and has these bytes.
func wantBlob(t *testing.T, s artifacts.Store, b []byte) {
	t.Helper()
	d := digest.Of(b)
	size, err := s.Stat(t.Context(), d)
	if err != nil || size != int64(len(b)) {
		t.Errorf("Stat: got %d, %v, want %d", size, err, len(b))
	}
	if got := read(t, s, d, 0, -1); !bytes.Equal(got, b) {
		t.Errorf("Open: got other bytes (%d of them, want %d)", len(got), len(b))
	}
}

// wantNoBlob checks that nothing of the blob is readable.
func wantNoBlob(t *testing.T, s artifacts.Store, d digest.SHA256) {
	t.Helper()
	_, err := s.Stat(t.Context(), d)
	wantErr(t, "Stat", err, artifacts.ErrNotFound)
	r, err := s.Open(t.Context(), d, 0, -1)
	if err == nil {
		_ = r.Close()
	}
	wantErr(t, "Open", err, artifacts.ErrNotFound)
}

func read(t *testing.T, s artifacts.Store, d digest.SHA256, offset, length int64) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), d, offset, length)
	if err != nil {
		t.Fatalf("Open(%d, %d): %v", offset, length, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("read(%d, %d): %v", offset, length, err)
	}
	return b
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// cancelReader gives b and then ends the context, as a caller that goes away does.
type cancelReader struct {
	r      io.Reader
	cancel context.CancelFunc
}

func (c *cancelReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if err == io.EOF {
		c.cancel()
		return n, context.Canceled
	}
	return n, err
}

// failReader gives b and then an error, as a connection that breaks does.
type failReader struct {
	r   io.Reader
	err error
}

func (f *failReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err == io.EOF {
		return n, f.err
	}
	return n, err
}
