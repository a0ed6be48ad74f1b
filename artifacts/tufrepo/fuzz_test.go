package tufrepo_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

// fixedKey makes the same key in every process, so that kept inputs stay meaningful.
func fixedKey(n byte) crypto.Signer {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func fixedRepo() *repo {
	return &repo{
		root: []crypto.Signer{fixedKey(1), fixedKey(2)}, targets: fixedKey(3), snapshot: fixedKey(4), timestamp: fixedKey(5),
		products: map[string]crypto.Signer{"gw": fixedKey(6)}, policy: []byte("{}"),
	}
}

// FuzzImage offers the bytes at every entry of an Image. Nothing that is not signed may be accepted, nothing may panic.
func FuzzImage(f *testing.F) {
	r := fixedRepo()
	root := r.rootDoc(f, 1)
	rel := r.release(f, 2)
	for _, doc := range [][]byte{root, rel.stamp, rel.snapshot, rel.targets, rel.products["gw"], []byte("null"), []byte(`{"signed":{"_type":"targets","targets":{"a/b":null}},"signatures":[null]}`)} {
		f.Add(doc)
	}
	live := newImage(f, root)
	if err := accept(live, rel); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		im := newImage(t, root)
		im.Restore(live.Cached())
		_ = im.Timestamp(doc)
		_ = im.Snapshot(doc)
		_ = im.Targets(doc)
		_ = im.Product("gw", doc)
		_ = im.UpdateRoot(doc)
		im.Restore(tufrepo.Cached{Timestamp: doc, Snapshot: doc, Targets: doc, Products: map[string][]byte{"gw": doc}})
		if s := im.State(); s.Root != 1 || s.Timestamp != 2 || s.Snapshot != 2 || s.Targets != 2 {
			t.Fatalf("state became %+v", s)
		}
		_, _ = tufrepo.NewImage(doc, now)
	})
}

// FuzzDirector offers the bytes as each of the three director documents.
func FuzzDirector(f *testing.F) {
	fl := &fleet{root: []crypto.Signer{fixedKey(7)}, online: fixedKey(8)}
	root := fl.rootDoc(f, 1)
	docs := fl.docs(f, directorSpec(2, device))
	for _, doc := range [][]byte{docs.Timestamp, docs.Snapshot, docs.Targets, []byte("null")} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		d := newDirector(t, root)
		for i, try := range []tufrepo.DirectorDocs{
			{Timestamp: doc, Snapshot: docs.Snapshot, Targets: docs.Targets},
			{Timestamp: docs.Timestamp, Snapshot: doc, Targets: docs.Targets},
			{Timestamp: docs.Timestamp, Snapshot: docs.Snapshot, Targets: doc},
		} {
			d.Restore(try)
			err := d.Update(try)
			same := [][]byte{docs.Timestamp, docs.Snapshot, docs.Targets}
			if err == nil && i > 0 && string(doc) != string(same[i]) {
				t.Fatalf("document %d was accepted with other bytes", i)
			}
		}
		if _, stamp := d.Versions(); stamp < 0 || stamp > 2 {
			t.Fatalf("timestamp %d", stamp)
		}
	})
}

// FuzzPayload offers the bytes to the readers that the ceremony uses.
func FuzzPayload(f *testing.F) {
	r := fixedRepo()
	rel := r.release(f, 1)
	f.Add(r.rootDoc(f, 1))
	f.Add(rel.targets)
	f.Add([]byte(`{"signatures":[],"signed":{}}`))
	key := r.root[0].Public()
	f.Fuzz(func(t *testing.T, doc []byte) {
		if spec, err := tufrepo.ParseRoot(doc); err == nil {
			_, _ = tufrepo.RootPayload(spec)
		}
		if spec, err := tufrepo.ParseTargets(doc); err == nil {
			_, _ = tufrepo.TargetsPayload(spec)
		}
		_, _ = tufrepo.HeaderOf(doc)
		_, _ = tufrepo.Signers(doc)
		_, _ = tufrepo.PayloadBytes(doc)
		if _, err := tufrepo.AddSignature(doc, key, make([]byte, 64)); err == nil {
			t.Fatal("a signature of zeros was attached")
		}
	})
}

// FuzzSigned offers the bytes as signed parts with good signatures and good parents: what an attacker with online keys,
// or a holder by mistake, can bring before the checks that come after the signature.
func FuzzSigned(f *testing.F) {
	r := fixedRepo()
	fl := &fleet{root: []crypto.Signer{fixedKey(7)}, online: fixedKey(8)}
	root, directorRoot := r.rootDoc(f, 1), fl.rootDoc(f, 1)
	rel := r.release(f, 2)
	for _, doc := range [][]byte{root, rel.stamp, rel.snapshot, rel.targets, rel.products["gw"], fl.docs(f, directorSpec(2, device)).Targets} {
		f.Add(must(tufrepo.PayloadBytes(doc))(f))
	}
	f.Add([]byte(`{"_type":"targets","spec_version":"1.0","version":2,"expires":"2030-01-01T00:00:00Z","targets":{"gw/1/a":null},"delegations":{"keys":{"a":null},"roles":[null]}}`))
	f.Fuzz(func(t *testing.T, signed []byte) {
		unsigned := fmt.Appendf(nil, `{"signatures":[],"signed":%s}`, signed)
		if _, err := tufrepo.PayloadBytes(unsigned); err != nil {
			return
		}
		_ = newImage(t, root).UpdateRoot(holderSign(t, unsigned, r.root...))
		_ = newImage(t, root).Timestamp(holderSign(t, unsigned, r.timestamp))
		try := rel
		try.snapshot = holderSign(t, unsigned, r.snapshot)
		try.stamp = stampFor(t, r, try.snapshot)
		_ = accept(newImage(t, root), try)
		try = rel
		try.products = map[string][]byte{"gw": holderSign(t, unsigned, r.products["gw"])}
		_ = accept(newImage(t, root), parentsOf(t, r, try))
		try = rel
		try.targets = holderSign(t, unsigned, r.targets)
		_ = accept(newImage(t, root), parentsOf(t, r, try))
		docs := tufrepo.DirectorDocs{Targets: holderSign(t, unsigned, fl.online)}
		docs.Snapshot = must(tufrepo.SignSnapshot(2, now.Add(time.Hour), map[string]tufrepo.Doc{"targets": tufrepo.DocOf(2, docs.Targets)}, fl.online))(t)
		docs.Timestamp = must(tufrepo.SignTimestamp(2, now.Add(time.Hour), tufrepo.DocOf(2, docs.Snapshot), [32]byte{}, fl.online))(t)
		_ = newDirector(t, directorRoot).Update(docs)
	})
}

func stampFor(t testing.TB, r *repo, snapshot []byte) []byte {
	t.Helper()
	return must(tufrepo.SignTimestamp(2, now.Add(time.Hour), tufrepo.DocOf(2, snapshot), [32]byte{}, r.timestamp))(t)
}

// parentsOf signs snapshot and timestamp over documents whose versions are said to be 2.
func parentsOf(t testing.TB, r *repo, rel release) release {
	t.Helper()
	docs := map[string]tufrepo.Doc{"targets": tufrepo.DocOf(2, rel.targets)}
	for product, doc := range rel.products {
		docs[product] = tufrepo.DocOf(2, doc)
	}
	rel.snapshot = must(tufrepo.SignSnapshot(2, rel.expires, docs, r.snapshot))(t)
	rel.stamp = stampFor(t, r, rel.snapshot)
	return rel
}
