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
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what the repository reads and writes; contract as in package store.
type Store interface {
	Baselines
	Repo(ctx context.Context, name string) (store.Repo, error)
	MetadataFile(ctx context.Context, name string) ([]byte, error)
	Release(ctx context.Context, name string) (store.Release, error)
	ListReleases(ctx context.Context, product string) ([]store.Release, error)
	Approvals(ctx context.Context, subject string) ([]fleet.Approval, error)
	Commit(ctx context.Context, change store.Change) error
}

// Baselines is what the repository reads of platform baselines; contract as in package store.
type Baselines interface {
	CurrentBaselines(ctx context.Context, product string) ([]store.Baseline, error)
	Baselines(ctx context.Context, product, profile string, limit int) ([]store.Baseline, error)
	Events(ctx context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error)
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
	// Above is a version that every online role has to lie above: a server before a restore may have used any up to it,
	// and clients refuse what goes backwards. 0 if this server was never restored.
	Above int64
}

// Service runs the Image repository. It is safe for concurrent use; one change at a time.
type Service struct {
	store     Store
	artifacts artifacts.Store
	keys      Keys
	lives     Lives
	now       func() time.Time
	log       *slog.Logger

	catalog atomic.Pointer[Catalog]

	mu   sync.Mutex // one change at a time in this process; the row version guards against others
	seen int64      // row version that catalog was made from

	// shows is held while the catalog is replaced. Unlike mu it is never held while the artifact store is asked: a hold
	// takes this one alone, so a store that answers slowly, or never, cannot delay it.
	shows sync.Mutex
	held  int64 // row version that the catalog's holds are of
}

// New joins the parts; Load must be called before Catalog is useful.
func New(s Store, a artifacts.Store, keys Keys, lives Lives, now func() time.Time, log *slog.Logger) *Service {
	service := &Service{store: s, artifacts: a, keys: keys, lives: lives, now: now, log: log}
	service.catalog.Store(&Catalog{Products: map[string]*Product{}})
	return service
}

// Catalog returns the current view; it is empty before the first Load.
func (s *Service) Catalog() *Catalog { return s.catalog.Load() }

// attempts bounds how often something is tried again that lost a race against another replica.
const attempts = 8

// Load finishes a publication that was interrupted and makes the catalog from the database. Call it at the start and
// whenever another replica may have changed something; it does nothing when the row version is the known one.
func (s *Service) Load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follow(ctx)
}

// follow brings the catalog to the current row version. What it shows lies in the artifact store already, and all of it
// belongs to one row version.
func (s *Service) follow(ctx context.Context) error {
	for range attempts {
		repo, err := s.store.Repo(ctx, store.RepoImage)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the repository's state: %w", err)
		}
		if s.seen == repo.Version {
			return nil
		}
		if s.fromBefore(repo) {
			if err := s.raise(ctx, repo); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			continue
		}
		if repo, err = s.finish(ctx, repo); err != nil {
			return errors.Join(err, s.followHolds(ctx))
		}
		c, err := s.view(ctx, repo)
		if err != nil {
			return errors.Join(err, s.followHolds(ctx))
		}
		if shown, err := s.show(ctx, repo.Version, c); shown || err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot load the repository: %w", store.ErrConflict)
}

// show replaces the catalog, unless the row has moved on since c was made.
func (s *Service) show(ctx context.Context, version int64, c *Catalog) (shown bool, err error) {
	s.shows.Lock()
	defer s.shows.Unlock()
	after, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return false, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if after.Version != version {
		return false, nil
	}
	s.seen, s.held = version, version
	s.catalog.Store(c)
	return true, nil
}

// followHolds takes over the holds of what the catalog shows already. It needs the database alone: whoever can take the
// artifact store down must not keep a release on offer that somebody holds.
func (s *Service) followHolds(ctx context.Context) error {
	s.shows.Lock()
	defer s.shows.Unlock()
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if errors.Is(err, store.ErrNotFound) || err == nil && s.held == repo.Version {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the repository's state: %w", err)
	}
	now := *s.Catalog()
	now.Products = maps.Clone(now.Products)
	for name, p := range now.Products {
		rows, err := s.store.ListReleases(ctx, name)
		if err != nil {
			return fmt.Errorf("cannot list releases: %w", err)
		}
		held := map[string]bool{}
		for _, row := range rows {
			held[row.Name] = row.Hold
		}
		product := *p
		product.Releases = make([]*Release, len(p.Releases))
		for i, r := range p.Releases {
			release := *r
			release.Hold = held[r.Name]
			product.Releases[i] = &release
		}
		now.Products[name] = &product
	}
	s.held = repo.Version
	s.catalog.Store(&now)
	return nil
}

// retry runs a change on the current state, and again from the start when another replica was faster.
func (s *Service) retry(ctx context.Context, change func() error) error {
	var err error
	for range attempts {
		if err = s.follow(ctx); err != nil {
			return err
		}
		if err = change(); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

// Run issues timestamps and follows other replicas until the context ends. It follows their holds by itself: the rest
// may wait for the artifact store.
func (s *Service) Run(ctx context.Context, follow time.Duration) error {
	var holds sync.WaitGroup
	defer holds.Wait()
	holds.Go(func() { s.runHolds(ctx, follow) })
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

func (s *Service) runHolds(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.followHolds(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot follow the holds of other replicas", "error", err)
		}
	}
}

// draft is a repository state in the making: what changes, and the files that carry it.
type draft struct {
	repo    store.Repo
	objects []tufrepo.Object
	docs    map[string]tufrepo.Doc // snapshot meta by role, versions as current
	// policies has the policy of every delegated product. A role that is not delegated any more stays in the snapshot,
	// or clients would see a rollback.
	policies map[string]artifacts.Policy
}

// sign completes a draft with a new snapshot and a new timestamp. It appends the writes to the change; nothing is visible
// before commit.
func (s *Service) sign(d *draft, change *store.Change) error {
	now := s.now()
	d.repo.Snapshot = s.after(d.repo.Snapshot)
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
	d.repo.Timestamp = s.after(d.repo.Timestamp)
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
	crash.Here(crash.PublishDecided)
	if err := s.store.Commit(ctx, change); err != nil {
		return fmt.Errorf("cannot commit the publication: %w", err)
	}
	crash.Here(crash.PublishCommitted)
	return s.follow(ctx)
}

// finish copies what is pending to the artifact store, notes that it is done, and returns the row as it is then.
func (s *Service) finish(ctx context.Context, repo store.Repo) (store.Repo, error) {
	for range attempts {
		if len(repo.Pending) == 0 {
			return repo, nil
		}
		failed := s.copyPending(ctx, repo)
		lost := errors.Is(failed, store.ErrConflict) || errors.Is(failed, artifacts.ErrRevision) || errors.Is(failed, tufrepo.ErrRollback)
		if failed != nil && !lost {
			return store.Repo{}, failed
		}
		now, err := s.store.Repo(ctx, store.RepoImage)
		if err != nil {
			return store.Repo{}, fmt.Errorf("cannot read the repository's state: %w", err)
		}
		if errors.Is(failed, tufrepo.ErrRollback) && now.Version == repo.Version {
			return store.Repo{}, failed // nobody went on: the store is ahead of the database
		}
		repo = now
	}
	return store.Repo{}, fmt.Errorf("cannot publish metadata: %w", store.ErrConflict)
}

func (s *Service) copyPending(ctx context.Context, repo store.Repo) error {
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
	if err != nil {
		return fmt.Errorf("cannot note the publication: %w", err)
	}
	crash.Here(crash.PublishNoted)
	return nil
}

// begin starts a draft from the state that the catalog shows. Its error is store.ErrConflict when the state has moved on.
func (s *Service) begin(ctx context.Context) (*draft, error) {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if errors.Is(err, store.ErrNotFound) {
		repo = store.Repo{Name: store.RepoImage}
	} else if err != nil {
		return nil, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if repo.Version != s.seen {
		return nil, fmt.Errorf("cannot begin a publication: %w", store.ErrConflict)
	}
	return s.draftOf(ctx, repo, s.Catalog())
}

// draftOf starts a draft from a state and the catalog that shows it.
func (s *Service) draftOf(ctx context.Context, repo store.Repo, c *Catalog) (*draft, error) {
	d := &draft{repo: repo, docs: map[string]tufrepo.Doc{}, policies: map[string]artifacts.Policy{}}
	for name, p := range c.Products {
		d.policies[name] = p.Policy
	}
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
