package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

var uploadTests = map[string]func(*testing.T, artifacts.Store){
	"UploadInPieces":        testUploadInPieces,
	"UploadIdempotent":      testUploadIdempotent,
	"UploadWrongOffset":     testUploadWrongOffset,
	"UploadDigestMismatch":  testUploadDigestMismatch,
	"UploadTooLong":         testUploadTooLong,
	"UploadConnectionBreak": testUploadConnectionBreak,
	"UploadCancelled":       testUploadCancelled,
	"UploadConcurrent":      testUploadConcurrent,
	"UploadStalled":         testUploadStalled,
	"UploadManyBlobs":       testUploadManyBlobs,
}

func testUploadInPieces(t *testing.T, s artifacts.Store) {
	b := Bytes(20, blobSize)
	d := digest.Of(b)
	for _, cut := range [][2]int{{0, 1}, {1, 1}, {1, 70_000}, {70_000, 2<<20 + 1}, {2<<20 + 1, blobSize - 1}} {
		write(t, s, d, b, cut[0], cut[1])
		wantUploaded(t, s, d, len(b), cut[1])
		wantNoBlob(t, s, d)
	}
	write(t, s, d, b, blobSize-1, blobSize)
	wantUploaded(t, s, d, len(b), len(b))
	wantBlob(t, s, b)
}

// errReader fails the test that reads from it.
type errReader struct{ t *testing.T }

func (r errReader) Read([]byte) (int, error) {
	r.t.Error("a complete blob was written by reading again")
	return 0, io.EOF
}

func testUploadIdempotent(t *testing.T, s artifacts.Store) {
	b := Bytes(21, blobSize)
	d := put(t, s, b)
	for _, offset := range []int64{0, 5, blobSize} {
		at, err := s.Write(t.Context(), d, blobSize, offset, errReader{t})
		if err != nil || at != blobSize {
			t.Errorf("Write of a complete blob at %d: got %d, %v", offset, at, err)
		}
	}
	wantBlob(t, s, b)
}

func testUploadWrongOffset(t *testing.T, s artifacts.Store) {
	b := Bytes(22, blobSize)
	d := digest.Of(b)
	at, err := s.Write(t.Context(), d, blobSize, 10, bytes.NewReader(b[10:]))
	wantErr(t, "Write to the middle of nothing", err, artifacts.ErrOffset)
	if at != 0 {
		t.Errorf("offset beside the error: got %d, want 0", at)
	}
	write(t, s, d, b, 0, 1<<20)
	for _, offset := range []int64{-1, 0, 1<<20 - 1, 1<<20 + 1, blobSize, blobSize + 1} {
		at, err := s.Write(t.Context(), d, blobSize, offset, bytes.NewReader(b[:10]))
		wantErr(t, "Write", err, artifacts.ErrOffset)
		if at != 1<<20 {
			t.Errorf("offset beside the error at %d: got %d, want %d", offset, at, 1<<20)
		}
	}
	write(t, s, d, b, 1<<20, blobSize)
	wantBlob(t, s, b)
}

func testUploadDigestMismatch(t *testing.T, s artifacts.Store) {
	b := Bytes(23, blobSize)
	d := digest.Of(b)
	bad := bytes.Clone(b)
	bad[blobSize/2] ^= 1
	write(t, s, d, bad, 0, blobSize-1)
	at, err := s.Write(t.Context(), d, blobSize, blobSize-1, bytes.NewReader(bad[blobSize-1:]))
	wantErr(t, "Write", err, artifacts.ErrDigestMismatch)
	if at != 0 {
		t.Errorf("offset beside the error: got %d, want 0", at)
	}
	wantNoBlob(t, s, d)
	wantNoBlob(t, s, digest.Of(bad))
	wantUploaded(t, s, d, blobSize, 0)
	put(t, s, b)
	wantBlob(t, s, b)
}

func testUploadTooLong(t *testing.T, s artifacts.Store) {
	b := Bytes(24, 5000)
	d := digest.Of(b)
	at, err := s.Write(t.Context(), d, 5000, 0, bytes.NewReader(append(bytes.Clone(b), 'x')))
	wantErr(t, "Write of one byte more", err, artifacts.ErrLengthMismatch)
	if at != 0 {
		t.Errorf("offset beside the error: got %d, want 0", at)
	}
	wantNoBlob(t, s, d)
	wantUploaded(t, s, d, 5000, 0)
	put(t, s, b)
	wantBlob(t, s, b)
}

func testUploadConnectionBreak(t *testing.T, s artifacts.Store) {
	b := Bytes(25, blobSize)
	d := digest.Of(b)
	broken := errors.New("connection reset")
	at, err := s.Write(t.Context(), d, blobSize, 0, &failReader{bytes.NewReader(b[:2<<20+7]), broken})
	wantErr(t, "Write", err, broken)
	continueFrom(t, s, b, at)
}

func testUploadCancelled(t *testing.T, s artifacts.Store) {
	b := Bytes(26, blobSize)
	d := digest.Of(b)
	ctx, cancel := context.WithCancel(t.Context())
	at, err := s.Write(ctx, d, blobSize, 0, &cancelReader{bytes.NewReader(b[:2<<20+7]), cancel})
	wantErr(t, "Write", err, context.Canceled)
	continueFrom(t, s, b, at)
}

// continueFrom checks that an upload stands where the broken Write said, and completes it.
func continueFrom(t *testing.T, s artifacts.Store, b []byte, at int64) {
	t.Helper()
	d := digest.Of(b)
	if at < 0 || at > 2<<20+7 {
		t.Fatalf("offset beside the error: got %d", at)
	}
	wantNoBlob(t, s, d)
	wantUploaded(t, s, d, len(b), int(at))
	write(t, s, d, b, int(at), len(b))
	wantBlob(t, s, b)
}

func testUploadConcurrent(t *testing.T, s artifacts.Store) {
	b := Bytes(27, blobSize)
	d := digest.Of(b)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { uploadUntilDone(t, s, d, b) })
	}
	wg.Wait()
	wantBlob(t, s, b)
}

// uploadUntilDone does what a publisher does: ask, continue, and ask again after ErrOffset.
func uploadUntilDone(t *testing.T, s artifacts.Store, d digest.SHA256, b []byte) {
	size := int64(len(b))
	for range 1000 {
		at, err := s.Uploaded(t.Context(), d, size)
		if err != nil {
			t.Errorf("Uploaded: %v", err)
			return
		}
		if at == size {
			return
		}
		at, err = s.Write(t.Context(), d, size, at, bytes.NewReader(b[at:]))
		if err == nil && at == size {
			return
		}
		if err != nil && !errors.Is(err, artifacts.ErrOffset) {
			t.Errorf("Write: %v", err)
			return
		}
	}
	t.Error("the upload did not end")
}

// An uploader that hangs must not stop another one of the same blob.
func testUploadStalled(t *testing.T, s artifacts.Store) {
	b := Bytes(28, blobSize)
	d := digest.Of(b)
	pr, pw := io.Pipe()
	stalled := make(chan error, 1)
	go func() {
		_, err := s.Write(t.Context(), d, blobSize, 0, pr)
		stalled <- err
	}()
	if _, err := pw.Write(b[:100]); err != nil { // it reads: the upload is under way
		t.Fatal(err)
	}
	uploadUntilDone(t, s, d, b)
	wantBlob(t, s, b)
	if _, err := pw.Write(b[100:]); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	_ = pw.Close()
	if err := <-stalled; err != nil && !errors.Is(err, artifacts.ErrOffset) {
		t.Errorf("stalled Write: got %v, want success or ErrOffset", err)
	}
	wantBlob(t, s, b)
}

func testUploadManyBlobs(t *testing.T, s artifacts.Store) {
	var wg sync.WaitGroup
	for i := range uint64(16) {
		wg.Go(func() {
			b := Bytes(100+i, 10_000+int(i))
			uploadUntilDone(t, s, digest.Of(b), b)
		})
	}
	wg.Wait()
	for i := range uint64(16) {
		wantBlob(t, s, Bytes(100+i, 10_000+int(i)))
	}
}
