package retention_test

import (
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// Boot loaders and boot chains stay as long as a release that names them has its image.
func TestKeepsWhatReferenceValuesName(t *testing.T) {
	t.Parallel()
	w := world(t)
	policy := w.Policy("lamp")
	policy.Approvals = 1
	pump := w.Policy("pump")
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy, pump}}))
	staged, published, chain := repositorytest.Loader("staged"), repositorytest.Loader("published"), repositorytest.Chain("x")
	unused := repositorytest.Loader("unused")
	w.Upload(unused)
	w.Publish(w.DraftVia("lamp", "1", 1, staged))
	w.Publish(w.DraftVia("pump", "1", 1, published))
	w.Publish(w.DraftOf("pump", "2", 2, chain))
	w.Pass(1000 * time.Hour)
	w.Load(w.Service)
	if r := collect(t, service(w)); has(t, w, digest.Of(unused)) {
		t.Errorf("got %+v, want the unused loader removed", r)
	}
	for what, b := range map[string][]byte{"loader of a staged release": staged, "loader of a published release": published, "chain": chain} {
		if !has(t, w, digest.Of(b)) {
			t.Errorf("the %s is gone", what)
		}
	}
	wantWhole(t, w)
}

// The loader of a pruned release goes with its image, unless another release names it.
func TestPrunedReleaseGivesItsLoaderUp(t *testing.T) {
	t.Parallel()
	w := world(t)
	shared, alone := repositorytest.Loader("shared"), repositorytest.Loader("alone")
	w.Publish(w.DraftVia("lamp", "1", 1, shared, alone))
	w.Publish(w.DraftVia("lamp", "2", 2, shared))
	w.Load(w.Service)
	s := service(w)
	w.Pass(25 * time.Hour)
	if _, err := s.Prune(t.Context(), "alice", "lamp/1", "old"); err != nil {
		t.Fatal(err)
	}
	w.Load(w.Service)
	if r := collect(t, s); !has(t, w, digest.Of(alone)) {
		t.Errorf("within the grace: got %+v", r)
	}
	w.Pass(25 * time.Hour)
	collect(t, s)
	if has(t, w, digest.Of(alone)) || !has(t, w, digest.Of(shared)) {
		t.Errorf("after the grace: alone %t, shared %t", has(t, w, digest.Of(alone)), has(t, w, digest.Of(shared)))
	}
	wantWhole(t, w)
}
