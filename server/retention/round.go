package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// removal is a blob in an audit event.
type removal struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Bytes  int64         `json:"bytes,omitzero"`
}

// finish removes what an earlier round condemned and did not come to remove. After a restore it is looked at anew instead.
func (w *work) finish(ctx context.Context) error {
	for {
		condemned, err := w.store.CondemnedBlobs(ctx, batchBlobs)
		if err != nil {
			return fmt.Errorf("cannot read what is condemned: %w", err)
		}
		if len(condemned) == 0 {
			return nil
		}
		var list []removal
		for _, b := range condemned {
			list = append(list, removal{SHA256: b.SHA256})
		}
		end := w.remove
		if w.restored() {
			end = w.pardon
		}
		if err := end(ctx, list); err != nil {
			return err
		}
	}
}

// pardon forgets that blobs were condemned.
func (w *work) pardon(ctx context.Context, batch []removal) error {
	var change store.Change
	for _, r := range batch {
		change.Writes = append(change.Writes, store.ForgetBlob{SHA256: r.SHA256})
	}
	if err := w.commit(ctx, change); err != nil {
		return fmt.Errorf("cannot forget what the lost server condemned: %w", err)
	}
	return nil
}

// prune gives up releases that nothing needs, product by product.
func (w *work) prune(ctx context.Context) error {
	if w.cfg.KeepReleases == 0 || w.restored() {
		return nil
	}
	for name := range w.repository.Catalog().Products {
		if err := w.lock(ctx); err != nil {
			return err
		}
		idle, err := w.idle(ctx, name)
		if errors.Is(err, errNoPolicy) {
			continue
		}
		if err != nil {
			return err
		}
		for _, release := range idle {
			if _, err := w.Prune(ctx, w.actor, release, "older than the releases that the configuration keeps"); err != nil {
				return err
			}
			w.result.Pruned = append(w.result.Pruned, release)
		}
	}
	return nil
}

// idle lists the releases of a product that nothing needs and that are not among the newest.
func (s *Service) idle(ctx context.Context, product string) ([]string, error) {
	rows, err := s.store.ListReleases(ctx, product)
	if err != nil {
		return nil, fmt.Errorf("cannot list releases: %w", err)
	}
	rows = slices.DeleteFunc(rows, func(r store.Release) bool { return r.Product != product })
	d, err := s.decide(ctx, product, rows)
	if err != nil {
		return nil, err
	}
	d.KeepRecent(s.cfg.KeepReleases)
	needs := d.Needs()
	var out []string
	for _, row := range rows {
		if row.PrunedAt.IsZero() && len(needs[row.Name]) == 0 {
			out = append(out, row.Name)
		}
	}
	return out, nil
}

// walk calls visit with pages of the artifact store, from where the last round stopped.
func (w *work) walk(ctx context.Context, kind artifacts.Kind, visit func(ctx context.Context, page []artifacts.Found) error) error {
	for seen := 0; seen < maxEntries; seen += pageEntries {
		if err := w.lock(ctx); err != nil {
			return err
		}
		page, err := w.artifacts.Walk(ctx, kind, w.cursor[kind], pageEntries)
		if err != nil {
			return fmt.Errorf("cannot list the artifact store: %w", err)
		}
		if err := visit(ctx, page); err != nil {
			return err
		}
		if len(page) < pageEntries {
			delete(w.cursor, kind)
			return nil
		}
		w.cursor[kind] = page[len(page)-1].SHA256
	}
	w.result.More = true
	return nil
}

// uploads throws away uploads that nobody continued.
func (w *work) uploads(ctx context.Context) error {
	before := w.now().Add(-w.cfg.Uploads)
	return w.walk(ctx, artifacts.UnfinishedUploads, func(ctx context.Context, page []artifacts.Found) error {
		var gone []removal
		var failed error
		for _, f := range page {
			if !f.Modified.Before(before) {
				continue
			}
			removed, err := w.artifacts.RemoveUpload(ctx, f.SHA256, before)
			if failed = err; err != nil {
				break
			}
			if removed {
				gone = append(gone, removal{SHA256: f.SHA256})
			}
		}
		w.result.Uploads += len(gone)
		if len(gone) == 0 {
			return failed
		}
		// An upload is nobody's artifact: its end is told afterwards, and lost when the server ends in between.
		return errors.Join(failed, w.commit(ctx, store.Change{Events: w.event(audit.ArtifactsRemoved, map[string]any{"uploads": gone})}))
	})
}

func (w *work) event(kind string, data map[string]any) []store.Event {
	return []store.Event{{At: w.now(), Type: kind, Actor: w.actor, Subject: "artifacts", Data: data}}
}

// blobs condemns and removes what nothing refers to.
func (w *work) blobs(ctx context.Context) error {
	return w.walk(ctx, artifacts.CompleteBlobs, func(ctx context.Context, page []artifacts.Found) error {
		refs, err := w.references(ctx)
		if err != nil {
			return err
		}
		before := w.now().Add(-w.cfg.Grace)
		found, err := w.garbage(ctx, page, refs, before)
		if err != nil {
			return err
		}
		var list []removal
		for _, c := range found {
			if !c.until.IsZero() {
				w.result.Retained++
				continue
			}
			list = append(list, removal{SHA256: c.SHA256, Bytes: c.Size})
		}
		for batch := range slices.Chunk(list, batchBlobs) {
			if err := w.condemn(ctx, batch, refs.repo, before); err != nil {
				return err
			}
			if err := w.remove(ctx, batch); err != nil {
				return err
			}
		}
		return nil
	})
}

// condemn takes the blobs away from everybody who would rely on them. It is store.ErrConflict when somebody touched one of
// them, or when the releases that were looked at are not the current ones.
func (w *work) condemn(ctx context.Context, batch []removal, repo int64, before time.Time) error {
	change := store.Change{
		Expect: []store.Expect{{Table: store.Repos, Key: store.RepoImage, Version: repo}},
		Events: w.event(audit.ArtifactsCondemned, map[string]any{"blobs": batch}),
	}
	now := w.now()
	for _, r := range batch {
		change.Writes = append(change.Writes, store.CondemnBlob{SHA256: r.SHA256, Before: before, At: now})
	}
	if err := w.commit(ctx, change); err != nil {
		return fmt.Errorf("cannot condemn blobs: %w", err)
	}
	crash.Here(crash.Condemned)
	return nil
}

// remove removes condemned blobs and then forgets them. It stops before the lock could be another's: what stays is
// condemned still, and the next round goes on.
func (w *work) remove(ctx context.Context, batch []removal) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, lockFor/2)
	defer cancel()
	var change store.Change
	var gone []removal
	var failed error
	for _, r := range batch {
		err := w.artifacts.Remove(bounded, r.SHA256)
		if errors.Is(err, artifacts.ErrRetained) {
			w.result.Retained++
		} else if err != nil {
			failed = fmt.Errorf("cannot remove %s: %w", r.SHA256, err)
			break
		} else {
			gone = append(gone, r)
		}
		change.Writes = append(change.Writes, store.ForgetBlob{SHA256: r.SHA256})
	}
	if len(change.Writes) == 0 {
		return failed
	}
	if len(gone) > 0 {
		change.Events = w.event(audit.ArtifactsRemoved, map[string]any{"blobs": gone})
	}
	crash.Here(crash.Collected)
	if err := w.commit(context.WithoutCancel(ctx), change); err != nil {
		return errors.Join(failed, fmt.Errorf("cannot write what was removed: %w", err))
	}
	w.result.Blobs += len(gone)
	for _, r := range gone {
		w.result.Bytes += r.Bytes
	}
	return failed
}
