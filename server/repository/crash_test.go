package repository_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

var errInjected = errors.New("injected failure")

// faulty is the real stores with one failure: at call number at, before it was carried out or after it (the bytes are
// there, the answer is lost). From then on everything fails, as if the process had ended.
type faulty struct {
	*store.Store
	Names *dirstore.Store

	at    int    // -1: never
	after bool   // fail after the call was carried out
	only  string // count calls of this kind only; "" all
	count int
	dead  bool
}

func (f *faulty) failAt(n int) { f.at, f.count, f.dead = n, 0, false }

func (f *faulty) call(kind string, run func() error) error {
	if f.dead {
		return errInjected
	}
	if f.only != "" && f.only != kind {
		return run()
	}
	f.count++
	if f.count != f.at {
		return run()
	}
	f.dead = true
	if f.after {
		if err := run(); err != nil {
			return err
		}
	}
	return errInjected
}

func (f *faulty) Commit(ctx context.Context, c store.Change) error {
	return f.call("commit", func() error { return f.Store.Commit(ctx, c) })
}

func (f *faulty) MetadataFile(ctx context.Context, name string) (b []byte, err error) {
	err = f.call("read", func() (err error) { b, err = f.Store.MetadataFile(ctx, name); return err })
	return b, err
}

func (f *faulty) Repo(ctx context.Context, name string) (r store.Repo, err error) {
	err = f.call("read", func() (err error) { r, err = f.Store.Repo(ctx, name); return err })
	return r, err
}

func (f *faulty) Release(ctx context.Context, name string) (r store.Release, err error) {
	err = f.call("read", func() (err error) { r, err = f.Store.Release(ctx, name); return err })
	return r, err
}

// artifactFaults is the artifact half of faulty; a type of its own because both stores have methods of the same names.
type artifactFaults struct {
	*dirstore.Store
	f *faulty
}

func (a artifactFaults) Load(ctx context.Context, name string) (b []byte, revision string, err error) {
	err = a.f.call("load", func() (err error) { b, revision, err = a.Store.Load(ctx, name); return err })
	return b, revision, err
}

func (a artifactFaults) Create(ctx context.Context, name string, data []byte) error {
	return a.f.call("create", func() error { return a.Store.Create(ctx, name, data) })
}

func (a artifactFaults) Swap(ctx context.Context, name, revision string, data []byte) (next string, err error) {
	err = a.f.call("swap", func() (err error) { next, err = a.Store.Swap(ctx, name, revision, data); return err })
	return next, err
}

func (f *faulty) service(w *repositorytest.World) *repository.Service {
	return w.ServiceOn(f, artifactFaults{f.Names, f})
}

// step is one change of the repository, and how to see that it was made.
type step struct {
	run  func(s *repository.Service) error
	done func(s *repository.Service) bool
}

func steps(t *testing.T, w *repositorytest.World) map[string]step {
	draft := w.Draft("lamp", "2.0", 2).Signed(w.Publisher)
	policy := w.Policy("lamp")
	policy.Withdrawn = append(policy.Withdrawn, w.Draft("lamp", "1.0", 1).Release.Components[0].SHA256)
	next := w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{policy, w.Policy("pump")}})
	version := w.Service.Catalog().TimestampVersion
	return map[string]step{
		"publish": {
			func(s *repository.Service) error { _, err := s.Publish(t.Context(), "robot", draft); return err },
			func(s *repository.Service) bool { _, ok := s.Catalog().Products["lamp"].Release("lamp/2.0"); return ok },
		},
		"ceremony": {
			func(s *repository.Service) error { _, err := s.Apply(t.Context(), "alice", next); return err },
			func(s *repository.Service) bool { return s.Catalog().Targets == 2 },
		},
		"issue": {
			func(s *repository.Service) error { return s.Issue(t.Context()) },
			func(s *repository.Service) bool { return s.Catalog().TimestampVersion > version },
		},
		"hold": {
			func(s *repository.Service) error {
				_, err := s.Hold(t.Context(), "alice", "lamp/1.0", "why")
				return err
			},
			func(s *repository.Service) bool {
				r, ok := s.Catalog().Products["lamp"].Release("lamp/1.0")
				return ok && r.Hold
			},
		},
	}
}

// Whatever call fails, before or after it was carried out: what is served stays complete, the next Load completes the
// change or finds it undone, and the change repeated succeeds.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"publish", "ceremony", "issue", "hold"} {
		for _, after := range []bool{false, true} {
			t.Run(name+map[bool]string{false: " before", true: " after"}[after], func(t *testing.T) {
				t.Parallel()
				crashes(t, name, after)
			})
		}
	}
}

func crashes(t *testing.T, name string, after bool) {
	for at := 1; ; at++ {
		w := repositorytest.New(t)
		w.Apply(w.First(w.Policy("lamp")))
		w.Publish(w.Draft("lamp", "1.0", 1))
		change := steps(t, w)[name]
		f := &faulty{Store: w.Store, Names: w.Blobs, at: -1, after: after}
		service := f.service(w)
		w.Load(service)
		f.failAt(at)
		err := change.run(service)
		if !f.dead {
			if err != nil {
				t.Fatalf("call %d: %v", at, err)
			}
			if at < 4 {
				t.Fatalf("only %d calls were counted", at-1)
			}
			return // every call has failed once
		}
		if err == nil && !change.done(service) { // a hold takes effect without the rest
			t.Fatalf("call %d failed, but the change reports success", at)
		}
		if err != nil && !strings.Contains(err.Error(), errInjected.Error()) {
			t.Fatalf("call %d: %v", at, err)
		}
		check(t, w, service) // as it is served by the process that is in trouble
		next := w.ServiceOn(w.Store, w.Blobs)
		w.Load(next)
		check(t, w, next)
		f.failAt(-1)
		w.Load(service)
		if change.done(next) != change.done(service) {
			t.Errorf("call %d: two processes see different states", at)
		}
		if name != "hold" && change.done(next) {
			continue
		}
		if err := change.run(next); err != nil {
			t.Fatalf("call %d: again: %v", at, err)
		}
		if !change.done(next) {
			t.Errorf("call %d: the repeated change is not there", at)
		}
		check(t, w, next)
	}
}
