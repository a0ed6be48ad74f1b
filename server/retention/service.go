// Package retention gives back what the artifact store holds and nobody needs any more: unfinished uploads, blobs that no
// release refers to, and the images of releases that were pruned.
//
// It promises never to remove what a device may still need: whatever a release refers to that is not pruned stays, and a
// release is pruned only when Decision finds no reason to keep it. It promises that a publication and a collection of the
// same blob cannot pass each other unseen: one of them is refused by the database. A publisher touches a blob, looks
// whether it is there, and keeps it in the Change that refers to it; collection condemns a blob in a Change that is
// refused when the blob was touched, removes it, and forgets it. It refuses to work on an artifact store that belongs to
// another database, and stops at the first release that it cannot read. One replica works at a time, under a fenced lock;
// a crash at any point is finished by the next round.
//
// Trusted with availability: an attacker who controls this code can withhold updates and cannot change any.
package retention

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// Errors that callers test for.
var (
	// ErrForeign means that the artifact store belongs to another database: nothing in it is ours to remove.
	ErrForeign = errors.New("the artifact store belongs to another database")
	// ErrBusy means that somebody else collects, or looks what there is to collect, at this moment.
	ErrBusy = errors.New("somebody else collects garbage, or looks for it, at this moment")
)

// Bounds of one round.
const (
	pageEntries = 500  // entries of the artifact store that are looked at together
	maxEntries  = 5000 // that one round looks at; the next one goes on from there
	batchBlobs  = 32   // that are condemned and removed together
	lockName    = "retention"
	lockFor     = 5 * time.Minute
	devicePage  = 500
	ownerName   = "retention/owner"
	ownerKey    = "retention.owner"
)

// Store is what retention reads and writes; contract as in package store.
type Store interface {
	Setting(ctx context.Context, name string) (value []byte, version int64, err error)
	Repo(ctx context.Context, name string) (store.Repo, error)
	ListReleases(ctx context.Context, product string) ([]store.Release, error)
	ListDevices(ctx context.Context, f store.DeviceFilter, after string, limit int) ([]fleet.Device, error)
	Commit(ctx context.Context, change store.Change) error
	Ledger
}

// Ledger is what is known about single blobs, and who may remove them.
type Ledger interface {
	BlobsOf(ctx context.Context, digests []digest.SHA256) ([]store.Blob, error)
	CondemnedBlobs(ctx context.Context, limit int) ([]store.Blob, error)
	Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (fence int64, ok bool, err error)
	Unlock(ctx context.Context, name, holder string) error
}

// Artifacts is the store that is cleaned.
type Artifacts interface {
	artifacts.Store
	artifacts.Walker
}

// Config is how long things are kept. All lengths are needed.
type Config struct {
	Every        time.Duration // between two rounds
	Grace        time.Duration // since a blob was written, or somebody relied on it
	Uploads      time.Duration // since an unfinished upload moved
	KeepReleases int           // prune older releases that nothing needs; 0 prunes by hand only
	// Restored is when the database was restored from a backup, zero if it never was. Until the grace has passed since then
	// nothing is condemned or pruned: what the lost server published after the backup looks like garbage, and is not.
	Restored time.Time
	// Holder names who holds the lock. Optional: a name that lives as long as the process. A server that shares its
	// database with nobody gives a lasting one, and need not wait for the lock of its dead predecessor.
	Holder string
}

// Service collects garbage. It is safe for concurrent use.
type Service struct {
	store      Store
	artifacts  Artifacts
	repository *repository.Service
	cfg        Config
	now        func() time.Time
	log        *slog.Logger
	holder     string
	done       func(Result) // after each round that came to its end

	plan   sync.Mutex // one plan at a time in this process
	mu     sync.Mutex // one round at a time in this process; guards all below
	cursor map[artifacts.Kind]digest.SHA256
}

// restored says that the database was restored not longer ago than the grace.
func (s *Service) restored() bool { return s.now().Before(s.cfg.Restored.Add(s.cfg.Grace)) }

// New joins the parts. done is told about each finished round.
func New(s Store, a Artifacts, r *repository.Service, cfg Config, now func() time.Time, log *slog.Logger, done func(Result)) *Service {
	return &Service{store: s, artifacts: a, repository: r, cfg: cfg, now: now, log: log, holder: cmp.Or(cfg.Holder, rand.Text()), done: done,
		cursor: map[artifacts.Kind]digest.SHA256{}}
}

// Result is what one round did.
type Result struct {
	Pruned   []string // releases
	Blobs    int      // removed
	Bytes    int64    // of them
	Uploads  int      // unfinished ones that were thrown away
	Retained int      // blobs that the store's object lock keeps until it ends
	More     bool     // the round reached a bound; the next one goes on
}

func (r *Result) add(other Result) {
	r.Pruned = append(r.Pruned, other.Pruned...)
	r.Blobs += other.Blobs
	r.Bytes += other.Bytes
	r.Uploads += other.Uploads
	r.Retained += other.Retained
	r.More = other.More
}

// Run makes a round now and then until the context ends. What fails is logged and tried again in the next round.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		result, err := s.Collect(ctx, "retention")
		switch {
		case errors.Is(err, ErrBusy), ctx.Err() != nil:
		case errors.Is(err, store.ErrConflict):
			s.log.InfoContext(ctx, "garbage collection makes way for a publication", "error", err)
		case err != nil:
			s.log.ErrorContext(ctx, "cannot collect garbage", "error", err)
		case result.Blobs+result.Uploads+len(result.Pruned) > 0:
			s.log.InfoContext(ctx, "garbage collected", "blobs", result.Blobs, "bytes", result.Bytes, "uploads", result.Uploads, "pruned", result.Pruned)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// rounds bounds what one Collect does.
const rounds = 20

// Collect removes what Plan shows, as far as the bounds of some rounds let it. It returns ErrBusy, ErrForeign, or
// store.ErrConflict when a publication was faster.
func (s *Service) Collect(ctx context.Context, actor string) (Result, error) {
	if !s.mu.TryLock() { // a round reads everything: callers must not pile up
		return Result{}, ErrBusy
	}
	defer s.mu.Unlock()
	var all Result
	for range rounds {
		one, err := s.round(ctx, actor)
		all.add(one)
		if err != nil {
			return all, err
		}
		s.done(one)
		if !one.More {
			break
		}
	}
	return all, nil
}

// round is one bounded pass under the lock.
func (s *Service) round(ctx context.Context, actor string) (Result, error) {
	if !s.repository.Catalog().Initialised() {
		return Result{}, nil
	}
	w := &work{Service: s, actor: actor}
	if err := w.lock(ctx); err != nil {
		return Result{}, err
	}
	defer w.unlock(ctx)
	if err := s.own(ctx); err != nil {
		return Result{}, err
	}
	steps := []func(context.Context) error{w.finish, w.prune, w.uploads, w.blobs}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return w.result, err
		}
	}
	return w.result, nil
}

// work is one round.
type work struct {
	*Service
	actor  string
	fence  int64
	result Result
}

// lock takes the lock, or makes it last longer. A fence that moved means that somebody else had it in between.
func (w *work) lock(ctx context.Context) error {
	now := w.now()
	fence, ok, err := w.store.Lock(ctx, lockName, w.holder, lockFor, now)
	if err != nil {
		return fmt.Errorf("cannot lock garbage collection: %w", err)
	}
	if !ok || w.fence != 0 && fence != w.fence {
		return ErrBusy
	}
	w.fence = fence
	return nil
}

func (w *work) unlock(ctx context.Context) {
	if err := w.store.Unlock(context.WithoutCancel(ctx), lockName, w.holder); err != nil {
		w.log.WarnContext(ctx, "cannot give the lock of garbage collection back; it ends by itself", "error", err)
	}
}

// commit adds the fence: a round that stood still for longer than its lock changes nothing any more.
func (w *work) commit(ctx context.Context, c store.Change) error {
	c.Expect = append(c.Expect, store.Expect{Table: store.Locks, Key: lockName, Version: w.fence})
	return w.store.Commit(ctx, c)
}

// own checks that the artifact store belongs to this database. The first round marks it.
func (s *Service) own(ctx context.Context) error {
	id, err := s.ownID(ctx)
	if err != nil {
		return err
	}
	have, _, err := s.artifacts.Load(ctx, ownerName)
	if errors.Is(err, artifacts.ErrNotFound) {
		if err = s.artifacts.Create(ctx, ownerName, id); err == nil {
			have = id
		}
	}
	if errors.Is(err, artifacts.ErrExists) || err == nil && string(have) != string(id) {
		return fmt.Errorf("%w: remove its document %q if this database has taken its place for good", ErrForeign, ownerName)
	}
	if err != nil {
		return fmt.Errorf("cannot see whose the artifact store is: %w", err)
	}
	return nil
}

func (s *Service) ownID(ctx context.Context) ([]byte, error) {
	for range 2 {
		id, _, err := s.store.Setting(ctx, ownerKey)
		if err == nil {
			return id, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("cannot read who owns the artifact store: %w", err)
		}
		err = s.store.Commit(ctx, store.Change{
			Expect: []store.Expect{{Table: store.Settings, Key: ownerKey, Version: 0}},
			Writes: []store.Write{store.PutSetting{Name: ownerKey, Value: []byte(rand.Text())}},
		})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("cannot write who owns the artifact store: %w", err)
		}
	}
	return nil, fmt.Errorf("cannot write who owns the artifact store: %w", store.ErrConflict)
}
