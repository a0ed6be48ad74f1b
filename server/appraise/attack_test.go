package appraise_test

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// faulty is the real store, plus commits that fail.
type faulty struct {
	*store.Store
	before func() error             // instead of the commit
	after  func(store.Change) error // after it: failed but persisted
}

func (f *faulty) Commit(ctx context.Context, c store.Change) error {
	if f.before != nil {
		if err := f.before(); err != nil {
			return err
		}
	}
	err := f.Store.Commit(ctx, c)
	if err == nil && f.after != nil {
		return f.after(c)
	}
	return err
}

func challenge(w *appraisetest.World, d *appraisetest.Device) []byte {
	return w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now())
}

func TestFailedCommitChangesNothingAndAnswersNothing(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Boot("evil")
	row, events := d.Row(), w.Events(d.ID)
	broken := errors.New("disk full")
	s := w.ServiceWith(&faulty{Store: w.Store, before: func() error { return broken }})
	body := d.Body(challenge(w, d), true)
	_, answer, err := d.Send(s, body)
	if !errors.Is(err, broken) || answer.Body != nil || answer.Changed != nil {
		t.Fatalf("got %+v, %v", answer, err)
	}
	if diff := cmp.Diff(row, d.Row()); diff != "" || !slices.Equal(events, w.Events(d.ID)) {
		t.Errorf("something changed:\n%s", diff)
	}
	if _, err := w.Store.OpenQuarantine(t.Context(), d.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("quarantine: got %v", err)
	}
	if p, _, err := d.Send(w.Service, body); err != nil || p.Verdict != "refused" {
		t.Errorf("the same body later: got %+v, %v", p, err)
	}
}

// Failed but persisted: the device sends the same bytes again and gets what was decided, once.
func TestCommitWhoseAnswerIsLostIsDecidedOnce(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	lost := errors.New("connection to the database lost")
	var changes []store.Change
	s := w.ServiceWith(&faulty{Store: w.Store, after: func(c store.Change) error { changes = append(changes, c); return lost }})
	body := d.Body(challenge(w, d), false)
	if _, _, err := d.Send(s, body); !errors.Is(err, lost) {
		t.Fatalf("got %v", err)
	}
	events := w.Events(d.ID)
	p, _, err := d.Send(w.Service, body)
	if err != nil || p.Verdict != "affirmed" || !slices.Equal(events, w.Events(d.ID)) {
		t.Errorf("got %+v, %v", p, err)
	}
	wantTargets(t, w, d, p, "lamp/2/system")
	if len(changes) != 1 {
		t.Fatalf("%d commits for one poll", len(changes))
	}
	kinds := map[string]int{}
	for _, write := range changes[0].Writes {
		switch write.(type) {
		case store.PutDevice:
			kinds["device"]++
		case store.AddAppraisal:
			kinds["appraisal"]++
		case store.PutDirector:
			kinds["director"]++
		case store.AddUpdate:
			kinds["update"]++
		case store.AddLog:
			kinds["log"]++
		}
	}
	if diff := cmp.Diff(map[string]int{"device": 1, "appraisal": 1, "director": 1, "update": 1}, kinds); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestConflictIsDecidedAgain(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	moved := false
	s := w.ServiceWith(&faulty{Store: w.Store, before: func() error {
		if !moved { // a person isolates the device between the read and the commit (N141)
			moved = true
			commit(t, w, d, fleet.Isolate(d.Row(), nil, "ann", "odd", w.Now()))
		}
		return nil
	}})
	p, _, err := d.Send(s, d.Body(challenge(w, d), false))
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, p, reason.DeviceQuarantined)
	if len(p.Certificate) > 0 || d.Row().Standing != fleet.Refused {
		t.Errorf("got %+v, %s", p, d.Row().Standing)
	}
	always := w.ServiceWith(&faulty{Store: w.Store, before: func() error { return store.ErrConflict }})
	_, _, err = d.Send(always, d.Body(challenge(w, d), false))
	wantProblem(t, err, http.StatusServiceUnavailable, reason.ServerBusy)
}

// N142: two quotes at once. Whatever the order, each counts at most once and the clock never goes back.
func TestConcurrentPolls(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	var bodies [][]byte
	for range 8 {
		bodies = append(bodies, d.Body(challenge(w, d), false))
	}
	bodies = append(bodies, bodies...) // each twice
	var wg sync.WaitGroup
	for _, body := range bodies {
		wg.Go(func() {
			if _, err := w.Service.Poll(t.Context(), d.Key(), d.Exporter, body); err != nil && !errors.Is(err, store.ErrConflict) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	row := d.Row()
	if row.Standing != fleet.Affirmed || row.Accepted.Clock.Clock > d.Clock.Clock {
		t.Errorf("got %s, clock %+v", row.Standing, row.Accepted.Clock)
	}
	if _, err := w.Store.OpenQuarantine(t.Context(), d.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("quarantine: got %v", err)
	}
}

// AT: another device's evidence in this device's session, and this device's evidence over another connection.
func TestRefusesEvidenceOfAnotherSession(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	a, b := settled(t, w, "a"), settled(t, w, "b")
	nonce := challenge(w, b)
	var req wire.PollRequest
	if err := json.Unmarshal(b.Body(nonce, false), &req); err != nil {
		t.Fatal(err)
	}
	var claims wire.Claims
	if err := json.Unmarshal(req.Claims, &claims); err != nil {
		t.Fatal(err)
	}
	binding := attestation.Binding{
		Purpose: attestation.PurposePoll, Nonce: nonce, Device: b.ID, Exporter: b.Exporter,
		LogDigests: []digest.SHA256{claims.LogDigest}, Claims: digest.Of(req.Claims),
	}
	other := binding
	other.Exporter = a.Exporter
	changed := binding
	changed.Claims = digest.Of([]byte("other claims"))
	enrollment := binding
	enrollment.Purpose = attestation.PurposeEnroll
	tests := map[string]struct {
		evidence []byte
		want     reason.Reason
	}{
		"signed by another device's key":  {a.Evidence(binding, false), reason.QuoteSignatureInvalid},
		"over another TLS connection":     {b.Evidence(other, false), reason.NonceUnknown},
		"over other claims":               {b.Evidence(changed, false), reason.NonceUnknown},
		"made for an enrollment":          {b.Evidence(enrollment, false), reason.NonceUnknown},
		"another device's poll, replayed": {evidenceOf(t, a.Body(challenge(w, a), false)), reason.QuoteSignatureInvalid},
	}
	before := b.Row()
	for name, test := range tests {
		req.Evidence = test.evidence
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := b.Send(w.Service, body)
		if err != nil || p.Verdict != "refused" || len(p.Certificate) > 0 {
			t.Errorf("%s: got %+v, %v", name, p, err)
			continue
		}
		if got := reasonsOf(p); !slices.Contains(got, test.want) {
			t.Errorf("%s: got %v, want %s", name, got, test.want)
		}
	}
	if row := b.Row(); row.Standing != fleet.Affirmed || !row.LeaseUntil.Equal(before.LeaseUntil) || row.LastPoll != before.LastPoll {
		t.Errorf("somebody else's evidence changed the device: %+v", row)
	}
	_, err := w.Service.Poll(t.Context(), digest.Of([]byte("nobody")), a.Exporter, a.Body(nil, false))
	wantProblem(t, err, http.StatusUnauthorized, reason.DeviceUnknown)
}

func evidenceOf(t *testing.T, body []byte) []byte {
	t.Helper()
	var req wire.PollRequest
	if err := json.Unmarshal(body, &req); err != nil {
		t.Fatal(err)
	}
	return req.Evidence
}

// Logs are kept by the digest that a quote commits to. Nobody may put other bytes there, or devices with the same log
// would be asked for it for ever.
func TestForeignLogIsNotKept(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	victim := evidencetest.DirectUKI(evidencetest.Release("lamp/2")).Bytes()
	for name, spoil := range map[string]func(*attestation.Evidence){
		"garbage under another log's digest": func(e *attestation.Evidence) { e.LogDigest, e.Log = digest.Of(victim), []byte("garbage") },
		"right log, forged quote":            func(e *attestation.Evidence) { e.LogDigest, e.Log = digest.Of(victim), victim },
	} {
		var req wire.PollRequest
		if err := json.Unmarshal(d.Body(challenge(w, d), true), &req); err != nil {
			t.Fatal(err)
		}
		e, err := attestation.DecodeEvidence(req.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		spoil(&e)
		if req.Evidence, err = attestation.EncodeEvidence(e); err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(req)
		if p, _, err := d.Send(w.Service, body); err != nil || p.Verdict != "refused" {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
		if _, err := w.Store.Log(t.Context(), digest.Of(victim)); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: kept: %v", name, err)
		}
	}
}

func TestPendingDeviceGetsNothingUntilItIsClaimed(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1", func(row *fleet.Device) {
		row.Lifecycle, row.Product, row.Profile, row.Tier, row.AdmittedBy = fleet.Pending, "", "", 0, ""
	})
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), true))
	if err != nil || p.Verdict != "" || p.Director != nil || p.Challenge != nil || len(p.Certificate) > 0 {
		t.Errorf("got %+v, %v", p, err)
	}
	wantRefused(t, p, reason.DevicePending)
	entry := store.Inventory{Device: d.ID, Product: appraisetest.Product, HardwareID: appraisetest.Hardware, Profile: evidencetest.Profile, By: "ann", At: w.Now()}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutInventory{Entry: entry}}}); err != nil {
		t.Fatal(err)
	}
	p = d.Converse()
	wantTargets(t, w, d, p, "lamp/1/system")
	if row := d.Row(); row.Lifecycle != fleet.Active || row.AdmittedBy != "inventory" || row.Standing != fleet.Affirmed {
		t.Errorf("got %+v", row)
	}
}

func TestRetiredDeviceGetsNothing(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	commit(t, w, d, fleet.Retire(d.Row(), "ann"))
	_, _, err := d.Send(w.Service, d.Body(challenge(w, d), false))
	wantProblem(t, err, http.StatusForbidden, reason.DeviceRetired)
}

func TestMissingCounterHoldsUpdates(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Claims.Counter = nil
	p := d.Converse()
	wantRefused(t, p, reason.CounterMissing)
	if row := d.Row(); p.Verdict != "affirmed" || row.Standing != fleet.Affirmed || row.Offered != "" || row.Counter != nil {
		t.Errorf("got %+v, %+v", p, row)
	}
	d.Claims.Counter = &wire.Counter{Index: 101, Value: 1}
	wantTargets(t, w, d, d.Converse(), "lamp/2/system")
	if got := d.Row().Counter; got == nil || *got != 1 {
		t.Errorf("counter: got %v", got)
	}
}

// An error of ours (no policy, no baseline, no server root) never restricts, never loops and never passes.
func TestOurOwnGapsNeverQuarantine(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Edit(func(_ *repository.Catalog, p *repository.Product) { p.Baselines = nil })
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), false))
	if err != nil || p.EvidenceWanted != "" || p.Verdict != "" || d.Row().Standing != fleet.Affirmed {
		t.Errorf("no baseline: got %+v, %v", p, err)
	}
	wantRefused(t, p, reason.PolicyMissing)
	w.Edit(func(c *repository.Catalog, _ *repository.Product) { c.ImageRoots = nil })
	_, _, err = d.Send(w.Service, d.Body(nil, false))
	wantProblem(t, err, http.StatusServiceUnavailable, reason.ServerUninitialised)
	bare := appraisetest.New(t) // no release at all
	e := bare.Enrolled(t, "b", "lamp/1")
	p, _, err = e.Send(bare.Service, e.Body(challenge(bare, e), true))
	if err != nil || p.EvidenceWanted != "" {
		t.Errorf("no release: got %+v, %v", p, err)
	}
	wantRefused(t, p, reason.PolicyMissing, reason.DeviceUnproven)
}

func TestRefusesMalformedPolls(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	long := strings.Repeat("x", 2000)
	claims := func(change func(*wire.Claims)) []byte {
		c := d.Claims
		change(&c)
		encoded, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(wire.PollRequest{Claims: encoded})
		return body
	}
	bodies := map[string][]byte{
		"nothing": nil, "no object": []byte("7"), "no claims": []byte("{}"), "trailing bytes": append(d.Body(nil, false), 'x'),
		"claims twice":     []byte(`{"claims":"e30=","claims":"e30="}`),
		"claims no object": []byte(`{"claims":"Nw=="}`),
		"version":          claims(func(c *wire.Claims) { c.Version = 2 }),
		"negative":         claims(func(c *wire.Claims) { c.DirectorVersion = -1 }),
		"far away":         claims(func(c *wire.Claims) { c.DirectorVersion = 1<<53 + 1 }),
		"65 events":        claims(func(c *wire.Claims) { c.Events = make([]wire.Event, 65) }),
		"65 components":    claims(func(c *wire.Claims) { c.Components = make([]wire.Installed, 65) }),
		"long detail":      claims(func(c *wire.Claims) { c.Events = []wire.Event{{Detail: long}} }),
		"long reason":      claims(func(c *wire.Claims) { c.Events = []wire.Event{{Reason: reason.Reason(long)}} }),
		"long boot detail": claims(func(c *wire.Claims) { c.Boot = &wire.BootReport{Detail: long} }),
		"long challenge":   claims(func(c *wire.Claims) { c.Challenge = make([]byte, 1025) }),
	}
	for name, evidence := range map[string]string{"unknown member": `{"version":1,"x":1}`, "list": "[1]", "version 2": `{"version":2}`} {
		var req wire.PollRequest
		if err := json.Unmarshal(d.Body(nil, false), &req); err != nil {
			t.Fatal(err)
		}
		req.Evidence = []byte(evidence)
		bodies[name], _ = json.Marshal(req)
	}
	events := w.Events(d.ID)
	for name, body := range bodies {
		_, answer, err := d.Send(w.Service, body)
		if answer.Body != nil || err == nil {
			t.Errorf("%s: answered %s", name, answer.Body)
		}
		wantProblem(t, err, http.StatusBadRequest, reason.RequestMalformed)
	}
	large, _ := json.Marshal(wire.PollRequest{Claims: bytes.Repeat([]byte(" "), wire.MaxClaimsBytes+1)})
	_, _, err := d.Send(w.Service, large)
	wantProblem(t, err, http.StatusRequestEntityTooLarge, reason.RequestTooLarge)
	if !slices.Equal(events, w.Events(d.ID)) {
		t.Error("a malformed poll left events")
	}
}

// Inside v1 fields may be added: an older server ignores them.
func TestIgnoresUnknownClaims(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	body := []byte(`{"claims":"` + "eyJ2ZXJzaW9uIjoxLCJmcm9tX3RoZV9mdXR1cmUiOlsxXX0=" + `","future":true}`)
	if _, _, err := d.Send(w.Service, body); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestDirectorIsSignedOnlyWhenSomethingChanged(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	for range 5 {
		w.Advance(15 * time.Minute)
		w.Beacon()
		d.Renew()
		d.Poll(nil)
	}
	got, err := w.Store.Director(t.Context(), d.ID)
	if err != nil || got.Number != 1 {
		t.Errorf("got version %d, %v, want 1", got.Number, err)
	}
	d.Claims.DirectorVersion = 40 // the server was restored from a backup: the device is ahead
	p := d.Poll(nil)
	targets(t, w, d, p.Director)
	if d.Claims.DirectorVersion != 41 {
		t.Errorf("got version %d, want 41", d.Claims.DirectorVersion)
	}
}

func FuzzPoll(f *testing.F) {
	w := appraisetest.New(f)
	w.Publish("1", 1)
	d := w.Enrolled(f, "a", "lamp/1")
	f.Add(d.Body(nil, false))
	f.Add(d.Body(challenge(w, d), true))
	f.Add([]byte(`{"claims":"eyJ2ZXJzaW9uIjoxfQ==","evidence":{"version":1}}`))
	key := d.Key()
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > wire.MaxPollBytes {
			return
		}
		_, _ = w.Service.Poll(t.Context(), key, d.Exporter, body)
		if _, err := w.Store.OpenQuarantine(t.Context(), d.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("quarantined: %v", err)
		}
	})
}
