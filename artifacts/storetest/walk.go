package storetest

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

var walkTests = map[string]func(*testing.T, artifacts.Store){
	"WalkBlobs":            testWalkBlobs,
	"WalkUploads":          testWalkUploads,
	"WalkInPages":          testWalkInPages,
	"WalkCancelled":        testWalkCancelled,
	"RemoveUpload":         testRemoveUpload,
	"RemoveUploadOfABlob":  testRemoveUploadOfABlob,
	"RemoveUploadIsYoung":  testRemoveUploadIsYoung,
	"RemoveUploadOfNobody": testRemoveUploadOfNobody,
}

// slack is how far the store's clock may be from the test's.
const slack = time.Minute

func walker(t *testing.T, s artifacts.Store) artifacts.Walker {
	t.Helper()
	w, ok := s.(artifacts.Walker)
	if !ok {
		t.Fatalf("%T is no artifacts.Walker", s)
	}
	return w
}

func digestsOf(found []artifacts.Found) []digest.SHA256 {
	var out []digest.SHA256
	for _, f := range found {
		out = append(out, f.SHA256)
	}
	return out
}

func sorted(list []digest.SHA256) []digest.SHA256 {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b digest.SHA256) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func wantWalk(t *testing.T, s artifacts.Store, kind artifacts.Kind, want ...digest.SHA256) []artifacts.Found {
	t.Helper()
	found, err := walker(t, s).Walk(t.Context(), kind, digest.SHA256{}, 1000)
	if err != nil {
		t.Fatalf("Walk: %v", err)
	}
	if got := digestsOf(found); !slices.Equal(got, sorted(want)) {
		t.Errorf("Walk: got %v, want %v", got, sorted(want))
	}
	for _, f := range found {
		if age := time.Since(f.Modified); age < -slack || age > time.Hour {
			t.Errorf("Walk: %s was modified %s ago", f.SHA256, age)
		}
	}
	return found
}

func testWalkBlobs(t *testing.T, s artifacts.Store) {
	wantWalk(t, s, artifacts.CompleteBlobs)
	small, large := Bytes(70, 10), Bytes(71, blobSize)
	one, two := put(t, s, small), put(t, s, large)
	write(t, s, digest.Of(Bytes(72, 100)), Bytes(72, 100), 0, 50)
	if err := s.Create(t.Context(), "blobs/"+one.String(), []byte("a document")); err != nil {
		t.Fatal(err)
	}
	for _, f := range wantWalk(t, s, artifacts.CompleteBlobs, one, two) {
		if want := map[digest.SHA256]int64{one: 10, two: blobSize}[f.SHA256]; f.Size != want {
			t.Errorf("size of %s: got %d, want %d", f.SHA256, f.Size, want)
		}
	}
	if err := s.Remove(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	wantWalk(t, s, artifacts.CompleteBlobs, two)
}

func testWalkUploads(t *testing.T, s artifacts.Store) {
	put(t, s, Bytes(73, 1000))
	b := Bytes(74, blobSize)
	write(t, s, digest.Of(b), b, 0, 100)
	wantWalk(t, s, artifacts.UnfinishedUploads, digest.Of(b))
	write(t, s, digest.Of(b), b, 100, blobSize)
	wantWalk(t, s, artifacts.UnfinishedUploads)
}

func testWalkInPages(t *testing.T, s artifacts.Store) {
	want := map[artifacts.Kind][]digest.SHA256{}
	for i := range uint64(7) {
		want[artifacts.CompleteBlobs] = append(want[artifacts.CompleteBlobs], put(t, s, Bytes(200+i, 100)))
		b := Bytes(300+i, 100)
		write(t, s, digest.Of(b), b, 0, 10)
		want[artifacts.UnfinishedUploads] = append(want[artifacts.UnfinishedUploads], digest.Of(b))
	}
	for kind, all := range want {
		for _, limit := range []int{1, 3, 7} {
			var got []digest.SHA256
			var after digest.SHA256
			for {
				page, err := walker(t, s).Walk(t.Context(), kind, after, limit)
				if err != nil || len(page) > limit {
					t.Fatalf("Walk: got %d entries, %v, want at most %d", len(page), err, limit)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, digestsOf(page)...)
				after = got[len(got)-1]
			}
			if !slices.Equal(got, sorted(all)) {
				t.Errorf("kind %d in pages of %d: got %v, want %v", kind, limit, got, sorted(all))
			}
		}
	}
}

func testWalkCancelled(t *testing.T, s artifacts.Store) {
	put(t, s, Bytes(75, 10))
	b := Bytes(76, 100)
	write(t, s, digest.Of(b), b, 0, 10)
	for _, kind := range []artifacts.Kind{artifacts.CompleteBlobs, artifacts.UnfinishedUploads} {
		_, err := walker(t, s).Walk(cancelled(t), kind, digest.SHA256{}, 10)
		wantErr(t, "Walk", err, context.Canceled)
	}
}

func removeUpload(t *testing.T, s artifacts.Store, d digest.SHA256, before time.Time, want bool) {
	t.Helper()
	removed, err := walker(t, s).RemoveUpload(t.Context(), d, before)
	if err != nil || removed != want {
		t.Errorf("RemoveUpload: got %v, %v, want %v", removed, err, want)
	}
}

func testRemoveUpload(t *testing.T, s artifacts.Store) {
	b := Bytes(77, blobSize)
	d := digest.Of(b)
	write(t, s, d, b, 0, 1<<20)
	removeUpload(t, s, d, time.Now().Add(slack), true)
	wantUploaded(t, s, d, blobSize, 0)
	wantWalk(t, s, artifacts.UnfinishedUploads)
	removeUpload(t, s, d, time.Now().Add(slack), false)
	put(t, s, b)
	wantBlob(t, s, b)
}

func testRemoveUploadOfABlob(t *testing.T, s artifacts.Store) {
	b := Bytes(78, blobSize)
	removeUpload(t, s, put(t, s, b), time.Now().Add(slack), false)
	wantBlob(t, s, b)
}

func testRemoveUploadIsYoung(t *testing.T, s artifacts.Store) {
	b := Bytes(79, blobSize)
	d := digest.Of(b)
	write(t, s, d, b, 0, 1<<20)
	removeUpload(t, s, d, time.Now().Add(-slack), false)
	wantUploaded(t, s, d, blobSize, 1<<20)
	write(t, s, d, b, 1<<20, blobSize)
	wantBlob(t, s, b)
}

func testRemoveUploadOfNobody(t *testing.T, s artifacts.Store) {
	removeUpload(t, s, digest.Of(Bytes(80, 10)), time.Now().Add(slack), false)
}
