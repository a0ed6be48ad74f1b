package repository_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

func TestFirstCeremonyAndTheSameAgain(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	if w.Service.Catalog().Initialised() {
		t.Fatal("initialised before the ceremony")
	}
	first := w.First(w.Policy("lamp"), w.Policy("pump"))
	got := w.Apply(first)
	if !got.Changed || got.ImageRoot != 1 || got.DirectorRoot != 1 || got.Targets != 1 || !slices.Equal(got.Products, []string{"lamp", "pump"}) {
		t.Errorf("first: got %+v", got)
	}
	check(t, w, w.Service)
	wantUnchanged(t, w, func() {
		if again := w.Apply(first); again.Changed {
			t.Errorf("again: got %+v", again)
		}
	})
	events, err := w.Store.LastEvents(t.Context(), "", 10)
	if err != nil || len(events) != 1 || events[0].Type != audit.ServerInitialised || events[0].Actor != "alice" {
		t.Errorf("events: %+v, %v", events, err)
	}
	// Another process that starts later sees the same.
	later := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(later)
	check(t, w, later)
}

func TestCeremonyRefusals(t *testing.T) {
	t.Parallel()
	stranger := repositorytest.Key()
	swap := func(role string) func(*tufrepo.RootSpec) {
		return func(s *tufrepo.RootSpec) { s.Keys[role] = []crypto.PublicKey{stranger.Public()} }
	}
	for name, c := range map[string]struct {
		change func(w *repositorytest.World, c *api.Ceremony)
		want   reason.Reason
	}{
		"snapshot key of others": {func(w *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots[0] = w.ImageRoot(1, swap(tufrepo.RoleSnapshot))
		}, reason.MetadataInvalid},
		"timestamp key of others": {func(w *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots[0] = w.ImageRoot(1, swap(tufrepo.RoleTimestamp))
		}, reason.MetadataInvalid},
		"second timestamp key": {func(w *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots[0] = w.ImageRoot(1, func(s *tufrepo.RootSpec) {
				s.Keys[tufrepo.RoleTimestamp] = append(s.Keys[tufrepo.RoleTimestamp], stranger.Public())
			})
		}, reason.MetadataInvalid},
		"director key of others": {func(w *repositorytest.World, c *api.Ceremony) {
			c.DirectorRoots[0] = w.DirectorRoot(1, swap(tufrepo.RoleTargets))
		}, reason.MetadataInvalid},
		"no director root": {func(_ *repositorytest.World, c *api.Ceremony) { c.DirectorRoots = nil }, reason.MetadataInvalid},
		"no image root":    {func(_ *repositorytest.World, c *api.Ceremony) { c.ImageRoots = nil }, reason.MetadataInvalid},
		"no targets":       {func(_ *repositorytest.World, c *api.Ceremony) { c.Targets = nil }, reason.MetadataInvalid},
		"starts at root 2": {func(w *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots[0] = w.ImageRoot(2, nil)
		}, reason.MetadataInvalid},
		"a root twice": {func(_ *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots = append(c.ImageRoots, c.ImageRoots[0])
		}, reason.MetadataInvalid},
		"a director root twice": {func(_ *repositorytest.World, c *api.Ceremony) {
			c.DirectorRoots = append(c.DirectorRoots, c.DirectorRoots[0])
		}, reason.MetadataInvalid},
		"roots with a gap": {func(w *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots = append(c.ImageRoots, w.ImageRoot(3, nil))
		}, reason.MetadataInvalid},
		"root that is none": {func(_ *repositorytest.World, c *api.Ceremony) {
			c.ImageRoots[0] = []byte(`{"signatures":[],"signed":{"_type":"root"}}`)
		}, reason.MetadataInvalid},
		"one signature of two": {func(w *repositorytest.World, c *api.Ceremony) {
			w.Holders[1] = stranger
			c.Targets = w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}}).Targets
		}, reason.MetadataInvalid},
		"file missing": {func(_ *repositorytest.World, c *api.Ceremony) {
			delete(c.Files, artifacts.PolicyPath("lamp"))
		}, reason.MetadataInvalid},
		"file tampered": {func(w *repositorytest.World, c *api.Ceremony) {
			p := w.Policy("lamp")
			p.Approvals = 1
			c.Files[artifacts.PolicyPath("lamp")] = repositorytest.Must(p.Encode())
		}, reason.ArtifactMismatch},
		"no policy": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Change: func(s *tufrepo.TargetsSpec) {
				delete(s.Files, artifacts.PolicyPath("lamp"))
			}}))
		}, reason.PolicyMissing},
		"policy of another product": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Extra: map[string][]byte{
				artifacts.PolicyPath("pump"): repositorytest.Must(w.Policy("lamp").Encode()),
			}}))
		}, reason.PolicyMissing},
		"unusable trusted root": {func(w *repositorytest.World, c *api.Ceremony) {
			p := w.Policy("lamp")
			p.Publishers = []artifacts.Publisher{{Name: "ci", Issuer: "https://issuer.example", Subject: "https://ci.example/build"}}
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{p}, Extra: map[string][]byte{
				artifacts.TrustedRootPath: []byte("{}x"),
			}}))
		}, reason.PolicyMissing},
		"broken baseline": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Extra: map[string][]byte{
				artifacts.BaselinePath("lamp", "board"): []byte("{}"),
			}}))
		}, reason.MetadataInvalid},
		"broken log policy": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Extra: map[string][]byte{
				"witness/log.json": []byte(`{"version":1,"origin":"a","log_key":"","witnesses":[],"quorum":0}`),
			}}))
		}, reason.MetadataInvalid},
		"witness file that nobody reads": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Extra: map[string][]byte{
				"witness/logs.json": []byte("{}"),
			}}))
		}, reason.MetadataInvalid},
		"product key of others": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Change: func(s *tufrepo.TargetsSpec) {
				s.Products["lamp"] = tufrepo.Delegation{Keys: []crypto.PublicKey{stranger.Public()}, Threshold: 1}
			}}))
		}, reason.MetadataInvalid},
		"expired targets": {func(w *repositorytest.World, c *api.Ceremony) {
			*c = keepRoots(*c, w.Ceremony(repositorytest.Offline{Version: 1, Policies: []artifacts.Policy{w.Policy("lamp")}, Change: func(s *tufrepo.TargetsSpec) {
				s.Expires = repositorytest.Noon.AddDate(0, 0, -1)
			}}))
		}, reason.MetadataExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := repositorytest.New(t)
			ceremony := w.First(w.Policy("lamp"))
			c.change(w, &ceremony)
			wantUnchanged(t, w, func() {
				_, err := w.Service.Apply(t.Context(), "alice", ceremony)
				wantReason(t, err, c.want)
			})
			if w.Service.Catalog().Initialised() {
				t.Error("a refused ceremony initialised the server")
			}
		})
	}
}

func keepRoots(from, to api.Ceremony) api.Ceremony {
	to.ImageRoots, to.DirectorRoots = from.ImageRoots, from.DirectorRoots
	return to
}

func TestTargetsNeverGoBack(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	first := w.First(w.Policy("lamp"))
	w.Apply(first)
	second := w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{w.Policy("lamp"), w.Policy("pump")}})
	w.Apply(second)
	wantUnchanged(t, w, func() {
		if got := w.Apply(first); got.Changed || got.Targets != 2 {
			t.Errorf("the old ceremony again: got %+v, want no change", got)
		}
		for name, other := range map[string]int64{"another one of the version": 2, "another old one": 1} {
			policy := w.Policy("lamp")
			policy.Approvals = 2
			_, err := w.Service.Apply(t.Context(), "alice", w.Ceremony(repositorytest.Offline{Version: other, Policies: []artifacts.Policy{policy}}))
			t.Log(name)
			wantReason(t, err, reason.MetadataExpired)
		}
	})
	check(t, w, w.Service)
}

func TestTargetsNeedOnlyTheirNewFiles(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	next := w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{w.Policy("lamp"), w.Policy("pump")}})
	delete(next.Files, artifacts.PolicyPath("lamp"))
	w.Apply(next)
	check(t, w, w.Service)
}

func TestRootRotation(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	old := []crypto.Signer{w.Holders[0], w.Holders[1]}
	w.Holders = []crypto.Signer{old[0], repositorytest.Key(), repositorytest.Key()}
	second := repositorytest.Sign(w.ImageRoot(2, nil), old[1])
	targets := w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{w.Policy("lamp")}})

	// The targets of the old holders alone do not verify any more: the rotation must bring new ones.
	wantUnchanged(t, w, func() {
		_, err := w.Service.Apply(t.Context(), "alice", api.Ceremony{ImageRoots: [][]byte{second}})
		wantReason(t, err, reason.MetadataInvalid)
	})
	targets.ImageRoots = [][]byte{second}
	targets.DirectorRoots = [][]byte{repositorytest.Sign(w.DirectorRoot(2, nil), old[1])}
	if got := w.Apply(targets); got.ImageRoot != 2 || got.DirectorRoot != 2 || got.Targets != 2 {
		t.Errorf("rotation: got %+v", got)
	}
	check(t, w, w.Service)
	wantUnchanged(t, w, func() {
		all := targets
		all.ImageRoots = append([][]byte{w.Service.Catalog().ImageRoots[0]}, all.ImageRoots...)
		if got := w.Apply(all); got.Changed {
			t.Errorf("all roots again: got %+v", got)
		}
	})
}

func TestRemovedProductStaysInTheSnapshotAndComesBack(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp"), w.Policy("pump")))
	w.Publish(w.Draft("pump", "1.0", 1))
	seen := client(t, w, w.Service) // a client that keeps its state

	got := w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{w.Policy("lamp")}}))
	if !slices.Equal(got.Products, []string{"lamp"}) || w.Service.Catalog().Products["pump"] != nil {
		t.Errorf("after the removal: products %v", got.Products)
	}
	if err := seen.Timestamp(w.Service.Catalog().Timestamp); err != nil {
		t.Fatal(err)
	}
	fetch(t, w, seen, "lamp") // the snapshot without the role would be a rollback
	if _, _, ok := seen.Target("pump/1.0/" + repositorytest.Component); ok {
		t.Error("a product that is not delegated is still found")
	}
	check(t, w, w.Service)
	w.Publish(w.Draft("lamp", "1.0", 1)) // the others go on

	w.Pass(repositorytest.Lives.Product) // the role of the removed product has expired in the meantime
	if err := w.Service.Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 3, Policies: []artifacts.Policy{w.Policy("lamp"), w.Policy("pump")}}))
	image := check(t, w, w.Service)
	if _, _, ok := image.Target("pump/1.0/" + repositorytest.Component); !ok {
		t.Error("the release of a product that came back is not found")
	}
}

func TestWithdrawnReleaseDisappearsAndItsBootIsRevoked(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	good, bad := w.Draft("lamp", "1.0", 1), w.Draft("lamp", "2.0", 2)
	w.Publish(good)
	w.Publish(bad)
	policy := w.Policy("lamp")
	policy.Withdrawn = append(policy.Withdrawn, bad.Release.Components[0].SHA256)
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))

	image := check(t, w, w.Service)
	for version, want := range map[string]bool{"1.0": true, "2.0": false} {
		for _, suffix := range []string{"", artifacts.BundleSuffix, artifacts.ReferenceSuffix} {
			if _, _, ok := image.Target("lamp/" + version + "/" + repositorytest.Component + suffix); ok != want {
				t.Errorf("%s%s in the metadata: got %v, want %v", version, suffix, ok, want)
			}
		}
	}
	product := w.Service.Catalog().Products["lamp"]
	want, _ := bad.Values.BootDigest()
	if got := product.RevokedBoot(); !slices.Contains(got, want) || len(got) != 1 {
		t.Errorf("revoked boots: got %v, want %v", got, want)
	}
	wantOffer(t, w, "lamp/1.0")
	_, err := w.Service.Publish(t.Context(), "robot", bad.Signed(w.Publisher))
	wantReason(t, err, reason.ReleaseWithdrawn)
	wantWithdrawn(t, w, map[string]bool{"lamp/1.0": false, "lamp/2.0": true})

	w.Apply(w.Ceremony(repositorytest.Offline{Version: 3, Policies: []artifacts.Policy{w.Policy("lamp")}}))
	check(t, w, w.Service) // taken back by the holders: it is in the metadata again
	wantOffer(t, w, "lamp/2.0")
	wantWithdrawn(t, w, map[string]bool{"lamp/1.0": false, "lamp/2.0": false})
}

// wantWithdrawn looks at what people see of releases.
func wantWithdrawn(t *testing.T, w *repositorytest.World, want map[string]bool) {
	t.Helper()
	for name, withdrawn := range want {
		row, err := w.Store.Release(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		view, err := w.Service.View(t.Context(), row, false)
		if err != nil || view.Withdrawn != withdrawn {
			t.Errorf("%s: shown as withdrawn %v, %v; want %v", name, view.Withdrawn, err, withdrawn)
		}
	}
}

// Two publishers are asked for from now on: what one alone signed cannot be published any more.
func TestPolicyChangeHoldsForTheNextPublish(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	other := repositorytest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	policy := w.Policy("lamp")
	policy.Publishers = append(policy.Publishers, repositorytest.PublisherOf("rebuild", other))
	policy.Threshold = 2
	replica := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(replica)
	w.Apply(w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy}}))
	draft := w.Draft("lamp", "1.0", 1)
	for name, s := range map[string]*repository.Service{"the same server": w.Service, "a replica that has not looked yet": replica} {
		_, err := s.Publish(t.Context(), "robot", draft.Signed(w.Publisher))
		t.Log(name)
		wantReason(t, err, reason.PublisherRefused)
	}
	if _, err := replica.Publish(t.Context(), "robot", draft.Signed(w.Publisher, other)); err != nil {
		t.Error(err)
	}
}
