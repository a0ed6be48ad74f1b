package repository

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Images returns the blobs that devices install a release from, Documents those that say what it is: bundles, Reference
// Values and SBOMs. A pruned release has lost its images and keeps its documents. What its Reference Values name is kept
// like an image: see Inputs.
func Images(r artifacts.Release) []digest.SHA256 {
	var out []digest.SHA256
	for _, c := range r.Components {
		out = append(out, c.SHA256)
		for _, d := range c.Deltas {
			out = append(out, d.SHA256)
		}
	}
	return out
}

// Documents: see Images.
func Documents(row store.Release) []digest.SHA256 {
	out := []digest.SHA256{digest.Of(bundleDocument(row.Bundles))}
	for _, sum := range row.Reference {
		out = append(out, sum)
	}
	for _, sum := range row.SBOMs {
		out = append(out, sum)
	}
	return out
}

// secure sees to it that everything the release consists of lies in the artifact store and stays there. Its writes belong
// into the Change that makes the release refer to it: if garbage collection was faster, the Change is store.ErrConflict.
func (s *Service) secure(ctx context.Context, row store.Release) ([]store.Write, error) {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return nil, fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	all := map[digest.SHA256]int64{} // length, where the statement says it
	for _, sum := range Documents(row) {
		all[sum] = 0
	}
	for _, c := range statement.Predicate.Components {
		all[c.SHA256] = c.Length
	}
	inputs, err := s.Inputs(ctx, row)
	if errors.Is(err, artifacts.ErrNotFound) {
		return nil, problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload the Reference Values of %s again: they are not there any more", row.Name)
	}
	if err != nil {
		return nil, problem.Busy(fmt.Errorf("cannot see what %s needs: %w", row.Name, err), retryStore)
	}
	for _, in := range inputs {
		all[in.SHA256] = in.Length
	}
	// First it is said that the blobs are needed, then looked whether they are there: collection that came in between has
	// either taken them before the look, or is refused.
	since := s.now()
	var touch, keep []store.Write
	for sum := range all {
		touch = append(touch, store.TouchBlob{SHA256: sum, At: since})
		keep = append(keep, store.KeepBlob{SHA256: sum, Since: since, At: since})
	}
	if err := s.store.Commit(ctx, store.Change{Writes: touch}); errors.Is(err, store.ErrConflict) {
		return nil, problem.Busy(fmt.Errorf("a blob of %s is being removed: %w", row.Name, err), retryStore)
	} else if err != nil {
		return nil, fmt.Errorf("cannot note what %s needs: %w", row.Name, err)
	}
	for sum, length := range all {
		if err := s.there(ctx, row.Name, sum, length); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

func (s *Service) there(ctx context.Context, release string, sum digest.SHA256, length int64) error {
	size, err := s.artifacts.Stat(ctx, sum)
	if errors.Is(err, artifacts.ErrNotFound) || err == nil && length > 0 && size != length {
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "upload %s of %s again: it is not there any more", sum, release)
	}
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot look at %s of %s: %w", sum, release, err), retryStore)
	}
	return nil
}

// retain locks what a release that gets published consists of, where the artifact store can.
func (s *Service) retain(ctx context.Context, row store.Release) error {
	r, ok := s.artifacts.(artifacts.Retainer)
	if !ok {
		return nil
	}
	all, err := BlobsOf(row)
	if err != nil {
		return err
	}
	inputs, err := s.Inputs(ctx, row)
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot see what %s needs: %w", row.Name, err), retryStore)
	}
	for _, in := range inputs {
		all = append(all, in.SHA256)
	}
	for _, sum := range all {
		if err := r.Retain(ctx, sum); err != nil {
			return problem.Busy(fmt.Errorf("cannot lock %s of %s: %w", sum, row.Name, err), retryStore)
		}
	}
	return nil
}

// Prune gives the images of a release up: it is offered to nobody any more, and what only it refers to is removed after
// the grace. It stays in the signed metadata and in the database, so that reports and devices that boot it are still
// judged. check has the last word on the state that the change is made against; its error is returned as it is.
func (s *Service) Prune(ctx context.Context, actor, name string, data map[string]any, check func(ctx context.Context, row store.Release) error) (api.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out api.Release
	err := s.retry(ctx, func() (err error) {
		out, err = s.prune(ctx, actor, name, data, check)
		return err
	})
	return out, err
}

func (s *Service) prune(ctx context.Context, actor, name string, data map[string]any, check func(ctx context.Context, row store.Release) error) (api.Release, error) {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	if repo.Version != s.seen {
		return api.Release{}, fmt.Errorf("cannot prune %s: %w", name, store.ErrConflict)
	}
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if !row.PrunedAt.IsZero() {
		return s.View(ctx, row, false)
	}
	if err := check(ctx, row); err != nil {
		return api.Release{}, err
	}
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return api.Release{}, fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	inputs, err := s.Inputs(ctx, row)
	if err != nil {
		return api.Release{}, problem.Busy(fmt.Errorf("cannot see what %s needed: %w", row.Name, err), retryStore)
	}
	now := s.now()
	row.PrunedAt = now
	change := store.Change{
		Expect: []store.Expect{
			{Table: store.Releases, Key: row.Name, Version: row.Version},
			{Table: store.Repos, Key: store.RepoImage, Version: repo.Version},
		},
		Writes: []store.Write{store.PutRelease{Release: row}, store.PutRepo{Repo: repo}}, // every replica sees it
		Events: []store.Event{{At: now, Type: audit.ReleasePruned, Actor: actor, Subject: row.Name, Data: data}},
	}
	unneeded := Images(statement.Predicate)
	for _, in := range inputs {
		unneeded = append(unneeded, in.SHA256)
	}
	for _, sum := range unneeded {
		change.Writes = append(change.Writes, store.TouchBlob{SHA256: sum, At: now}) // the grace begins now
	}
	if err := s.store.Commit(ctx, change); err != nil {
		return api.Release{}, fmt.Errorf("cannot write the release: %w", err)
	}
	if err := s.follow(ctx); err != nil {
		return api.Release{}, err
	}
	return s.View(ctx, row, true)
}

// pruned refuses what a pruned release cannot do any more.
func pruned(row store.Release) error {
	if row.PrunedAt.IsZero() {
		return nil
	}
	return problem.New(http.StatusConflict, reason.ReleaseConflict, "%s was pruned at %s; publish it under a new version",
		row.Name, row.PrunedAt.UTC().Format(time.RFC3339))
}
