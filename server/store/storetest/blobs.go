package storetest

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/store"
)

func keepsBlobs(t *testing.T, s *store.Store) {
	ctx := t.Context()
	got(s.BlobsOf(ctx, []digest.SHA256{sum("a")}))(t, "unknown blob", nil)
	got(s.BlobsOf(ctx, nil))(t, "no blobs", nil)
	touch := func(d digest.SHA256, minute int) store.Change {
		return store.Change{Writes: []store.Write{store.TouchBlob{SHA256: d, At: at(minute)}}}
	}
	keep := func(d digest.SHA256, since int) store.Change {
		return store.Change{Writes: []store.Write{store.KeepBlob{SHA256: d, Since: at(since), At: at(30)}}}
	}
	condemn := func(d digest.SHA256, before int) store.Change {
		return store.Change{Writes: []store.Write{store.CondemnBlob{SHA256: d, Before: at(before), At: at(40)}}}
	}
	wantConflict(t, s, "keep what was never touched", keep(sum("a"), 0))
	commit(t, s, touch(sum("a"), 10))
	commit(t, s, touch(sum("a"), 5)) // never goes back
	got(s.BlobsOf(ctx, []digest.SHA256{sum("a"), sum("b")}))(t, "touched", []store.Blob{{SHA256: sum("a"), TouchedAt: at(10)}})
	wantConflict(t, s, "keep since later than it was touched", keep(sum("a"), 11))
	wantConflict(t, s, "condemn what was touched since", condemn(sum("a"), 9))
	commit(t, s, keep(sum("a"), 10))
	wantConflict(t, s, "condemn what was kept since", condemn(sum("a"), 29))

	commit(t, s, condemn(sum("a"), 30))
	commit(t, s, condemn(sum("a"), 30))
	commit(t, s, condemn(sum("b"), 0)) // never touched
	wantConflict(t, s, "touch what is condemned", touch(sum("a"), 50))
	wantConflict(t, s, "keep what is condemned", keep(sum("a"), 10))
	want := []store.Blob{{SHA256: sum("a"), TouchedAt: at(30), CondemnedAt: at(40)}, {SHA256: sum("b"), CondemnedAt: at(40)}}
	if sumB, sumA := sum("b"), sum("a"); string(sumB[:]) < string(sumA[:]) {
		want[0], want[1] = want[1], want[0]
	}
	got(s.CondemnedBlobs(ctx, 10))(t, "CondemnedBlobs", want)
	got(s.CondemnedBlobs(ctx, 1))(t, "one of CondemnedBlobs", want[:1])

	write(t, s, store.ForgetBlob{SHA256: sum("a")}, store.ForgetBlob{SHA256: sum("b")}, store.ForgetBlob{SHA256: sum("c")})
	got(s.CondemnedBlobs(ctx, 10))(t, "CondemnedBlobs afterwards", nil)
	wantConflict(t, s, "keep what was condemned in between", keep(sum("a"), 10))
	commit(t, s, touch(sum("a"), 60))
	write(t, s, store.ForgetBlob{SHA256: sum("a")}) // not condemned: stays
	got(s.BlobsOf(ctx, []digest.SHA256{sum("a")}))(t, "touched again", []store.Blob{{SHA256: sum("a"), TouchedAt: at(60)}})
}
