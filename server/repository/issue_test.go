package repository_test

import (
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

func TestEveryTimestampIsAFreshBeacon(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	seen := map[digest.SHA256]bool{w.Service.Catalog().Beacon: true}
	for i := range 3 {
		wantUnchanged(t, w, func() {
			if err := w.Service.IssueDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		w.Pass(repositorytest.Lives.Every)
		if err := w.Service.IssueDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := w.Service.Catalog()
		if seen[c.Beacon] || c.TimestampVersion != int64(i)+2 || !c.IssuedAt.Equal(w.Now()) {
			t.Errorf("round %d: timestamp %d issued at %v, seen before %v", i, c.TimestampVersion, c.IssuedAt, seen[c.Beacon])
		}
		seen[c.Beacon] = true
		check(t, w, w.Service)
	}
	// Two at the same instant over the same snapshot are different beacons, too.
	if err := w.Service.Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if seen[w.Service.Catalog().Beacon] {
		t.Error("a beacon came twice")
	}
	if age := w.Service.Age(); age != 0 {
		t.Errorf("age: got %v", age)
	}
}

func TestMetadataIsSignedAgainInItsLastQuarter(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	before, _ := state(t, w)
	issue := func(after time.Duration) (snapshot, product int64) {
		t.Helper()
		w.Pass(after)
		if err := w.Service.Issue(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, w, w.Service)
		now, _ := state(t, w)
		return now.Snapshot - before.Snapshot, now.Products["lamp"] - before.Products["lamp"]
	}
	if s, p := issue(repositorytest.Lives.Snapshot/4*3 - time.Hour); s != 0 || p != 0 {
		t.Errorf("with more than a quarter left: %d snapshots, %d product roles", s, p)
	}
	if s, p := issue(2 * time.Hour); s != 1 || p != 0 {
		t.Errorf("snapshot in its last quarter: %d snapshots, %d product roles", s, p)
	}
	if s, p := issue(repositorytest.Lives.Product / 4 * 3); s != 2 || p != 1 {
		t.Errorf("product role in its last quarter: %d snapshots, %d product roles", s, p)
	}
}
