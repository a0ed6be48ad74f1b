package dirstore_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// A token for uploads must not be enough to fill the disk that the database and the keys lie on.
func TestUploadsLeaveTheDiskSomeRoom(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	b := bytes.Repeat([]byte("x"), 3<<20)
	free := uint64(dirstore.Reserve) + 2<<20
	s.SetFree(func(string) (uint64, error) { free -= 1 << 20; return free, nil })
	at, err := s.Write(t.Context(), digest.Of(b), int64(len(b)), 0, bytes.NewReader(b))
	if !errors.Is(err, artifacts.ErrUnavailable) || at == 0 || at >= int64(len(b)) {
		t.Fatalf("got %d, %v", at, err)
	}
	free = uint64(dirstore.Reserve) + 64<<20
	if at, err = s.Write(t.Context(), digest.Of(b), int64(len(b)), at, bytes.NewReader(b[at:])); err != nil || at != int64(len(b)) {
		t.Errorf("with room again: got %d, %v", at, err)
	}
	s.SetFree(func(string) (uint64, error) { return 0, errors.New("broken") })
	c := []byte("another")
	if _, err := s.Write(t.Context(), digest.Of(c), int64(len(c)), 0, bytes.NewReader(c)); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("unknown room: %v", err)
	}
}
