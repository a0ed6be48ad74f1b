package repository

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// after is the next version of an online role.
func (s *Service) after(version int64) int64 { return max(version, s.lives.Above) + 1 }

// fromBefore says that what the row publishes was signed before the server was restored.
func (s *Service) fromBefore(repo store.Repo) bool {
	return s.lives.Above > 0 && repo.Timestamp > 0 && repo.Timestamp <= s.lives.Above
}

// raise signs every online role anew, above all that the lost server may have published, before anything of the restored
// state is shown. The artifact store may be ahead of it or empty: whatever the new snapshot leads to is copied once more.
func (s *Service) raise(ctx context.Context, repo store.Repo) error {
	c, err := s.view(ctx, repo)
	if err != nil {
		return err
	}
	d, err := s.draftOf(ctx, repo, c)
	if err != nil {
		return err
	}
	if err := s.republish(ctx, d, c); err != nil {
		return err
	}
	for _, product := range sortedKeys(d.policies) {
		rows, err := s.store.ListReleases(ctx, product)
		if err != nil {
			return fmt.Errorf("cannot list releases: %w", err)
		}
		if err := s.signProduct(ctx, d, product, rows); err != nil {
			return err
		}
	}
	var change store.Change
	if err := s.sign(d, &change); err != nil {
		return err
	}
	if err := s.check(ctx, d); err != nil {
		return fmt.Errorf("the metadata of the restored server would be refused: %w", err)
	}
	change.Events = append(change.Events, store.Event{At: s.now(), Type: audit.TimestampIssued, Actor: "server", Subject: store.RepoImage, Data: map[string]any{
		"version": d.repo.Timestamp, "snapshot": d.repo.Snapshot, "before_restore": repo.Timestamp,
	}})
	if err := s.store.Commit(ctx, change); err != nil {
		return fmt.Errorf("cannot commit the publication: %w", err)
	}
	return nil
}

// republish adds what the offline roles signed, and the roles of products that are not delegated any more.
func (s *Service) republish(ctx context.Context, d *draft, c *Catalog) error {
	for i, root := range c.ImageRoots {
		d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.FileName(int64(i)+1, tufrepo.RoleRoot), Data: root})
	}
	targets, err := s.draftFile(ctx, d, tufrepo.FileName(d.repo.Targets, tufrepo.RoleTargets))
	if err != nil {
		return err
	}
	spec, err := tufrepo.ParseTargets(targets)
	if err != nil {
		return fmt.Errorf("cannot read the offline targets: %w", err)
	}
	for _, path := range sortedKeys(spec.Files) {
		d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.TargetFileName(path, spec.Files[path].SHA256), Data: c.OfflineFiles[path]})
	}
	d.objects = append(d.objects, tufrepo.Object{Name: tufrepo.FileName(d.repo.Targets, tufrepo.RoleTargets), Data: targets})
	for _, product := range sortedKeys(d.repo.Products) {
		if _, delegated := d.policies[product]; delegated {
			continue
		}
		name := tufrepo.FileName(d.repo.Products[product], product)
		data, err := s.draftFile(ctx, d, name)
		if err != nil {
			return err
		}
		d.objects = append(d.objects, tufrepo.Object{Name: name, Data: data})
	}
	return nil
}
