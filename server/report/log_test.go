package report_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// witnessed is the log of all events in the database, with the World's key and witnesses.
type witnessed struct{ s *system }

func (l witnessed) Prove(ctx context.Context, leaves []tlog.Leaf) (*api.ReportLog, error) {
	stored, err := l.s.store.Events(ctx, store.EventFilter{}, 0, 1000)
	if err != nil {
		return nil, err
	}
	all := make([][]byte, len(stored))
	for i, e := range stored {
		all[i] = e.Leaf
	}
	wanted := make([]api.Event, len(leaves))
	for i, leaf := range leaves {
		if leaf.Hash != tlog.LeafHash(all[leaf.Index]) {
			return nil, errors.New("asked to prove what is no row")
		}
		wanted[i].Number = int64(leaf.Index) + 1
	}
	return l.s.w.Log.Prove(wanted, all), nil
}

func TestReportProvesItsEvents(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
	r := got.Report
	if r == nil || r.Log == nil {
		t.Fatalf("no proofs: %+v", got)
	}
	cp, err := tlog.OpenCheckpoint(r.Log.Checkpoint, s.w.Log.Policy)
	if err != nil {
		t.Fatal(err)
	}
	var leaves []tlog.Leaf
	for _, e := range r.Events {
		leaves = append(leaves, tlog.Leaf{Index: uint64(e.Number - 1), Hash: tlog.LeafHash(e.Leaf)})
	}
	if root, err := tlog.RootOf(cp.Size, leaves, r.Log.Hashes); err != nil || root != cp.Root || len(leaves) == 0 {
		t.Errorf("%d events: root %s, %v, want %s", len(leaves), root, err, cp.Root)
	}
}

// A row that was changed in the database does not have the leaf that the witnesses saw.
func TestReportOverAChangedRowIsRefuted(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	before := s.cfg.Log
	s.cfg.Store = forged{s.store}
	s.cfg.Log = logOf(func(ctx context.Context, leaves []tlog.Leaf) (*api.ReportLog, error) {
		honest := make([]tlog.Leaf, len(leaves))
		rows, err := s.store.Events(ctx, store.EventFilter{}, 0, 1000)
		for i, l := range leaves {
			honest[i] = tlog.Leaf{Index: l.Index, Hash: tlog.LeafHash(rows[l.Index].Leaf)}
		}
		if err != nil {
			return nil, err
		}
		return before.Prove(ctx, honest)
	})
	got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
	wantOutcome(t, got, verify.Failed)
}

type logOf func(context.Context, []tlog.Leaf) (*api.ReportLog, error)

func (f logOf) Prove(ctx context.Context, leaves []tlog.Leaf) (*api.ReportLog, error) {
	return f(ctx, leaves)
}

// forged is a database in which somebody changed who did what.
type forged struct{ *store.Store }

func (f forged) Events(ctx context.Context, filter store.EventFilter, after int64, limit int) ([]store.StoredEvent, error) {
	events, err := f.Store.Events(ctx, filter, after, limit)
	for i, e := range events {
		events[i].Leaf = []byte(strings.Replace(string(e.Leaf), `"actor":"verifier"`, `"actor":"verifieR"`, 1))
		events[i].Actor = strings.Replace(e.Actor, "verifier", "verifieR", 1)
	}
	return events, err
}

// Without a log there is a report all the same, and it claims no proof. A log that fails is no report: it could be hidden.
func TestReportWithoutALog(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.Log = nil
	got := s.verify(s.make(t, verifytest.Noon, verifytest.Noon.Add(24*time.Hour), ""))
	if got.Report == nil || got.Report.Log != nil {
		t.Errorf("got %+v", got.Report)
	}
	wantOutcome(t, got, verify.Undecided)
	broken := errors.New("disk on fire")
	s.cfg.Log = logOf(func(context.Context, []tlog.Leaf) (*api.ReportLog, error) { return nil, broken })
	service, err := report.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Make(t.Context(), "ann", verifytest.Noon, verifytest.Noon.Add(time.Hour), ""); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
