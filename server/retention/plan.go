package retention

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// maxShown bounds the lists of a plan.
const maxShown = 200

// Plan shows what Collect would remove now, and why each release is kept. It changes nothing. It reads every device and
// much of the artifact store, and many people may ask for it: it returns ErrBusy while another plan is made.
func (s *Service) Plan(ctx context.Context) (api.RetentionPlan, error) {
	if !s.plan.TryLock() {
		return api.RetentionPlan{}, ErrBusy
	}
	defer s.plan.Unlock()
	out := api.RetentionPlan{Releases: []api.RetentionRelease{}, Blobs: []api.RetentionBlob{}, Uploads: []api.RetentionBlob{}, Grace: s.cfg.Grace.String()}
	if !s.repository.Catalog().Initialised() {
		return out, nil
	}
	if err := s.planReleases(ctx, &out); err != nil {
		return out, err
	}
	refs, err := s.references(ctx)
	if err != nil {
		return out, err
	}
	before := s.now().Add(-s.cfg.Grace)
	out.More, err = s.look(ctx, artifacts.CompleteBlobs, func(page []artifacts.Found) error {
		found, err := s.garbage(ctx, page, refs, before)
		for _, c := range found {
			blob := api.RetentionBlob{SHA256: c.SHA256, Bytes: c.Size, Modified: c.Modified.UTC()}
			if !c.until.IsZero() {
				until := c.until.UTC()
				blob.LockedUntil = &until
			} else {
				out.Removable++
				out.Bytes += c.Size
			}
			out.Blobs = appendShown(out.Blobs, blob)
		}
		return err
	})
	if err != nil {
		return out, err
	}
	before = s.now().Add(-s.cfg.Uploads)
	more, err := s.look(ctx, artifacts.UnfinishedUploads, func(page []artifacts.Found) error {
		for _, f := range page {
			if f.Modified.Before(before) {
				out.Uploads = appendShown(out.Uploads, api.RetentionBlob{SHA256: f.SHA256, Modified: f.Modified.UTC()})
			}
		}
		return nil
	})
	out.More = out.More || more
	return out, err
}

func appendShown(list []api.RetentionBlob, b api.RetentionBlob) []api.RetentionBlob {
	if len(list) < maxShown {
		list = append(list, b)
	}
	return list
}

// look shows the store page by page, up to the bound of a round.
func (s *Service) look(ctx context.Context, kind artifacts.Kind, visit func(page []artifacts.Found) error) (more bool, err error) {
	var after digest.SHA256
	for seen := 0; seen < maxEntries; seen += pageEntries {
		page, err := s.artifacts.Walk(ctx, kind, after, pageEntries)
		if err != nil {
			return false, fmt.Errorf("cannot list the artifact store: %w", err)
		}
		if err := visit(page); err != nil || len(page) < pageEntries {
			return false, err
		}
		after = page[len(page)-1].SHA256
	}
	return true, nil
}

func (s *Service) planReleases(ctx context.Context, out *api.RetentionPlan) error {
	rows, err := s.store.ListReleases(ctx, "")
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	for len(rows) > 0 { // they are sorted by product
		product := rows[0].Product
		n := slices.IndexFunc(rows, func(r store.Release) bool { return r.Product != product })
		if n < 0 {
			n = len(rows)
		}
		d, err := s.decide(ctx, product, rows[:n])
		if err != nil && !errors.Is(err, errNoPolicy) {
			return err
		}
		for _, row := range rows[:n] {
			view := api.RetentionRelease{Name: row.Name, Counter: row.Counter, Needs: []api.RetentionNeed{}}
			if !row.PrunedAt.IsZero() {
				at := row.PrunedAt.UTC()
				view.PrunedAt = &at
			}
			if d != nil {
				view.Needs = needsOf(d.Needs()[row.Name])
			} else {
				view.Needs = []api.RetentionNeed{{Why: "no_policy"}}
			}
			out.Releases = append(out.Releases, view)
		}
		rows = rows[n:]
	}
	return nil
}

func needsOf(needs []Need) []api.RetentionNeed {
	out := []api.RetentionNeed{}
	for _, n := range needs {
		out = append(out, api.RetentionNeed{Why: string(n.Why), Devices: n.Devices})
	}
	return out
}

// Prune gives a release up, unless something needs it: then it is release_in_use, with why.
func (s *Service) Prune(ctx context.Context, actor, name, detail string) (api.Release, error) {
	return s.repository.Prune(ctx, actor, name, map[string]any{"detail": detail}, s.unneeded)
}

// errWouldPrune ends a dry run where the change would begin.
var errWouldPrune = errors.New("it can be pruned")

// MayPrune is Prune without the change.
func (s *Service) MayPrune(ctx context.Context, name string) error {
	_, err := s.repository.Prune(ctx, "", name, nil, func(ctx context.Context, row store.Release) error {
		if err := s.unneeded(ctx, row); err != nil {
			return err
		}
		return errWouldPrune
	})
	if errors.Is(err, errWouldPrune) {
		return nil
	}
	return err
}

// unneeded refuses a release that something needs.
func (s *Service) unneeded(ctx context.Context, row store.Release) error {
	rows, err := s.store.ListReleases(ctx, row.Product)
	if err != nil {
		return fmt.Errorf("cannot list releases: %w", err)
	}
	d, err := s.decide(ctx, row.Product, rows)
	if errors.Is(err, errNoPolicy) {
		return problem.New(http.StatusConflict, reason.ReleaseInUse, "%s is kept: %v", row.Name, err)
	}
	if err != nil {
		return err
	}
	needs := d.Needs()[row.Name]
	if len(needs) == 0 {
		return nil
	}
	var texts []string
	for _, n := range needs {
		text := string(n.Why)
		if n.Devices > 0 {
			text = fmt.Sprintf("%s (%d devices)", n.Why, n.Devices)
		}
		texts = append(texts, text)
	}
	return problem.New(http.StatusConflict, reason.ReleaseInUse, "%s is kept: %s", row.Name, strings.Join(texts, ", "))
}
