package repository

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// retryStore is how long a caller waits before it asks a busy store again.
const retryStore = 10 * time.Second

// Approve adds a person's approval to a staged release and publishes it when enough different people, the requester not
// among them, have approved.
func (s *Service) Approve(ctx context.Context, person, name string) (api.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if row.State == api.ReleasePublished {
		return s.View(ctx, row, false)
	}
	if row.CreatedBy == person {
		return api.Release{}, problem.New(http.StatusForbidden, reason.SamePerson, "%s published %s and cannot approve it", person, name)
	}
	product := s.Catalog().Products[row.Product]
	if product == nil {
		return api.Release{}, problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "product %q has no policy any more", row.Product)
	}
	if err := s.approve(ctx, releaseSubject(name), person, name, audit.ReleaseApproved); err != nil {
		return api.Release{}, err
	}
	approvals, err := s.store.Approvals(ctx, releaseSubject(name))
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot read approvals: %w", err)
	}
	if fleet.People(approvals, row.CreatedBy) < product.Policy.Approvals {
		return s.View(ctx, row, true)
	}
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return api.Release{}, fmt.Errorf("stored statement of %s: %w", name, err)
	}
	if refusals := artifacts.CheckRelease(product.Policy, statement.Predicate); len(refusals) > 0 {
		return api.Release{}, refused(refusals[0]) // the policy changed since it was staged
	}
	return s.release(ctx, person, row)
}

func releaseSubject(name string) string { return "release:" + name }

func resumeSubject(name string, held int64) string { return fmt.Sprintf("resume:%s:%d", name, held) }

func (s *Service) approve(ctx context.Context, subject, person, release, kind string) error {
	err := s.store.Commit(ctx, store.Change{
		Writes: []store.Write{store.AddApproval{Approval: fleet.Approval{Subject: subject, Person: person, At: s.now()}}},
		Events: []store.Event{{At: s.now(), Type: kind, Actor: person, Subject: release}},
	})
	if errors.Is(err, store.ErrConflict) {
		return problem.New(http.StatusConflict, reason.SamePerson, "%s has approved this already", person)
	}
	if err != nil {
		return fmt.Errorf("cannot write the approval: %w", err)
	}
	return nil
}

// Hold stops offers and open streams of a release at once; one person is enough.
func (s *Service) Hold(ctx context.Context, person, name, detail string) (api.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if row.Hold {
		return s.View(ctx, row, false)
	}
	row.Hold, row.HoldDetail = true, detail
	return s.mark(ctx, person, row, audit.ReleaseHeld, map[string]any{"detail": detail})
}

// Resume ends a hold when two different people have asked for it.
func (s *Service) Resume(ctx context.Context, person, name string) (api.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if !row.Hold {
		return s.View(ctx, row, false)
	}
	subject := resumeSubject(name, row.Version)
	if err := s.approve(ctx, subject, person, name, audit.ReleaseResumeAsked); err != nil {
		return api.Release{}, err
	}
	approvals, err := s.store.Approvals(ctx, subject)
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot read approvals: %w", err)
	}
	if fleet.People(approvals, "") < fleet.ApprovalsToLoosen {
		return s.View(ctx, row, true)
	}
	row.Hold, row.HoldDetail = false, ""
	return s.mark(ctx, person, row, audit.ReleaseResumed, nil)
}

// mark writes a release's hold and lets every replica see it: the repository's row version moves on.
func (s *Service) mark(ctx context.Context, person string, row store.Release, kind string, data map[string]any) (api.Release, error) {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	var payload any
	if data != nil {
		payload = data
	}
	err = s.store.Commit(ctx, store.Change{
		Expect: []store.Expect{
			{Table: store.Releases, Key: row.Name, Version: row.Version},
			{Table: store.Repos, Key: store.RepoImage, Version: repo.Version},
		},
		Writes: []store.Write{store.PutRelease{Release: row}, store.PutRepo{Repo: repo}},
		Events: []store.Event{{At: s.now(), Type: kind, Actor: person, Subject: row.Name, Data: payload}},
	})
	if errors.Is(err, store.ErrConflict) {
		return api.Release{}, problem.New(http.StatusConflict, reason.Conflict, "the release changed in between")
	}
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot write the release: %w", err)
	}
	if err := s.reload(ctx); err != nil {
		return api.Release{}, err
	}
	return s.View(ctx, row, true)
}

func (s *Service) find(ctx context.Context, name string) (store.Release, error) {
	row, err := s.store.Release(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return store.Release{}, problem.New(http.StatusNotFound, reason.ReleaseUnknown, "there is no release %s", name)
	}
	if err != nil {
		return store.Release{}, fmt.Errorf("cannot read the release: %w", err)
	}
	return row, nil
}

// View renders a release for the admin API.
func (s *Service) View(ctx context.Context, row store.Release, changed bool) (api.Release, error) {
	statement, err := artifacts.DecodeStatement(row.Statement)
	if err != nil {
		return api.Release{}, fmt.Errorf("stored statement of %s: %w", row.Name, err)
	}
	out := api.Release{
		Name: row.Name, State: row.State, Hold: row.Hold, HoldReason: row.HoldDetail, Release: statement.Predicate,
		Publishers: row.Publishers, CreatedBy: row.CreatedBy, CreatedAt: row.CreatedAt.UTC(), Changed: changed, Timestamp: row.Timestamp,
	}
	if !row.PublishedAt.IsZero() {
		at := row.PublishedAt.UTC()
		out.PublishedAt = &at
	}
	if p := s.Catalog().Products[row.Product]; p != nil {
		out.Needed = p.Policy.Approvals
	}
	approvals, err := s.store.Approvals(ctx, releaseSubject(row.Name))
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot read approvals: %w", err)
	}
	for _, a := range approvals {
		out.Approvals = append(out.Approvals, api.Approval{Person: a.Person, At: a.At.UTC()})
	}
	return out, nil
}
