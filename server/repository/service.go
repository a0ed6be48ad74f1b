package repository

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what the repository reads and writes; contract as in package store.
type Store interface {
	Repo(ctx context.Context, name string) (store.Repo, error)
	MetadataFile(ctx context.Context, name string) ([]byte, error)
	Release(ctx context.Context, name string) (store.Release, error)
	ListReleases(ctx context.Context, product string) ([]store.Release, error)
	Approvals(ctx context.Context, subject string) ([]fleet.Approval, error)
	Commit(ctx context.Context, change store.Change) error
}

// Keys are the online keys. The offline root names their public halves.
type Keys struct {
	Snapshot  crypto.Signer
	Timestamp crypto.Signer
	Product   crypto.Signer
	Director  crypto.Signer
}

// Lives are how long online metadata lives before it must be signed again.
type Lives struct {
	Timestamp time.Duration
	Snapshot  time.Duration
	Product   time.Duration
	Every     time.Duration // a new timestamp, and with it a new beacon
}

// Service runs the Image repository. It is safe for concurrent use; one change at a time.
type Service struct {
	store     Store
	artifacts artifacts.Store
	keys      Keys
	lives     Lives
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // one change at a time in this process; the row version guards against others
	catalog atomic.Pointer[Catalog]
	seen    atomic.Int64 // row version that catalog was made from
}

// New joins the parts; Load must be called before Catalog is useful.
func New(s Store, a artifacts.Store, keys Keys, lives Lives, now func() time.Time, log *slog.Logger) *Service {
	return &Service{store: s, artifacts: a, keys: keys, lives: lives, now: now, log: log}
}

// Catalog returns the current view, nil before the first Load.
func (s *Service) Catalog() *Catalog { return s.catalog.Load() }

// Load finishes a publication that was interrupted and makes the catalog from the database. Call it at the start and
// whenever another replica may have changed something; it does nothing when the row version is the known one.
func (s *Service) Load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if errors.Is(err, store.ErrNotFound) {
		s.catalog.Store(&Catalog{Products: map[string]*Product{}})
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if s.Catalog() != nil && s.seen.Load() == repo.Version {
		return nil
	}
	if err := s.finish(ctx, repo); err != nil {
		return err
	}
	return s.reload(ctx)
}

// Run issues timestamps and follows other replicas until the context ends.
func (s *Service) Run(ctx context.Context, follow time.Duration) error {
	tick := time.NewTicker(follow)
	defer tick.Stop()
	for {
		if err := s.Load(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot load the repository", "error", err)
		} else if err := s.IssueDue(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot issue a timestamp", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// draft is a repository state in the making: what changes, and the files that carry it.
type draft struct {
	repo    store.Repo
	objects []tufrepo.Object
	docs    map[string]tufrepo.Doc // snapshot meta by role, versions as current
}

// sign completes a draft: snapshot if anything below it changed or it ages, and always a new timestamp. It appends the
// writes to the change; nothing is visible before commit.
func (s *Service) sign(d *draft, change *store.Change) error {
	now := s.now()
	d.repo.Snapshot++
	snapshot, err := tufrepo.SignSnapshot(d.repo.Snapshot, expiry(now, s.lives.Snapshot), d.docs, s.keys.Snapshot)
	if err != nil {
		return fmt.Errorf("cannot sign the snapshot: %w", err)
	}
	d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.FileName(d.repo.Snapshot, tufrepo.RoleSnapshot), Data: snapshot})
	return s.stamp(d, tufrepo.DocOf(d.repo.Snapshot, snapshot), change)
}

// stamp signs a timestamp over the snapshot and completes the change.
func (s *Service) stamp(d *draft, snapshot tufrepo.Doc, change *store.Change) error {
	now := s.now()
	d.repo.Timestamp++
	doc, err := tufrepo.SignTimestamp(d.repo.Timestamp, expiry(now, s.lives.Timestamp), snapshot, newNonce(), s.keys.Timestamp)
	if err != nil {
		return fmt.Errorf("cannot sign the timestamp: %w", err)
	}
	d.repo.TimestampDoc, d.repo.IssuedAt = doc, now
	d.repo.Pending = nil
	for _, o := range d.objects {
		d.repo.Pending = append(d.repo.Pending, o.Name)
		change.Writes = append(change.Writes, store.AddMetadata{Metadata: store.Metadata{Name: tufrepo.StorePrefix + o.Name, Bytes: o.Data}})
	}
	d.repo.Pending = append(d.repo.Pending, tufrepo.TimestampName)
	change.Expect = append(change.Expect, store.Expect{Table: store.Repos, Key: store.RepoImage, Version: d.repo.Version})
	change.Writes = append(change.Writes,
		store.PutRepo{Repo: d.repo},
		store.AddBeacon{Beacon: store.Beacon{Digest: digest.Of(doc), Version: d.repo.Timestamp, IssuedAt: now, Doc: doc}})
	return nil
}

// publish commits a draft and makes it visible: database first, then the store in the safe order, then the catalog.
// A crash in between is finished by the next Load.
func (s *Service) publish(ctx context.Context, d *draft, change store.Change) error {
	if err := s.store.Commit(ctx, change); err != nil {
		return fmt.Errorf("cannot commit the publication: %w", err)
	}
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if err := s.finish(ctx, repo); err != nil {
		return err
	}
	return s.reload(ctx)
}

// finish copies what is pending to the artifact store and notes that it is done.
func (s *Service) finish(ctx context.Context, repo store.Repo) error {
	if len(repo.Pending) == 0 {
		return nil
	}
	var objects []tufrepo.Object
	for _, name := range repo.Pending {
		if name == tufrepo.TimestampName {
			continue
		}
		data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+name)
		if err != nil {
			return fmt.Errorf("cannot read pending metadata %s: %w", name, err)
		}
		objects = append(objects, tufrepo.Object{Name: name, Data: data})
	}
	if err := tufrepo.Publish(ctx, s.artifacts, objects, repo.TimestampDoc); err != nil {
		return fmt.Errorf("cannot publish metadata: %w", err)
	}
	done := repo
	done.Pending = nil
	err := s.store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Repos, Key: store.RepoImage, Version: repo.Version}},
		Writes: []store.Write{store.PutRepo{Repo: done}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil // somebody went on in the meantime; the store refuses to go back
	}
	if err != nil {
		return fmt.Errorf("cannot note the publication: %w", err)
	}
	return nil
}

// begin starts a draft from the current state.
func (s *Service) begin(ctx context.Context) (*draft, error) {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if errors.Is(err, store.ErrNotFound) {
		return &draft{repo: store.Repo{Name: store.RepoImage, Products: map[string]int64{}}, docs: map[string]tufrepo.Doc{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if err := s.finish(ctx, repo); err != nil {
		return nil, err
	}
	if len(repo.Pending) > 0 {
		if repo, err = s.store.Repo(ctx, store.RepoImage); err != nil {
			return nil, fmt.Errorf("cannot read the repository's state: %w", err)
		}
	}
	d := &draft{repo: repo, docs: map[string]tufrepo.Doc{}}
	d.repo.Products = maps.Clone(repo.Products)
	if d.repo.Products == nil {
		d.repo.Products = map[string]int64{}
	}
	names := map[string]int64{tufrepo.RoleTargets: repo.Targets}
	maps.Copy(names, repo.Products)
	for role, version := range names {
		if version == 0 {
			continue
		}
		data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.FileName(version, role))
		if err != nil {
			return nil, fmt.Errorf("cannot read %s metadata: %w", role, err)
		}
		d.docs[role] = tufrepo.DocOf(version, data)
	}
	return d, nil
}

func expiry(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}
