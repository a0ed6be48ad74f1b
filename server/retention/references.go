package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// references are the blobs that something needs, and the state of the repository that says so.
type references struct {
	blobs map[digest.SHA256]bool
	repo  int64 // row version; it moves with every publication and with every change of the offline policy
}

// references reads what every release and every offline policy refers to. One release that cannot be read is an error:
// nobody knows then what it needs.
func (s *Service) references(ctx context.Context) (references, error) {
	repo, err := s.store.Repo(ctx, store.RepoImage)
	if err != nil {
		return references{}, fmt.Errorf("cannot read the repository's state: %w", err)
	}
	out := references{blobs: map[digest.SHA256]bool{}, repo: repo.Version}
	rows, err := s.store.ListReleases(ctx, "")
	if err != nil {
		return references{}, fmt.Errorf("cannot list releases: %w", err)
	}
	for _, row := range rows {
		statement, err := artifacts.DecodeStatement(row.Statement)
		if err != nil {
			return references{}, fmt.Errorf("stored statement of %s: %w", row.Name, err)
		}
		for _, sum := range repository.Documents(row) {
			out.blobs[sum] = true
		}
		if !row.PrunedAt.IsZero() {
			continue
		}
		for _, sum := range repository.Images(statement.Predicate) {
			out.blobs[sum] = true
		}
		inputs, err := s.repository.Inputs(ctx, row)
		if err != nil {
			return references{}, fmt.Errorf("cannot see what %s needs: %w", row.Name, err)
		}
		for _, in := range inputs {
			out.blobs[in.SHA256] = true
		}
	}
	for _, p := range s.repository.Catalog().Products {
		for _, sum := range p.Policy.Recovery {
			out.blobs[sum] = true // also before a release with it is published
		}
	}
	return out, nil
}

// decide asks for one product which releases are needed. A product without a policy keeps everything.
func (s *Service) decide(ctx context.Context, name string, rows []store.Release) (*Decision, error) {
	product := s.repository.Catalog().Products[name]
	if product == nil || product.PolicyDigest.IsZero() || product.Policy.Validate() != nil {
		return nil, fmt.Errorf("%w: product %s", errNoPolicy, name)
	}
	var releases []Release
	for _, row := range rows {
		statement, err := artifacts.DecodeStatement(row.Statement)
		if err != nil {
			return nil, fmt.Errorf("stored statement of %s: %w", row.Name, err)
		}
		releases = append(releases, Release{Name: row.Name, Release: statement.Predicate, Published: row.State == api.ReleasePublished,
			Hold: row.Hold, Pruned: !row.PrunedAt.IsZero()})
	}
	d := NewDecision(product.Policy, releases)
	for after := ""; ; {
		page, err := s.store.ListDevices(ctx, store.DeviceFilter{Product: name}, after, devicePage)
		if err != nil {
			return nil, fmt.Errorf("cannot list devices: %w", err)
		}
		for _, device := range page {
			d.Device(device)
		}
		if len(page) < devicePage {
			return d, nil
		}
		after = page[len(page)-1].ID
	}
}

// errNoPolicy: without an offline policy nobody can say what devices may have.
var errNoPolicy = errors.New("there is no offline policy that says what devices may have")

// candidate is a blob that nothing refers to.
type candidate struct {
	artifacts.Found
	until time.Time // a lock of the store keeps it until then; zero for none
}

// garbage keeps those of the found blobs that nothing refers to and nobody relied on since the grace began. A restore begins
// it anew for everything.
func (s *Service) garbage(ctx context.Context, found []artifacts.Found, refs references, before time.Time) ([]candidate, error) {
	if s.restored() {
		return nil, nil
	}
	var out []candidate
	var asked []digest.SHA256
	for _, f := range found {
		if !refs.blobs[f.SHA256] && f.Modified.Before(before) {
			out = append(out, candidate{Found: f})
			asked = append(asked, f.SHA256)
		}
	}
	known, err := s.store.BlobsOf(ctx, asked)
	if err != nil {
		return nil, fmt.Errorf("cannot read what is known of blobs: %w", err)
	}
	touched := map[digest.SHA256]time.Time{}
	for _, b := range known {
		touched[b.SHA256] = b.TouchedAt
	}
	out = slices.DeleteFunc(out, func(c candidate) bool { return touched[c.SHA256].After(before) })
	locks, ok := s.artifacts.(artifacts.Retainer)
	if !ok {
		return out, nil
	}
	for i, c := range out {
		until, err := locks.Retained(ctx, c.SHA256)
		if err != nil && !errors.Is(err, artifacts.ErrNotFound) {
			return nil, fmt.Errorf("cannot see whether a blob is locked: %w", err)
		}
		out[i].until = until
	}
	return out, nil
}
