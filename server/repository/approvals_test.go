package repository_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

func careful(w *repositorytest.World, approvals int) artifacts.Policy {
	p := w.Policy("lamp")
	p.Approvals = approvals
	return p
}

func TestStagedReleaseNeedsDifferentPeople(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(careful(w, 2)))
	draft := w.Draft("lamp", "1.0", 1)
	staged := w.Publish(draft)
	if staged.State != api.ReleaseStaged || staged.Needed != 2 || staged.PublishedAt != nil {
		t.Errorf("publish: got %+v", staged)
	}
	wantOffer(t, w, "")
	image := check(t, w, w.Service)
	if _, _, ok := image.Target("lamp/1.0/" + repositorytest.Component); ok {
		t.Error("a staged release is in the metadata")
	}
	approve := func(person string) (api.Release, error) { return w.Service.Approve(t.Context(), person, "lamp/1.0") }
	wantUnchanged(t, w, func() {
		_, err := approve("robot")
		wantReason(t, err, reason.SamePerson)
		_, err = w.Service.Approve(t.Context(), "alice", "lamp/7.0")
		wantReason(t, err, reason.ReleaseUnknown)
	})
	if got, err := approve("alice"); err != nil || got.State != api.ReleaseStaged || len(got.Approvals) != 1 {
		t.Errorf("first approval: got %+v, %v", got, err)
	}
	wantUnchanged(t, w, func() {
		_, err := approve("alice")
		wantReason(t, err, reason.SamePerson)
		if again := w.Publish(draft); again.Changed || again.State != api.ReleaseStaged {
			t.Errorf("the staged release again: got %+v", again)
		}
	})
	if got, err := approve("bob"); err != nil || got.State != api.ReleasePublished || got.Timestamp == 0 {
		t.Errorf("second approval: got %+v, %v", got, err)
	}
	check(t, w, w.Service)
	wantOffer(t, w, "lamp/1.0")
	wantUnchanged(t, w, func() {
		if got, err := approve("carol"); err != nil || got.Changed {
			t.Errorf("approval of a published release: got %+v, %v", got, err)
		}
	})
}

func TestApprovalAsksThePolicyOfNow(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(careful(w, 1)))
	withdrawn, disowned := w.Draft("lamp", "1.0", 1), w.Draft("lamp", "2.0", 2)
	w.Publish(withdrawn)
	w.Publish(disowned)
	policy := careful(w, 1)
	policy.Withdrawn = []digest.SHA256{withdrawn.Release.Components[0].SHA256}
	policy.Publishers = w.Policy("lamp").Publishers
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))
	_, err := w.Service.Approve(t.Context(), "alice", "lamp/1.0")
	wantReason(t, err, reason.ReleaseWithdrawn)

	policy.Publishers = repositorytest.New(t).Policy("lamp").Publishers // the publisher's key was replaced
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 3, Policies: []artifacts.Policy{policy}}))
	_, err = w.Service.Approve(t.Context(), "alice", "lamp/2.0")
	wantReason(t, err, reason.PublisherRefused)
	wantOffer(t, w, "")
}

// The approval was written and the server went away before it published: repeating the last approval goes on.
func TestApprovalThatDidNotComeThroughIsRepeated(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(careful(w, 1)))
	w.Publish(w.Draft("lamp", "1.0", 1))
	broken := &faulty{Store: w.Store, Names: w.Blobs, at: -1}
	service := broken.service(w)
	w.Load(service)
	broken.failAt(2) // the first commit is the approval, the second the release
	broken.only = "commit"
	if _, err := service.Approve(t.Context(), "alice", "lamp/1.0"); !errors.Is(err, errInjected) {
		t.Fatalf("got %v, want the injected failure", err)
	}
	broken.failAt(-1)
	if got, err := service.Approve(t.Context(), "alice", "lamp/1.0"); err != nil || got.State != api.ReleasePublished {
		t.Errorf("again: got %+v, %v", got, err)
	}
	check(t, w, service)
}

func TestHoldByOneResumeByTwo(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	replica := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(replica)
	for round := range 2 { // approvals of the first round do not count in the second
		held, err := w.Service.Hold(t.Context(), "alice", "lamp/1.0", "it boots slowly")
		if err != nil || !held.Hold || held.HoldReason != "it boots slowly" || !held.Changed {
			t.Fatalf("round %d: hold: got %+v, %v", round, held, err)
		}
		wantOffer(t, w, "")
		w.Load(replica)
		if r := replica.Catalog().Products["lamp"].Releases[0]; !r.Hold {
			t.Error("a replica does not see the hold")
		}
		wantUnchanged(t, w, func() {
			if again, err := w.Service.Hold(t.Context(), "bob", "lamp/1.0", "again"); err != nil || again.Changed {
				t.Errorf("hold again: got %+v, %v", again, err)
			}
		})
		if one, err := w.Service.Resume(t.Context(), "alice", "lamp/1.0"); err != nil || !one.Hold {
			t.Errorf("one person: got %+v, %v", one, err)
		}
		_, err = w.Service.Resume(t.Context(), "alice", "lamp/1.0")
		wantReason(t, err, reason.SamePerson)
		wantOffer(t, w, "")
		if two, err := replica.Resume(t.Context(), "bob", "lamp/1.0"); err != nil || two.Hold {
			t.Errorf("two people: got %+v, %v", two, err)
		}
		w.Load(w.Service)
		wantOffer(t, w, "lamp/1.0")
	}
	_, err := w.Service.Hold(t.Context(), "alice", "lamp/9.0", "x")
	wantReason(t, err, reason.ReleaseUnknown)
	_, err = w.Store.Release(t.Context(), "lamp/9.0")
	if !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
