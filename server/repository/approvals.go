package repository

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
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
	var out api.Release
	err := s.retry(ctx, func() (err error) {
		out, err = s.approveRelease(ctx, person, name)
		return err
	})
	return out, err
}

func (s *Service) approveRelease(ctx context.Context, person, name string) (api.Release, error) {
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if err := pruned(row); err != nil {
		return api.Release{}, err
	}
	if row.State == api.ReleasePublished {
		return s.View(ctx, row, false)
	}
	if row.CreatedBy == person {
		return api.Release{}, problem.New(http.StatusForbidden, reason.SamePerson, "%s published %s and cannot approve it", person, name)
	}
	policy, err := s.recheck(row) // the policy may have changed since the release was staged
	if err != nil {
		return api.Release{}, err
	}
	enough, err := s.approve(ctx, approval{
		subject: releaseSubject(name), person: person, release: name, kind: audit.ReleaseApproved, requester: row.CreatedBy, needed: policy.Approvals,
	})
	if err != nil {
		return api.Release{}, err
	}
	if !enough {
		return s.View(ctx, row, true)
	}
	return s.release(ctx, person, row)
}

func releaseSubject(name string) string { return "release:" + name }

func resumeSubject(name string, held int64) string { return fmt.Sprintf("resume:%s:%d", name, held) }

// approval is one person's yes in the making.
type approval struct {
	subject, person, release, kind string
	requester                      string // does not count
	needed                         int
}

// approve records the approval and reports whether enough people have approved. A person who has approved already is
// refused, unless the set is complete: then the last one only repeats what did not come through.
func (s *Service) approve(ctx context.Context, a approval) (enough bool, err error) {
	approvals, err := s.store.Approvals(ctx, a.subject)
	if err != nil {
		return false, fmt.Errorf("cannot read approvals: %w", err)
	}
	own := fleet.Approval{Subject: a.subject, Person: a.person, At: s.now()}
	if slices.ContainsFunc(approvals, func(other fleet.Approval) bool { return other.Person == a.person }) {
		if fleet.People(approvals, a.requester) >= a.needed {
			return true, nil
		}
		return false, problem.New(http.StatusConflict, reason.SamePerson, "%s has approved this already", a.person)
	}
	err = s.store.Commit(ctx, store.Change{
		Writes: []store.Write{store.AddApproval{Approval: own}},
		Events: []store.Event{{At: s.now(), Type: a.kind, Actor: a.person, Subject: a.release}},
	})
	if err != nil {
		return false, fmt.Errorf("cannot write the approval: %w", err)
	}
	crash.Here(crash.ReleaseApproved)
	return fleet.People(append(approvals, own), a.requester) >= a.needed, nil
}

// Hold stops offers and open streams of a release at once; one person is enough. It waits for no publication and never
// asks the artifact store.
func (s *Service) Hold(ctx context.Context, person, name, detail string) (api.Release, error) {
	var out api.Release
	var err error
	for range attempts {
		if out, err = s.hold(ctx, person, name, detail); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return out, err
}

func (s *Service) hold(ctx context.Context, person, name, detail string) (api.Release, error) {
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
	var out api.Release
	err := s.retry(ctx, func() (err error) {
		out, err = s.resume(ctx, person, name)
		return err
	})
	return out, err
}

func (s *Service) resume(ctx context.Context, person, name string) (api.Release, error) {
	row, err := s.find(ctx, name)
	if err != nil {
		return api.Release{}, err
	}
	if !row.Hold {
		return s.View(ctx, row, false)
	}
	enough, err := s.approve(ctx, approval{
		subject: resumeSubject(name, row.Version), person: person, release: name, kind: audit.ReleaseResumeAsked, needed: fleet.ApprovalsToLoosen,
	})
	if err != nil {
		return api.Release{}, err
	}
	if !enough {
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
	if err != nil {
		return api.Release{}, fmt.Errorf("cannot write the release: %w", err)
	}
	crash.Here(crash.ReleaseMarked)
	show := s.follow
	if row.Hold {
		show = s.followHolds
	}
	if err := show(ctx); err != nil {
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
	if !row.PrunedAt.IsZero() {
		at := row.PrunedAt.UTC()
		out.PrunedAt = &at
	}
	if p := s.Catalog().Products[row.Product]; p != nil {
		out.Needed = p.Policy.Approvals
		out.Withdrawn = withdrawn(p.Policy.Withdrawn, statement.Predicate)
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
