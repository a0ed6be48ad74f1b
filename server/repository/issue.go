package repository

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

func newNonce() (n [32]byte) {
	_, _ = rand.Read(n[:])
	return n
}

// IssueDue issues a new timestamp when the current one is old enough; before that it signs again whatever is about to
// expire. Two replicas that try at once end with one timestamp.
func (s *Service) IssueDue(ctx context.Context) error {
	c := s.Catalog()
	if !c.Initialised() || s.now().Sub(c.IssuedAt) < s.lives.Every {
		return nil
	}
	return s.Issue(ctx)
}

// Issue issues a new timestamp now. An uninitialised server signs nothing.
func (s *Service) Issue(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.follow(ctx); err != nil {
		return err
	}
	if !s.Catalog().Initialised() {
		return nil
	}
	err := s.issue(ctx)
	if errors.Is(err, store.ErrConflict) {
		return s.follow(ctx) // another replica was first
	}
	return err
}

func (s *Service) issue(ctx context.Context) error {
	d, err := s.begin(ctx)
	if err != nil {
		return err
	}
	change := store.Change{}
	fresh, err := s.refresh(ctx, d)
	if err != nil {
		return err
	}
	if fresh {
		err = s.sign(d, &change)
	} else {
		err = s.restamp(ctx, d, &change)
	}
	if err != nil {
		return err
	}
	change.Events = append(change.Events, store.Event{At: s.now(), Type: audit.TimestampIssued, Actor: "server", Subject: store.RepoImage, Data: map[string]any{
		"version": d.repo.Timestamp, "snapshot": d.repo.Snapshot,
	}})
	return s.publish(ctx, d, change)
}

// refresh signs product roles again that have less than a quarter of their life left, and says whether the snapshot has
// to change.
func (s *Service) refresh(ctx context.Context, d *draft) (bool, error) {
	changed := false
	for _, product := range sortedKeys(d.policies) {
		old, err := s.header(ctx, d.repo.Products[product], product)
		if err != nil {
			return false, err
		}
		if old.Expires.Sub(s.now()) > s.lives.Product/4 {
			continue
		}
		releases, err := s.store.ListReleases(ctx, product)
		if err != nil {
			return false, fmt.Errorf("cannot list releases: %w", err)
		}
		if err := s.signProduct(ctx, d, product, releases); err != nil {
			return false, err
		}
		changed = true
	}
	snapshot, err := s.header(ctx, d.repo.Snapshot, tufrepo.RoleSnapshot)
	if err != nil {
		return false, err
	}
	return changed || snapshot.Expires.Sub(s.now()) <= s.lives.Snapshot/4, nil
}

func (s *Service) header(ctx context.Context, version int64, role string) (tufrepo.Header, error) {
	data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.FileName(version, role))
	if err != nil {
		return tufrepo.Header{}, fmt.Errorf("cannot read %s metadata: %w", role, err)
	}
	return tufrepo.HeaderOf(data)
}

// restamp signs a new timestamp over the snapshot that is there.
func (s *Service) restamp(ctx context.Context, d *draft, change *store.Change) error {
	data, err := s.store.MetadataFile(ctx, tufrepo.StorePrefix+tufrepo.FileName(d.repo.Snapshot, tufrepo.RoleSnapshot))
	if err != nil {
		return fmt.Errorf("cannot read the snapshot: %w", err)
	}
	return s.stamp(d, tufrepo.DocOf(d.repo.Snapshot, data), change)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Age is how old the current timestamp is; a monitor alarms when it grows beyond the beacon window.
func (s *Service) Age() time.Duration {
	c := s.Catalog()
	if !c.Initialised() {
		return 0
	}
	return s.now().Sub(c.IssuedAt)
}
