package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// blobSize spans several pieces of any sensible buffer and is no round number.
const blobSize = 3<<20 + 12345

var blobTests = map[string]func(*testing.T, artifacts.Store){
	"BlobNotThere":          testBlobNotThere,
	"BlobRanges":            testBlobRanges,
	"BlobReaderEndsWithCtx": testBlobReaderEndsWithContext,
	"BlobRemove":            testBlobRemove,
	"BlobRemoveWhileRead":   testBlobRemoveWhileRead,
	"BlobOfOneByte":         testBlobOfOneByte,
	"BlobSizeRefused":       testBlobSizeRefused,
	"BlobOtherSize":         testBlobOtherSize,
	"BlobCancelled":         testBlobCancelled,
}

func testBlobNotThere(t *testing.T, s artifacts.Store) {
	d := digest.Of([]byte("nobody wrote this"))
	wantNoBlob(t, s, d)
	wantUploaded(t, s, d, 10, 0)
	if err := s.Remove(t.Context(), d); err != nil {
		t.Errorf("Remove of nothing: %v", err)
	}
}

func testBlobRanges(t *testing.T, s artifacts.Store) {
	b := Bytes(1, blobSize)
	d := put(t, s, b)
	for _, r := range []struct{ offset, length, end int64 }{
		{0, -1, blobSize}, {0, 0, 0}, {0, 1, 1}, {1 << 20, 100, 1<<20 + 100}, {blobSize - 1, -1, blobSize},
		{blobSize, -1, blobSize}, {blobSize, 10, blobSize}, {blobSize - 5, 1 << 40, blobSize},
	} {
		if got, want := read(t, s, d, r.offset, r.length), b[r.offset:r.end]; !bytes.Equal(got, want) {
			t.Errorf("range %d+%d: got %d bytes, want %d", r.offset, r.length, len(got), len(want))
		}
	}
	for _, r := range []struct{ offset, length int64 }{{-1, -1}, {blobSize + 1, -1}, {blobSize + 1, 0}, {0, -2}} {
		body, err := s.Open(t.Context(), d, r.offset, r.length)
		if err == nil {
			_ = body.Close()
		}
		wantErr(t, "Open outside", err, artifacts.ErrOffset)
	}
}

func testBlobReaderEndsWithContext(t *testing.T, s artifacts.Store) {
	b := Bytes(2, blobSize)
	d := put(t, s, b)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("read after cancel: got %v, want %v", err, context.Canceled)
	}
}

func testBlobRemove(t *testing.T, s artifacts.Store) {
	b := Bytes(3, 1000)
	d := put(t, s, b)
	for range 2 {
		if err := s.Remove(t.Context(), d); err != nil {
			t.Errorf("Remove: %v", err)
		}
		wantNoBlob(t, s, d)
		wantUploaded(t, s, d, len(b), 0)
	}
	put(t, s, b)
	wantBlob(t, s, b)

	c := Bytes(4, blobSize)
	write(t, s, digest.Of(c), c, 0, 2<<20)
	if err := s.Remove(t.Context(), digest.Of(c)); err != nil {
		t.Errorf("Remove of an unfinished upload: %v", err)
	}
	wantUploaded(t, s, digest.Of(c), len(c), 0)
	wantBlob(t, s, b)
}

func testBlobRemoveWhileRead(t *testing.T, s artifacts.Store) {
	b := Bytes(5, blobSize)
	d := put(t, s, b)
	r, err := s.Open(t.Context(), d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	// The reader may go on or fail; it must not give other bytes and call that the end.
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, b) {
		t.Errorf("reader of a removed blob gave %d other bytes without an error", len(got))
	}
}

func testBlobOfOneByte(t *testing.T, s artifacts.Store) {
	put(t, s, []byte{7})
	wantBlob(t, s, []byte{7})
}

func testBlobSizeRefused(t *testing.T, s artifacts.Store) {
	d := digest.Of(nil)
	for size, want := range map[int64]error{
		0: artifacts.ErrLengthMismatch, -1: artifacts.ErrLengthMismatch, artifacts.MaxImageBytes + 1: artifacts.ErrTooLarge,
	} {
		_, err := s.Write(t.Context(), d, size, 0, bytes.NewReader(nil))
		wantErr(t, "Write", err, want)
		_, err = s.Uploaded(t.Context(), d, size)
		wantErr(t, "Uploaded", err, want)
	}
	wantNoBlob(t, s, d)
}

func testBlobOtherSize(t *testing.T, s artifacts.Store) {
	b := Bytes(6, 1000)
	d := put(t, s, b)
	_, err := s.Uploaded(t.Context(), d, 999)
	wantErr(t, "Uploaded", err, artifacts.ErrLengthMismatch)
	_, err = s.Write(t.Context(), d, 1001, 0, bytes.NewReader(b))
	wantErr(t, "Write", err, artifacts.ErrLengthMismatch)
	wantBlob(t, s, b)
}

func testBlobCancelled(t *testing.T, s artifacts.Store) {
	b := Bytes(7, 1000)
	d := put(t, s, b)
	ctx := cancelled(t)
	_, err := s.Uploaded(ctx, d, 1000)
	wantErr(t, "Uploaded", err, context.Canceled)
	_, err = s.Write(ctx, digest.Of([]byte("x")), 1, 0, bytes.NewReader([]byte("x")))
	wantErr(t, "Write", err, context.Canceled)
	_, err = s.Stat(ctx, d)
	wantErr(t, "Stat", err, context.Canceled)
	_, err = s.Open(ctx, d, 0, -1)
	wantErr(t, "Open", err, context.Canceled)
	wantErr(t, "Remove", s.Remove(ctx, d), context.Canceled)
	wantBlob(t, s, b)
}
