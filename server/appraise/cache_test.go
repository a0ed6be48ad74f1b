package appraise_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// counting counts how often the log is read, and loses the next commits.
type counting struct {
	*store.Store
	logs, lose int
	service    *appraise.Service // over it
}

// count is a store that loses so many commits, and a service over it.
func count(w *appraisetest.World, lose int) *counting {
	c := &counting{Store: w.Store, lose: lose}
	c.service = w.ServiceWith(c)
	return c
}

func (c *counting) Log(ctx context.Context, d digest.SHA256) ([]byte, error) {
	c.logs++
	return c.Store.Log(ctx, d)
}

func (c *counting) Commit(ctx context.Context, change store.Change) error {
	if c.lose > 0 {
		c.lose--
		return errors.New("the disk is gone")
	}
	return c.Store.Commit(ctx, change)
}

// renewed polls over the beacon by way of s.
func renewed(t *testing.T, w *appraisetest.World, d *appraisetest.Device, s *counting) wire.PollAnswer {
	t.Helper()
	d.Claims.Timestamp = w.Catalog().Beacon
	p, _, err := d.Send(s.service, d.Body(w.Catalog().Beacon[:], false))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Once a state was affirmed with a log that is kept, the log is not read again, and the answers stay what they were. The
// appraisals that are recorded for such polls lead to the same verdicts when they are run with the log.
func TestKnownStatesAreNotReadAgain(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d, s := settled(t, w, "device"), count(w, 0)
	first := renewed(t, w, d, s)
	read, hits := s.logs, w.Cache.Counts().Hits
	for range 3 {
		if got := renewed(t, w, d, s); got.Verdict != string(attestation.Affirmed) || got.Verdict != first.Verdict || got.Release != first.Release {
			t.Errorf("got %s %s, want %s %s", got.Verdict, got.Release, first.Verdict, first.Release)
		}
	}
	if s.logs != read {
		t.Errorf("the log was read %d times more", s.logs-read)
	}
	if got := w.Cache.Counts(); got.Hits != hits+3 {
		t.Errorf("got %d states that were known, want %d", got.Hits, hits+3)
	}
	wantSameVerdicts(t, w)
}

// A log that came with the quote is gone when the commit fails: nothing may be known by it.
func TestNothingIsKnownWhoseLogWasLost(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d, s := w.Enrolled(t, "device", "lamp/1"), count(w, 1)
	nonce := w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now())
	if _, _, err := d.Send(s.service, d.Body(nonce, true)); err == nil {
		t.Fatal("the commit did not fail")
	}
	p, _, err := d.Send(s.service, d.Body(nonce, false))
	if err != nil || p.EvidenceWanted != wire.WantLog || p.Verdict != "" {
		t.Errorf("got %q, %q, %v; want to be asked for the log", p.Verdict, p.EvidenceWanted, err)
	}
	if got := w.Cache.Counts().Entries; got != 0 {
		t.Errorf("%d states are known", got)
	}
}

// What the offline roles change counts from the next poll on, whatever was known before.
func TestKnownStatesFollowTheCatalog(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d, s := settled(t, w, "device"), count(w, 0)
	renewed(t, w, d, s)
	renewed(t, w, d, s)
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		b := p.Baselines[evidencetest.Profile]
		other := evidencetest.DirectUKI(evidencetest.Release("any"), evidencetest.Firmware("other")).PCRs()
		b.Value.PCRs = append(b.Value.PCRs[:0:0], b.Value.PCRs...)
		b.Value.PCRs[0].Value = other[0]
		p.Baselines = map[string]repository.Baseline{evidencetest.Profile: b}
	})
	wantRefused(t, renewed(t, w, d, s), reason.PCRMismatch, reason.DeviceQuarantined)
}

// wantSameVerdicts runs every appraisal that was recorded again, as an auditor does.
func wantSameVerdicts(t *testing.T, w *appraisetest.World) {
	t.Helper()
	all, err := w.Store.Appraisals(t.Context(), time.Time{}, w.Now().Add(time.Hour), appraisetest.Product, 0, 100)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d appraisals, %v", len(all), err)
	}
	for _, a := range all {
		var in attestation.Input
		if err := json.Unmarshal(a.Input, &in, json.RejectUnknownMembers(true)); err != nil {
			t.Fatal(err)
		}
		if in.Log, err = w.Store.Log(t.Context(), in.Evidence.LogDigest); err != nil {
			t.Fatal(err)
		}
		v, err := attestation.Appraise(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := v.Marshal(); string(got) != string(a.Verdict) {
			t.Errorf("got %s, recorded %s", got, a.Verdict)
		}
	}
}
