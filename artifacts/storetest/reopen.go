package storetest

import (
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

type reopenFunc = func(t *testing.T, s artifacts.Store) artifacts.Store

var reopenTests = map[string]func(*testing.T, artifacts.Store, reopenFunc){
	"ReopenKeepsBlobs":   testReopenKeepsBlobs,
	"ReopenKeepsUploads": testReopenKeepsUploads,
	"ReopenKeepsNames":   testReopenKeepsNames,
}

func testReopenKeepsBlobs(t *testing.T, s artifacts.Store, reopen reopenFunc) {
	b := Bytes(60, blobSize)
	put(t, s, b)
	wantBlob(t, reopen(t, s), b)
}

func testReopenKeepsUploads(t *testing.T, s artifacts.Store, reopen reopenFunc) {
	b := Bytes(61, blobSize)
	d := digest.Of(b)
	write(t, s, d, b, 0, 2<<20+3)
	s = reopen(t, s)
	wantNoBlob(t, s, d)
	wantUploaded(t, s, d, len(b), 2<<20+3)
	write(t, s, d, b, 2<<20+3, len(b))
	wantBlob(t, reopen(t, s), b)
}

func testReopenKeepsNames(t *testing.T, s artifacts.Store, reopen reopenFunc) {
	if err := s.Create(t.Context(), "a/1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	revision, err := s.Swap(t.Context(), "a/pointer", "", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	wantLoad(t, s, "a/1", []byte("one"))
	if _, err := s.Swap(t.Context(), "a/pointer", revision, []byte("y")); err != nil {
		t.Errorf("Swap with the revision from before: %v", err)
	}
	wantLoad(t, reopen(t, s), "a/pointer", []byte("y"))
}
