package appraise_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

func reasonsOf(p wire.PollAnswer) []reason.Reason {
	var out []reason.Reason
	for _, r := range p.Refusal {
		out = append(out, r.Reason)
	}
	return out
}

func wantRefused(t *testing.T, p wire.PollAnswer, want ...reason.Reason) {
	t.Helper()
	if got := reasonsOf(p); !slices.Equal(got, want) {
		t.Errorf("got refusals %v, want %v", got, want)
	}
}

func wantProblem(t *testing.T, err error, status int, why reason.Reason) {
	t.Helper()
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Status != status || p.Reason != why {
		t.Errorf("got %v, want status %d and %s", err, status, why)
	}
}

// targets verifies director metadata as a device does and returns the paths it names.
func targets(t *testing.T, w *appraisetest.World, d *appraisetest.Device, doc *wire.Director) []string {
	t.Helper()
	if doc == nil {
		t.Fatal("no director metadata")
	}
	v, err := tufrepo.NewDirector(w.Root, d.ID, w.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Update(tufrepo.DirectorDocs{Timestamp: doc.Timestamp, Snapshot: doc.Snapshot, Targets: doc.Targets}); err != nil {
		t.Fatalf("director metadata does not verify: %v", err)
	}
	var out []string
	for _, target := range v.Targets() {
		out = append(out, target.Path)
	}
	_, d.Claims.DirectorVersion = v.Versions()
	return out
}

func wantTargets(t *testing.T, w *appraisetest.World, d *appraisetest.Device, p wire.PollAnswer, want ...string) {
	t.Helper()
	if got := targets(t, w, d, p.Director); !slices.Equal(got, want) {
		t.Errorf("director names %v, want %v", got, want)
	}
}

// settled is a device that has proven lamp/1 and has its director metadata.
func settled(t *testing.T, w *appraisetest.World, label string) *appraisetest.Device {
	t.Helper()
	if _, ok := w.Catalog().Products[appraisetest.Product].Release("lamp/1"); !ok {
		w.Publish("1", 1)
	}
	d := w.Enrolled(t, label, "lamp/1")
	wantTargets(t, w, d, d.Converse(), "lamp/1/system")
	return d
}

func TestFirstProofToOfferToProof(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1")

	p := d.Poll(nil)
	if p.EvidenceWanted != wire.WantQuote || len(p.Challenge) == 0 || p.Timestamp == nil || p.Director != nil {
		t.Fatalf("first poll: got %+v", p)
	}
	p = d.Poll(p.Challenge)
	if p.EvidenceWanted != wire.WantLog || p.Verdict != "" {
		t.Fatalf("unknown log: got %+v", p)
	}
	p, _, err := d.Send(w.Service, d.Body(p.Challenge, true))
	if err != nil || p.Verdict != "affirmed" || p.Release != "lamp/1" || p.EvidenceWanted != "" || len(p.Certificate) == 0 {
		t.Fatalf("with the log: got %+v, %v", p, err)
	}
	wantTargets(t, w, d, p, "lamp/1/system")
	leaf, err := x509.ParseCertificate(p.Certificate[0])
	if err != nil || leaf.NotAfter.Unix() != p.LeaseUntil || leaf.URIs[0].String() != "spiffe://example.org/device/"+d.ID {
		t.Errorf("certificate: got %v until %s, %v, lease %d", leaf.URIs, leaf.NotAfter, err, p.LeaseUntil)
	}
	if order := w.Order(d.ID); order.Segment != fleet.Production || order.Epoch != 1 {
		t.Errorf("order: got %+v", order)
	}

	w.Publish("2", 2)
	if p = d.Poll(nil); p.EvidenceWanted != wire.WantQuote || p.Director != nil {
		t.Fatalf("a new release without a challenge quote: got %+v", p)
	}
	p = d.Poll(p.Challenge)
	wantTargets(t, w, d, p, "lamp/2/system")
	if row := d.Row(); row.Offered != "lamp/2" || !row.Deadline.Equal(w.Now().Add(appraisetest.Settings.UpdateDeadline)) {
		t.Errorf("offer: got %+v", row)
	}

	d.Boot("lamp/2")
	p = d.Converse()
	if p.Verdict != "affirmed" || p.Release != "lamp/2" {
		t.Fatalf("after the update: got %+v", p)
	}
	row := d.Row()
	if row.Proven != "lamp/2" || row.HighCounter != 2 || row.Offered != "" {
		t.Errorf("got %+v", row)
	}
	updates, err := w.Store.Updates(t.Context(), time.Time{}, time.Time{}, "", 0)
	if err != nil || len(updates) != 1 || updates[0].Result != "proven" || updates[0].From != "lamp/1" || updates[0].To != "lamp/2" {
		t.Errorf("updates: got %+v, %v", updates, err)
	}
	want := []string{"verdict.affirmed", "certificate.issued", "segment.ordered", "release.offered", "certificate.issued", "verdict.affirmed", "update.proven", "certificate.issued"}
	if got := w.Events(d.ID); !slices.Equal(got, want) {
		t.Errorf("events:\ngot  %v\nwant %v", got, want)
	}
}

func TestBeaconRenewsTheLeaseAndIdleIs204(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	before := d.Row().LeaseUntil
	w.Advance(15 * time.Minute)
	w.Beacon()
	p := d.Renew()
	if p.Verdict != "affirmed" || p.EvidenceWanted != "" || len(p.Certificate) != 0 || p.Timestamp != nil || p.Director != nil {
		t.Errorf("renewal: got %+v", p)
	}
	if got := d.Row().LeaseUntil; !got.Equal(before.Add(15 * time.Minute)) {
		t.Errorf("lease until %s, want %s", got, before.Add(15*time.Minute))
	}
	if _, answer, err := d.Send(w.Service, d.Body(nil, false)); err != nil || answer.Body != nil {
		t.Errorf("idle: got %s, %v, want 204", answer.Body, err)
	}
	w.Beacon()
	if p := d.Poll(nil); p.Timestamp == nil {
		t.Error("204 although the device's timestamp is not the current one")
	}
}

func TestLostAnswerIsSentAgainWithoutALongerLease(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Advance(10 * time.Minute)
	w.Beacon()
	beacon := w.Catalog().Beacon
	d.Claims.Timestamp = beacon
	body := d.Body(beacon[:], false)
	_, first, err := d.Send(w.Service, body)
	if err != nil {
		t.Fatal(err)
	}
	row, events := d.Row(), w.Events(d.ID)
	d.Reconnect("second")
	w.Advance(30 * time.Minute)
	_, again, err := d.Send(w.Service, body)
	if err != nil || !bytes.Equal(first.Body, again.Body) {
		t.Errorf("got %s, %v, want %s", again.Body, err, first.Body)
	}
	if got := d.Row(); got.Version != row.Version || !slices.Equal(w.Events(d.ID), events) {
		t.Errorf("the repetition changed the device: %+v", got)
	}
	other := append(bytes.Clone(body), ' ') // one byte more: it is another poll, bound to another connection
	p, _, err := d.Send(w.Service, other)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(reasonsOf(p), reason.NonceUnknown) || !d.Row().LeaseUntil.Equal(row.LeaseUntil) {
		t.Errorf("not byte for byte: got %v", reasonsOf(p))
	}
}

// A poll whose answer was a 204 is recognised too: what it reported must not be written down twice.
func TestLost204IsRecognised(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Claims.Events = []wire.Event{{Reason: reason.MetadataInvalid, Detail: "bad snapshot", Time: 1}}
	body := d.Body(nil, false)
	for range 3 {
		if _, answer, err := d.Send(w.Service, body); err != nil || answer.Body != nil {
			t.Fatalf("got %s, %v, want 204", answer.Body, err)
		}
	}
	n := 0
	for _, kind := range w.Events(d.ID) {
		if kind == "client.event" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("got the event %d times", n)
	}
}

// What was stored is not true any more once a person has tightened: no certificate, no offer, no 200.
func TestLostAnswerIsVoidAfterIsolationAndRetirement(t *testing.T) {
	t.Parallel()
	for name, tighten := range map[string]func(fleet.Device) fleet.Step{
		"isolated": func(d fleet.Device) fleet.Step { return fleet.Isolate(d, nil, "ann", "", at) },
		"retired":  func(d fleet.Device) fleet.Step { return fleet.Retire(d, "ann") },
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		body := d.Body(w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now()), false)
		if p, _, err := d.Send(w.Service, body); err != nil || len(p.Certificate) == 0 {
			t.Fatalf("%s: got %+v, %v", name, p, err)
		}
		commit(t, w, d, tighten(d.Row()))
		p, _, err := d.Send(w.Service, body)
		if name == "retired" {
			wantProblem(t, err, http.StatusForbidden, reason.DeviceRetired)
			continue
		}
		if err != nil || len(p.Certificate) > 0 || p.Verdict == "affirmed" {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func commit(t *testing.T, w *appraisetest.World, d *appraisetest.Device, step fleet.Step) {
	t.Helper()
	change := store.Change{
		Expect: []store.Expect{{Table: store.Devices, Key: d.ID, Version: d.Row().Version}},
		Writes: []store.Write{store.PutDevice{Device: step.Device}},
	}
	if step.Quarantine != nil {
		change.Writes = append(change.Writes, store.PutQuarantine{Quarantine: *step.Quarantine})
	}
	if err := w.Store.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

func TestRefusesStaleAndForeignNonces(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	other := settled(t, w, "b")
	beacon := w.Catalog().Beacon
	good := w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now())
	tampered := bytes.Clone(good)
	tampered[12] ^= 1
	w.Advance(61 * time.Minute)
	tests := map[string]struct {
		nonce []byte
		want  reason.Reason
	}{
		"expired challenge":            {good, reason.NonceExpired},
		"tampered challenge":           {tampered, reason.NonceUnknown},
		"another device's challenge":   {w.Challenges.Mint(attestation.PurposePoll, other.ID, w.Now()), reason.NonceUnknown},
		"another purpose's challenge":  {w.Challenges.Mint(attestation.PurposeEnroll, d.ID, w.Now()), reason.NonceUnknown},
		"beacon outside of the window": {beacon[:], reason.NonceExpired},
		"a beacon that nobody issued":  {bytes.Repeat([]byte{7}, 32), reason.NonceUnknown},
		"a challenge of the far past":  {w.Challenges.Mint(attestation.PurposePoll, d.ID, at.AddDate(-1, 0, 0)), reason.NonceExpired},
	}
	before := d.Row()
	for name, test := range tests {
		d.Claims.Timestamp = beacon
		if name == "a beacon that nobody issued" {
			copy(d.Claims.Timestamp[:], test.nonce)
		}
		p, _, err := d.Send(w.Service, d.Body(test.nonce, false))
		if err != nil || p.EvidenceWanted != wire.WantQuote || len(p.Challenge) == 0 || p.Verdict != "" {
			t.Errorf("%s: got %+v, %v", name, p, err)
			continue
		}
		wantRefused(t, p, test.want)
	}
	if row := d.Row(); !row.LeaseUntil.Equal(before.LeaseUntil) || row.Standing != fleet.Affirmed || row.Accepted.Clock != before.Accepted.Clock {
		t.Errorf("a refused quote changed the device: %+v", row)
	}
	d.Claims.Timestamp = [32]byte{} // N72: no nonce on either side
	req := wire.PollRequest{}
	if err := json.Unmarshal(d.Body(beacon[:], false), &req); err != nil {
		t.Fatal(err)
	}
	req.Claims = []byte(`{"version":1,"counter":{"index":100,"value":0}}`)
	body, _ := json.Marshal(req)
	p, _, err := d.Send(w.Service, body)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, p, reason.NonceUnknown)
}

func TestNewBootOverTheBeaconNeedsAChallenge(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	lease := d.Row().LeaseUntil
	w.Advance(time.Minute)
	w.Beacon()
	d.Boot("lamp/1")
	p := d.Renew()
	if p.EvidenceWanted != wire.WantQuote || p.Verdict != "" || !d.Row().LeaseUntil.Equal(lease) {
		t.Fatalf("got %+v", p)
	}
	if p = d.Poll(p.Challenge); p.Verdict != "affirmed" {
		t.Errorf("over the challenge: got %+v", p)
	}
}

// A trial boot is proven over a challenge, also when the clock shows no reset.
func TestTrialBootIsProvenOverAChallenge(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Claims.Boot = &wire.BootReport{Result: "ok", Version: "lamp/1"}
	p := d.Renew()
	if p.EvidenceWanted != wire.WantQuote || p.Verdict != "" {
		t.Fatalf("got %+v", p)
	}
	if p = d.Poll(p.Challenge); p.Verdict != "affirmed" || p.Release != "lamp/1" {
		t.Errorf("got %+v", p)
	}
}

func TestReplayedClockIsRefusedAndAskedAgain(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	for name, change := range map[string]func(){
		"clock stands": func() { d.Clock.Clock -= 10 }, "clock goes back": func() { d.Clock.Clock -= 500 },
		"reset count goes back": func() { d.Clock.ResetCount-- }, "unsafe clock": func() { d.Clock.Safe = false },
	} {
		before := d.Clock
		change()
		w.Advance(90 * time.Minute) // the lease is almost over: the server wants a proof
		w.Beacon()
		p := d.Renew()
		wantRefused(t, p, reason.NonceReused)
		if p.EvidenceWanted != wire.WantQuote || d.Row().Standing != fleet.Affirmed {
			t.Errorf("%s: got %+v, %s: without a challenge the device never comes back", name, p, d.Row().Standing)
		}
		d.Clock = before
		d.Clock.Clock += 100
		if p := d.Poll(p.Challenge); p.Verdict != "affirmed" {
			t.Errorf("%s, then a good quote: got %+v", name, p)
		}
	}
	// After a power cut the clock is unsafe until it has been written back: a challenge quote of the new boot counts.
	d.Boot("lamp/1")
	d.Clock.Safe = false
	if p := d.Converse(); p.Verdict != "affirmed" {
		t.Errorf("unsafe clock of a new boot over a challenge: got %+v", p)
	}
}
