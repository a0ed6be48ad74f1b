package repository_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// Two replicas on one database and one artifact store publish, issue and hold at once: every change is made once, and at
// the end both serve the same complete repository.
func TestReplicasRace(t *testing.T) {
	t.Parallel()
	for name, world := range map[string]func(t *testing.T) *repositorytest.World{
		"sqlite":   func(t *testing.T) *repositorytest.World { return repositorytest.New(t) },
		"postgres": func(t *testing.T) *repositorytest.World { return repositorytest.On(t, parts.TestPostgres(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			race(t, world(t))
		})
	}
}

func race(t *testing.T, w *repositorytest.World) {
	w.Apply(w.First(w.Policy("lamp"), w.Policy("pump")))
	w.Publish(w.Draft("lamp", "0.1", 1))
	replica := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(replica)
	const rounds = 4
	work := map[string][]*repositorytest.Draft{}
	for i := range rounds {
		work["pump"] = append(work["pump"], w.Draft("pump", fmt.Sprintf("1.%d", i), uint64(i)+1))
		work["lamp"] = append(work["lamp"], w.Draft("lamp", fmt.Sprintf("1.%d", i), uint64(i)+2))
	}
	var wg sync.WaitGroup
	for product, s := range map[string]*repository.Service{"lamp": w.Service, "pump": replica} {
		wg.Go(func() {
			for _, d := range work[product] {
				if _, err := s.Publish(t.Context(), "robot", d.Signed(w.Publisher)); err != nil {
					t.Errorf("publish on %s: %v", product, err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				if err := s.Issue(t.Context()); err != nil {
					t.Errorf("issue: %v", err)
				}
				if err := s.Load(t.Context()); err != nil {
					t.Errorf("load: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		if _, err := replica.Hold(t.Context(), "alice", "lamp/0.1", "stop"); err != nil {
			t.Errorf("hold: %v", err)
		}
	})
	wg.Wait()
	for _, s := range []*repository.Service{w.Service, replica} {
		w.Load(s)
		check(t, w, s)
		for product, n := range map[string]int{"lamp": rounds + 1, "pump": rounds} {
			if got := len(s.Catalog().Products[product].Releases); got != n {
				t.Errorf("%s: got %d releases, want %d", product, got, n)
			}
		}
		if r, ok := s.Catalog().Products["lamp"].Release("lamp/0.1"); !ok || !r.Hold {
			t.Error("the hold was lost")
		}
	}
	if a, b := w.Service.Catalog().Beacon, replica.Catalog().Beacon; a != b {
		t.Errorf("the replicas serve different timestamps: %s and %s", a, b)
	}
}

// Both publish the same release: one does, the other hears that it is there.
func TestSameReleaseAtTwoReplicas(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	replica := w.ServiceOn(w.OpenStore(), w.Blobs)
	w.Load(replica)
	request := w.Draft("lamp", "1.0", 1).Signed(w.Publisher)
	changed := make(chan bool, 2)
	var wg sync.WaitGroup
	for _, s := range []*repository.Service{w.Service, replica} {
		wg.Go(func() {
			got, err := s.Publish(t.Context(), "robot", request)
			if err != nil {
				t.Error(err)
			}
			changed <- got.Changed
		})
	}
	wg.Wait()
	if a, b := <-changed, <-changed; a == b {
		t.Errorf("changed: got %v and %v, want exactly one", a, b)
	}
}
