package appraise_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// Ways in which what the server knows may change.
func withdrawn(names ...string) func(*repository.Product) {
	return func(p *repository.Product) {
		for _, name := range names {
			p.Policy.Withdrawn = append(slices.Clone(p.Policy.Withdrawn), appraisetest.Image(name))
		}
		p.PolicyDigest = digest.Of([]byte("policy that withdraws"))
	}
}

func require(pcr int) func(*repository.Product) {
	return func(p *repository.Product) {
		p.Policy.RequiredPCRs = append(attestation.DefaultRequiredPCRs[:], pcr)
		p.PolicyDigest = digest.Of([]byte("policy that asks for more"))
	}
}

func secureBoot(p *repository.Product) { p.Policy.SecureBoot = true }

func otherBaseline(p *repository.Product) {
	registers := evidencetest.DirectUKI(evidencetest.Release("any")).PCRs()
	registers[0] = digest.Of([]byte("newer firmware"))
	p.Baselines = map[string]repository.Baseline{evidencetest.Profile: {
		Value: reference.LearnBaseline(evidencetest.Profile, registers), Digest: digest.Of([]byte("baseline of newer firmware")),
	}}
}

func learn(w *appraisetest.World, change func(*repository.Product)) {
	w.Edit(func(_ *repository.Catalog, p *repository.Product) { change(p) })
}

// sweeperOf is a sweeper over a store; s nil is the world's.
func sweeperOf(w *appraisetest.World, s interface {
	appraise.Store
	appraise.SweepStore
}, name string) *appraise.Sweeper {
	if s == nil {
		s = w.Store
	}
	return appraise.NewSweeper(w.ServiceWith(s), s, standing.Rules{Terms: appraisetest.Settings.Terms}, name, func() {}, func(appraise.Swept) {})
}

func sweep(t *testing.T, w *appraisetest.World) appraise.Swept {
	t.Helper()
	got, err := sweeperOf(w, nil, "test").Round(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// doorSays asks the artifact door for the image of a release.
func doorSays(t *testing.T, w *appraisetest.World, d *appraisetest.Device, release string) reason.Reason {
	t.Helper()
	row := d.Row()
	q, err := store.QuarantineOf(t.Context(), w.Store, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = segment.Allow(row, q, w.Catalog().Products[row.Product], appraisetest.Image(release), w.Now())
	if p, ok := errors.AsType[*problem.Error](err); ok && p.Status == http.StatusForbidden {
		return p.Reason
	}
	if err != nil {
		t.Fatal(err)
	}
	return ""
}

// repetitions are the device's appraisals of stored Evidence, the newest first.
func repetitions(t *testing.T, w *appraisetest.World, d *appraisetest.Device) []store.Appraisal {
	t.Helper()
	all, err := w.Store.AppraisalsOf(t.Context(), d.ID, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(a store.Appraisal) bool { return a.Repeats.IsZero() })
}

// N139, V-85. Between the signature that withdraws a component and the sweep, a device that was affirmed on it gets no byte.
func TestWithdrawnComponentClosesTheDoorBeforeTheSweep(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Converse()
	if got := doorSays(t, w, d, "lamp/2"); got != "" {
		t.Fatalf("offered and affirmed: %s", got)
	}
	learn(w, withdrawn("lamp/1"))
	if row := d.Row(); row.Standing != fleet.Affirmed || row.Offered != "lamp/2" {
		t.Fatalf("nobody has looked yet, and the device is %s", row.Standing)
	}
	if got := doorSays(t, w, d, "lamp/2"); got != reason.DeviceUnproven {
		t.Errorf("the door in the window: got %q, want %s", got, reason.DeviceUnproven)
	}
}

// The poll of a device that proves nothing new is no way around it: the stored Evidence is appraised first.
func TestPollAppraisesStoredEvidenceFirst(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Converse()
	of := d.Row().LastEvidence
	learn(w, withdrawn("lamp/1"))
	w.Beacon()
	p := d.Poll(nil)
	if !slices.Contains(reasonsOf(p), reason.ComponentRevoked) || len(p.Certificate) > 0 || d.Row().Standing != fleet.Refused {
		t.Fatalf("got %+v, %s", p, d.Row().Standing)
	}
	q, err := w.Store.OpenQuarantine(t.Context(), d.ID)
	if err != nil || !slices.Equal(q.Causes, []reason.Reason{reason.ComponentRevoked}) || q.By != "verifier" {
		t.Fatalf("quarantine: got %+v, %v", q, err)
	}
	again := repetitions(t, w, d)
	if len(again) != 1 || again[0].ID != q.Evidence || again[0].Repeats != of || again[0].Policy != digest.Of([]byte("policy that withdraws")) {
		t.Errorf("repetitions: got %+v, want one of %s that the quarantine cites", again, of)
	}
	if order := w.Order(d.ID); order.Segment != fleet.Restricted || !order.Tightens {
		t.Errorf("order: got %+v", order)
	}
	if got := w.Events(d.ID); !slices.Contains(got, audit.AppraisalRepeated) || !slices.Contains(got, audit.QuarantineOpened) {
		t.Errorf("events: got %v", got)
	}
}

// An answer that was stored before is void: a certificate that never reached the device must not reach it now.
func TestStoredAnswerIsVoidOnOtherGrounds(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	body := d.Body(challenge(w, d), false)
	if p, _, err := d.Send(w.Service, body); err != nil || len(p.Certificate) == 0 {
		t.Fatalf("got %+v, %v", p, err)
	}
	learn(w, secureBoot)
	if p, _, err := d.Send(w.Service, body); err != nil || len(p.Certificate) > 0 || p.Verdict == "affirmed" {
		t.Errorf("got %+v, %v", p, err)
	}
}

// A device that has left the withdrawn component is judged by the Evidence of this poll, and not by what it was.
func TestFreshEvidenceCountsBeforeStored(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Converse()
	d.Boot("lamp/2")
	learn(w, withdrawn("lamp/1"))
	body := d.Body(challenge(w, d), true)
	p, _, err := d.Send(w.Service, body)
	if err != nil || p.Verdict != "affirmed" || d.Row().Standing != fleet.Affirmed || len(repetitions(t, w, d)) != 0 {
		t.Fatalf("got %+v, %v, %s", p, err, d.Row().Standing)
	}
	if got := doorSays(t, w, d, "lamp/2"); got != "" {
		t.Errorf("the door: %s", got)
	}
}

func TestSweepDecidesByWhatChanged(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change   func(*repository.Product)
		want     appraise.Swept
		standing fleet.Standing
	}{
		"nothing":                       {func(*repository.Product) {}, appraise.Swept{}, fleet.Affirmed},
		"nothing for verdict":           {func(p *repository.Product) { p.Policy.MinimumTier, p.PolicyDigest = 3, digest.Of([]byte("other")) }, appraise.Swept{}, fleet.Affirmed},
		"another image":                 {withdrawn("lamp/2"), appraise.Swept{Passed: 1}, fleet.Affirmed},
		"this image":                    {withdrawn("lamp/1"), appraise.Swept{Quarantined: 1}, fleet.Refused},
		"Secure Boot":                   {secureBoot, appraise.Swept{Quarantined: 1}, fleet.Refused},
		"the firmware":                  {otherBaseline, appraise.Swept{Quarantined: 1}, fleet.Refused},
		"a PCR that was not quoted":     {require(14), appraise.Swept{Stale: 1}, fleet.Stale},
		"our mistake: no such register": {require(99), appraise.Swept{Stale: 1}, fleet.Stale},
		"our mistake: no baseline":      {func(p *repository.Product) { p.Baselines = nil }, appraise.Swept{}, fleet.Affirmed},
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		w.Publish("2", 2)
		learn(w, test.change)
		lease := d.Row().LeaseUntil
		if got := sweep(t, w); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
		row := d.Row()
		if row.Standing != test.standing || row.LeaseUntil.After(lease) {
			t.Errorf("%s: got %s until %s", name, row.Standing, row.LeaseUntil)
		}
		if again := sweep(t, w); again != (appraise.Swept{}) {
			t.Errorf("%s: the next round finds %+v", name, again)
		}
		p := d.Poll(nil)
		if asked := p.EvidenceWanted == wire.WantQuote; asked != (row.Standing != fleet.Affirmed || strings.HasPrefix(name, "nothing")) {
			t.Errorf("%s: asked for a quote is %v", name, asked)
		}
	}
}

// A gap in what we keep costs a quote, never a quarantine.
func TestLostEvidenceNeverQuarantines(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*store.Store) *forgetful{
		"the log":       func(s *store.Store) *forgetful { return &forgetful{Store: s, log: store.ErrNotFound} },
		"the appraisal": func(s *store.Store) *forgetful { return &forgetful{Store: s, appraisal: store.ErrNotFound} },
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		learn(w, withdrawn("lamp/1"))
		got, err := sweeperOf(w, lose(w.Store), "test").Round(t.Context())
		if err != nil || got != (appraise.Swept{Stale: 1}) || d.Row().Standing != fleet.Stale {
			t.Errorf("%s: got %+v, %v, %s", name, got, err, d.Row().Standing)
		}
		if p := d.Poll(nil); p.EvidenceWanted != wire.WantQuote {
			t.Errorf("%s: asked for %q", name, p.EvidenceWanted)
		}
	}
	// A database that does not answer decides nothing at all.
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	learn(w, withdrawn("lamp/1"))
	before := d.Row()
	for _, broken := range []*forgetful{{Store: w.Store, log: store.ErrUnavailable}, {Store: w.Store, appraisal: store.ErrUnavailable}, {Store: w.Store, commit: store.ErrUnavailable}} {
		if _, err := sweeperOf(w, broken, "test").Round(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if diff := cmp.Diff(before, d.Row()); diff != "" {
		t.Errorf("the device changed:\n%s", diff)
	}
}

// forgetful is a store that has lost something, or fails from some commit on.
type forgetful struct {
	*store.Store
	log, appraisal, commit error
	mu                     sync.Mutex
	good                   int // commits that still work before commit is returned
}

func (f *forgetful) Log(ctx context.Context, d digest.SHA256) ([]byte, error) {
	if f.log != nil {
		return nil, f.log
	}
	return f.Store.Log(ctx, d)
}

func (f *forgetful) LastAffirmed(ctx context.Context, device string) (store.Appraisal, error) {
	if f.appraisal != nil {
		return store.Appraisal{}, f.appraisal
	}
	return f.Store.LastAffirmed(ctx, device)
}

func (f *forgetful) Commit(ctx context.Context, c store.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commit != nil && f.good == 0 {
		return f.commit
	}
	f.good--
	return f.Store.Commit(ctx, c)
}

// A device that fell silent within its grace is restricted, and not quarantined: its Evidence is not fresh any more.
func TestSilentDeviceIsRestrictedWithoutQuarantine(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Advance(3 * time.Hour)
	learn(w, withdrawn("lamp/1"))
	if got := sweep(t, w); got != (appraise.Swept{Unproven: 1}) {
		t.Fatalf("got %+v", got)
	}
	if _, err := w.Store.OpenQuarantine(t.Context(), d.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("quarantine: %v", err)
	}
	if order := w.Order(d.ID); order.Segment != fleet.Restricted {
		t.Errorf("order: got %+v", order)
	}
}

// Rows of a build that knew no grounds are appraised once.
func TestDevicesOfAnOlderBuildAreAppraisedOnce(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	row := d.Row()
	row.Grounds = digest.SHA256{}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); err != nil {
		t.Fatal(err)
	}
	if got := doorSays(t, w, d, "lamp/1"); got != reason.DeviceUnproven {
		t.Errorf("the door: got %q", got)
	}
	w.Advance(time.Second)
	if got := sweep(t, w); got != (appraise.Swept{Passed: 1}) {
		t.Errorf("got %+v", got)
	}
	if got := doorSays(t, w, d, "lamp/1"); got != "" {
		t.Errorf("the door, after the sweep: got %q", got)
	}
}

// A device with a new key stands on nothing that its old key signed.
func TestEvidenceOfAnotherKeyDecidesNothing(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	row := d.Row()
	row.AKPublic = evidencetest.NewAK(evidencetest.Seed("another")).Public
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); err != nil {
		t.Fatal(err)
	}
	learn(w, withdrawn("lamp/1"))
	if got := sweep(t, w); got != (appraise.Swept{Stale: 1}) {
		t.Errorf("got %+v", got)
	}
}

// A round that was cut off goes on where it ended, and two that run at once decide about each device once.
func TestSweepIsResumedAndNeverDoubled(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	var devices []*appraisetest.Device
	for i := range 24 {
		devices = append(devices, settled(t, w, fmt.Sprint("device ", i)))
	}
	learn(w, withdrawn("lamp/1"))
	dying := &forgetful{Store: w.Store, commit: store.ErrUnavailable, good: 9}
	if _, err := sweeperOf(w, dying, "first").Round(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	other := sweeperOf(w, nil, "second")
	if got, err := other.Round(t.Context()); err != nil || !got.Elsewhere || got.Quarantined != 0 {
		t.Fatalf("while the lock is held: got %+v, %v", got, err)
	}
	w.Advance(2 * time.Minute) // the lock of the dead one ends
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if _, err := sweeperOf(w, nil, fmt.Sprint("replica ", i)).Round(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sweep(t, w)
	for _, d := range devices {
		if n := len(repetitions(t, w, d)); n != 1 || d.Row().Standing != fleet.Refused {
			t.Errorf("%s: %d repetitions, %s", d.ID, n, d.Row().Standing)
		}
	}
}

// What is stored says by what it was decided, and so does its event.
func TestResultsNameWhatTheyWereReachedWith(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	row, err := w.Store.LastAffirmed(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	release, _ := w.Catalog().Products[appraisetest.Product].Release("lamp/1")
	c, _ := release.Measured(appraisetest.Hardware)
	want := map[string]digest.SHA256{"lamp/1": c.ReferenceValues}
	if row.Verifier != "test" || row.Policy != digest.Of([]byte("policy")) || row.Baseline != digest.Of([]byte("baseline")) || !cmp.Equal(row.References, want) {
		t.Errorf("got %+v, want Reference Values %v", row, want)
	}
	events, err := w.Store.Events(t.Context(), store.EventFilter{Subject: d.ID, Types: []string{audit.VerdictAffirmed}}, 0, 0)
	if err != nil || len(events) != 1 {
		t.Fatalf("got %v, %v", events, err)
	}
	data, err := audit.DataOf(events[0].Leaf)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Appraisal digest.SHA256 `json:"appraisal"`
		Evidence  digest.SHA256 `json:"evidence"`
		Basis     fleet.Basis   `json:"basis"`
	}
	var verdict attestation.Verdict
	if err := errors.Join(json.Unmarshal(data, &got), json.Unmarshal(row.Verdict, &verdict)); err != nil {
		t.Fatal(err)
	}
	if got.Appraisal != row.ID || got.Evidence != verdict.Evidence || !cmp.Equal(got.Basis, fleet.Basis{Verifier: "test", Policy: row.Policy, Baseline: row.Baseline, References: want}) {
		t.Errorf("event: got %s", data)
	}
}
