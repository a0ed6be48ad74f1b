package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// pageSize is how many rows one read takes.
const pageSize = 1000

// assembly is one report in the making. Only its own goroutine touches it.
type assembly struct {
	s       *Service
	r       api.Report
	bytes   int
	devices map[string]bool
}

// run reads in an order in which later reads can only know more than earlier ones refer to: appraisals, then what they
// caused, then devices, then the releases and metadata that they were decided by.
func (a *assembly) run(ctx context.Context) error {
	steps := []func(context.Context) error{
		a.appraisals, a.updates, a.quarantines, a.cited, a.freshness, a.deviceRecords, a.successions, a.releases, a.baselines, a.image, a.events,
		a.proofs,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	a.coverage()
	return nil
}

// fits counts n bytes against the budget; when they do not fit, the report is cut and says so.
func (a *assembly) fits(n int) bool {
	if a.bytes+n > a.s.c.Limits.Bytes {
		a.r.Coverage.Truncated = true
		return false
	}
	a.bytes += n
	return true
}

func (a *assembly) appraisals(ctx context.Context) error {
	after := int64(0)
	for {
		page, err := a.s.c.Store.Appraisals(ctx, a.r.From, a.r.To, a.r.Product, after, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read appraisals: %w", err)
		}
		for _, row := range page {
			if len(a.r.Appraisals) >= a.s.c.Limits.Appraisals {
				a.r.Coverage.Truncated = true
				return nil
			}
			if !a.fits(len(row.Input) + len(row.Verdict)) {
				return nil
			}
			view, err := ViewAppraisal(row)
			if err != nil {
				return err
			}
			a.r.Appraisals = append(a.r.Appraisals, view)
			after = row.Number
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// ViewAppraisal renders a stored appraisal with the Input that it can be reached again from.
func ViewAppraisal(row store.Appraisal) (api.Appraisal, error) {
	out := api.Appraisal{
		Number: row.Number, At: row.At.UTC(), Device: row.Device, Verdict: jsontext.Value(row.Verdict), Verifier: row.Verifier,
		PolicySHA256: row.Policy, BaselineSHA256: row.Baseline, Repeats: row.Repeats, References: row.References,
	}
	if err := json.Unmarshal(row.Input, &out.Input); err != nil {
		return api.Appraisal{}, fmt.Errorf("cannot read stored appraisal %d: %w", row.Number, err)
	}
	return out, nil
}

func (a *assembly) updates(ctx context.Context) error {
	rows, err := a.s.c.Store.Updates(ctx, a.r.From, a.r.To, a.r.Product, a.s.c.Limits.Updates+1)
	if err != nil {
		return fmt.Errorf("cannot read update records: %w", err)
	}
	if len(rows) > a.s.c.Limits.Updates {
		rows, a.r.Coverage.Truncated = rows[:a.s.c.Limits.Updates], true
	}
	for _, u := range rows {
		out := api.UpdateRecord{Device: u.Device, From: u.From, To: u.To, OfferedAt: u.OfferedAt.UTC(), Result: u.Result, Evidence: u.Evidence}
		if u.Result == "proven" {
			out.ProvenAt = optional(u.EndedAt)
		}
		a.r.Updates = append(a.r.Updates, out)
	}
	return nil
}

func (a *assembly) quarantines(ctx context.Context) error {
	rows, err := a.s.c.Store.ListQuarantines(ctx, a.r.From, a.r.To, a.r.Product)
	if err != nil {
		return fmt.Errorf("cannot read quarantines: %w", err)
	}
	if len(rows) > a.s.c.Limits.Quarantines {
		rows, a.r.Coverage.Truncated = rows[:a.s.c.Limits.Quarantines], true
	}
	for _, q := range rows {
		view, err := a.quarantineView(ctx, q)
		if err != nil {
			return err
		}
		a.r.Quarantines = append(a.r.Quarantines, view)
	}
	return nil
}

func (a *assembly) quarantineView(ctx context.Context, q fleet.Quarantine) (api.Quarantine, error) {
	out := api.Quarantine{
		ID: q.ID, Device: q.Device, Since: q.Since.UTC(), Causes: q.Causes, Detail: q.Detail, By: q.By, Evidence: q.Evidence,
		RecoveredAt: optional(q.RecoveredAt), EndedAt: optional(q.EndedAt),
	}
	rows, err := a.s.c.Store.Approvals(ctx, q.ApprovalSubject())
	if err != nil {
		return out, fmt.Errorf("cannot read approvals of quarantine %s: %w", q.ID, err)
	}
	out.Approvals = approvalViews(rows)
	return out, nil
}

func approvalViews(rows []fleet.Approval) []api.Approval {
	var out []api.Approval
	for _, row := range rows {
		out = append(out, api.Approval{Person: row.Person, At: row.At.UTC()})
	}
	return out
}

// cited adds the appraisals outside the period that quarantines and update records of the period name.
func (a *assembly) cited(ctx context.Context) error {
	wanted := map[digest.SHA256]bool{}
	for _, q := range a.r.Quarantines {
		wanted[q.Evidence] = true
	}
	for _, u := range a.r.Updates {
		wanted[u.Evidence] = true
	}
	for _, p := range a.r.Appraisals {
		wanted[p.Repeats] = true
	}
	delete(wanted, digest.SHA256{})
	known := map[int64]bool{}
	for _, p := range a.r.Appraisals {
		known[p.Number] = true
	}
	for id := range wanted {
		row, err := a.s.c.Store.Appraisal(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // the verifier sees that it is missing
		}
		if err != nil {
			return fmt.Errorf("cannot read a cited appraisal: %w", err)
		}
		if known[row.Number] || !a.fits(len(row.Input)+len(row.Verdict)) {
			continue
		}
		view, err := ViewAppraisal(row)
		if err != nil {
			return err
		}
		known[row.Number] = true
		a.r.Appraisals = append(a.r.Appraisals, view)
	}
	slices.SortFunc(a.r.Appraisals, func(x, y api.Appraisal) int { return int(x.Number - y.Number) })
	return nil
}

// freshness adds the event logs and beacons that the appraisals refer to, each once. An appraisal whose log does not fit
// is left out: without it nobody could reach its verdict again.
func (a *assembly) freshness(ctx context.Context) error {
	beacons := map[digest.SHA256]bool{}
	kept := a.r.Appraisals[:0]
	for _, p := range a.r.Appraisals {
		fits, err := a.log(ctx, p.Input.Evidence.LogDigest)
		if err != nil {
			return err
		}
		if !fits {
			continue
		}
		kept = append(kept, p)
		if n := p.Input.Binding.Nonce; !p.Input.Challenge && len(n) == digest.Size {
			beacons[digest.SHA256(n)] = true
		}
	}
	a.r.Appraisals = kept
	for chunk := range slices.Chunk(slices.Collect(maps.Keys(beacons)), 500) {
		rows, err := a.s.c.Store.Beacons(ctx, chunk)
		if err != nil {
			return fmt.Errorf("cannot read beacons: %w", err)
		}
		for _, b := range rows { // small, and at most one per appraisal: outside the budget
			a.r.Beacons[b.Digest.String()] = b.Doc
		}
	}
	return nil
}

// log adds an event log; false means that it is there and does not fit.
func (a *assembly) log(ctx context.Context, d digest.SHA256) (bool, error) {
	if _, known := a.r.Logs[d.String()]; known {
		return true, nil
	}
	data, err := a.s.c.Store.Log(ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil // appraised without it; its verdict says so
	}
	if err != nil {
		return false, fmt.Errorf("cannot read an event log: %w", err)
	}
	if !a.fits(len(data)) {
		return false, nil
	}
	a.r.Logs[d.String()] = data
	return true, nil
}

// releases adds every published release of the scope, whenever it was published: verdicts refer to old ones too.
func (a *assembly) releases(ctx context.Context) error {
	rows, err := a.s.c.Store.ListReleases(ctx, a.r.Product)
	if err != nil {
		return fmt.Errorf("cannot read releases: %w", err)
	}
	for _, row := range rows {
		if row.State != api.ReleasePublished {
			continue
		}
		statement, err := artifacts.DecodeStatement(row.Statement)
		if err != nil {
			return fmt.Errorf("stored statement of %s: %w", row.Name, err)
		}
		approvals, err := a.s.c.Store.Approvals(ctx, "release:"+row.Name)
		if err != nil {
			return fmt.Errorf("cannot read approvals of %s: %w", row.Name, err)
		}
		out := api.ReleaseRecord{
			Release: statement.Predicate, Bundles: row.Bundles, Reference: map[string][]byte{}, CreatedBy: row.CreatedBy,
			Approvals: approvalViews(approvals), PublishedAt: row.PublishedAt.UTC(),
		}
		for component, sum := range row.Reference {
			if out.Reference[component], err = a.blob(ctx, sum); err != nil {
				return fmt.Errorf("cannot read the Reference Values of %s: %w", row.Name, err)
			}
		}
		a.r.Releases = append(a.r.Releases, out)
	}
	return nil
}

// baselines adds every baseline that baseline signers signed, also the older ones: verdicts of their time refer to them.
func (a *assembly) baselines(ctx context.Context) error {
	rows, err := a.s.c.Store.Baselines(ctx, a.r.Product, "", a.s.c.Limits.Baselines+1)
	if err != nil {
		return fmt.Errorf("cannot read baselines: %w", err)
	}
	if len(rows) > a.s.c.Limits.Baselines {
		rows, a.r.Coverage.Truncated = rows[:a.s.c.Limits.Baselines], true
	}
	for _, row := range rows {
		size := 0
		for _, b := range row.Bundles {
			size += len(b)
		}
		if !a.fits(size) {
			return nil
		}
		a.r.Baselines = append(a.r.Baselines, api.SignedBaseline{Product: row.Product, Profile: row.Profile, Generation: row.Generation, Bundles: row.Bundles})
	}
	return nil
}

func (a *assembly) blob(ctx context.Context, sum digest.SHA256) ([]byte, error) {
	r, err := a.s.c.Blobs.Open(ctx, sum, 0, reference.MaxBytes+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, reference.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if digest.Of(data) != sum {
		return nil, fmt.Errorf("blob %s: %w", sum, artifacts.ErrDigestMismatch)
	}
	return data, nil
}

// events adds the audit events of the period. Whoever commits an event gives its time, so times can run a little out of
// order; the report takes every number from the first to the last event of the period, and stays without gaps.
func (a *assembly) events(ctx context.Context) error {
	period := store.EventFilter{From: a.r.From, To: a.r.To}
	first, last := int64(0), int64(0)
	for {
		page, err := a.s.c.Store.Events(ctx, period, last, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read events: %w", err)
		}
		if len(page) == 0 {
			break
		}
		if first == 0 {
			first = page[0].Number
		}
		last = page[len(page)-1].Number
	}
	for after := first - 1; last > 0 && after < last; {
		page, err := a.s.c.Store.Events(ctx, store.EventFilter{}, after, pageSize)
		if err != nil {
			return fmt.Errorf("cannot read events: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, e := range page {
			if e.Number > last {
				return nil
			}
			if len(a.r.Events) >= a.s.c.Limits.Events {
				a.r.Coverage.Truncated = true
				return nil
			}
			if !a.fits(2 * len(e.Leaf)) {
				return nil
			}
			view, err := ViewEvent(e)
			if err != nil {
				return err
			}
			a.r.Events = append(a.r.Events, view)
			after = e.Number
		}
	}
	return nil
}

// proofs adds the proof that the events are leaves of the log.
func (a *assembly) proofs(ctx context.Context) error {
	if a.s.c.Log == nil {
		return nil
	}
	leaves := make([]tlog.Leaf, len(a.r.Events))
	for i, e := range a.r.Events {
		leaves[i] = tlog.Leaf{Index: uint64(e.Number - 1), Hash: tlog.LeafHash(e.Leaf)}
	}
	var err error
	a.r.Log, err = a.s.c.Log.Prove(ctx, leaves)
	return err
}

// ViewEvent renders a stored audit event beside its exact leaf.
func ViewEvent(e store.StoredEvent) (api.Event, error) {
	data, err := audit.DataOf(e.Leaf)
	if err != nil {
		return api.Event{}, fmt.Errorf("cannot read stored event %d: %w", e.Number, err)
	}
	return api.Event{Number: e.Number, At: e.At.UTC(), Type: e.Type, Actor: e.Actor, Subject: e.Subject, Data: data, Leaf: e.Leaf}, nil
}

// coverage counts who was proven in the period. A device is in scope when it is active and of the report's product.
func (a *assembly) coverage() {
	affirmed := map[string]bool{}
	for _, p := range a.r.Appraisals {
		var v struct {
			Outcome attestation.Outcome `json:"outcome"`
		}
		inPeriod := !p.At.Before(a.r.From) && p.At.Before(a.r.To) && p.Repeats.IsZero() // a repetition proves nothing new
		if inPeriod && json.Unmarshal(p.Verdict, &v) == nil && v.Outcome == attestation.Affirmed {
			affirmed[p.Device] = true
		}
	}
	c := &a.r.Coverage
	for _, record := range a.r.Devices {
		d := record.Device
		if a.r.Product != "" && d.Product != a.r.Product {
			continue // here only because an appraisal of the product names it
		}
		switch fleet.Lifecycle(d.Lifecycle) {
		case fleet.Pending:
			c.Excluded = append(c.Excluded, api.ExcludedDevice{Device: d.ID, Reason: reason.DevicePending})
			continue
		case fleet.Retired:
			c.Excluded = append(c.Excluded, api.ExcludedDevice{Device: d.ID, Reason: reason.DeviceRetired})
			continue
		}
		c.InScope++
		switch {
		case affirmed[d.ID]:
			c.Proven++
		case d.ProvenAt != nil:
			c.Stale++
		default:
			c.Never++
		}
	}
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
