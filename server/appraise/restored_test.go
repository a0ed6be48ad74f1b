package appraise_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// lastEpoch is the highest number that the lost server may have used.
const lastEpoch = 1 << 30

// restored makes the World what it is after a restore of these rows: store.Restore does the same to them.
func restored(t *testing.T, w *appraisetest.World, rows ...fleet.Device) {
	t.Helper()
	w.Advance(time.Minute)
	for _, row := range rows {
		if row.Standing == fleet.Affirmed {
			row.Standing, row.StaleSince, row.LeaseUntil = fleet.Stale, w.Now(), time.Time{}
		}
		row.LastPoll, row.LastAnswer = digest.SHA256{}, nil
		if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); err != nil {
			t.Fatal(err)
		}
	}
	set := appraisetest.Settings
	set.Floor, set.RestoredAt, set.Terms.Epoch = w.Catalog().TimestampVersion, w.Now(), lastEpoch
	w.Challenges = appraise.NewChallenges(bytes.Repeat([]byte{9}, 32), 5*time.Minute)
	w.Director = w.Director.Above(lastEpoch)
	w.Service = appraise.New(w.Store, w.Catalog, w.Challenges, w.Director, w.CA, set, w.Now, w.Log)
	w.Advance(time.Second)
	w.Beacon()
}

func TestNothingOfBeforeTheRestoreIsAccepted(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	oldBeacon := w.Catalog().Beacon
	oldChallenge := w.Challenges.Mint(attestation.PurposePoll, d.ID, w.Now())
	row := d.Row()
	answered := d.Body(oldBeacon[:], false)
	if p, _, err := d.Send(w.Service, answered); err != nil || p.Verdict != "affirmed" {
		t.Fatalf("got %+v, %v", p, err)
	}
	restored(t, w, row)
	for name, body := range map[string][]byte{
		"a poll recorded before":           answered,
		"a new quote over an old beacon":   d.Body(oldBeacon[:], false),
		"a quote over an old challenge":    d.Body(oldChallenge, false),
		"a quote over a beacon of nowhere": d.Body(bytes.Repeat([]byte{1}, 32), false),
	} {
		p, _, err := d.Send(w.Service, body)
		if err != nil || p.Verdict != "" || p.LeaseUntil != 0 || !slices.Contains(reasonsOf(p), reason.NonceUnknown) {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
		if row := d.Row(); row.Standing != fleet.Stale || !row.LeaseUntil.IsZero() {
			t.Errorf("%s: standing %s, lease until %s", name, row.Standing, row.LeaseUntil)
		}
	}
}

// A quarantine may be among what was lost: the first proof is over a challenge, and the network hears of it only then.
func TestDeviceProvesOverAChallengeAfterARestore(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	row := d.Row()
	before, directed := w.Order(d.ID), d.Claims.DirectorVersion
	restored(t, w, row)
	if p := d.Renew(); p.EvidenceWanted != wire.WantQuote || p.Verdict != "" {
		t.Errorf("over the beacon: got %+v", p)
	}
	if order := w.Order(d.ID); order.ID != before.ID {
		t.Errorf("the network was told before the proof: %+v", order)
	}
	p := d.Converse()
	if p.Verdict != "affirmed" || d.Row().Standing != fleet.Affirmed {
		t.Errorf("over a challenge: got %+v", p)
	}
	if got := d.Row().Epoch; got <= lastEpoch {
		t.Errorf("got epoch %d of enforcement orders, want above %d", got, lastEpoch)
	}
	stored, err := w.Store.Director(t.Context(), d.ID)
	if err != nil || stored.Number <= lastEpoch || stored.Number <= directed {
		t.Errorf("got director version %d, %v, want above %d", stored.Number, err, lastEpoch)
	}
	if p := d.Renew(); p.EvidenceWanted != "" {
		t.Errorf("the second proof: got %+v", p)
	}
}

// The device runs a release that was published after the backup. It is not the device that is wrong.
func TestLostReleaseHoldsAndDoesNotQuarantine(t *testing.T) {
	t.Parallel()
	claims := map[string]func(*wire.Claims){
		"installed component": func(c *wire.Claims) {
			c.Components = []wire.Installed{{Component: "system", Product: appraisetest.Product, Version: "2"}}
		},
		"release counter":  func(c *wire.Claims) { c.Counter = &wire.Counter{Value: 2} },
		"release on trial": func(c *wire.Claims) { c.Boot = &wire.BootReport{Result: "ok", Version: "lamp/2"} },
	}
	for name, claim := range claims {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		restored(t, w, d.Row())
		d.Boot("lamp/2")
		claim(&d.Claims)
		p := d.Converse()
		if p.Verdict != "" || p.LeaseUntil != 0 || len(p.Certificate) > 0 {
			t.Errorf("%s: got %+v", name, p)
		}
		if !slices.Contains(reasonsOf(p), reason.ReleaseLost) || slices.Contains(reasonsOf(p), reason.DeviceQuarantined) {
			t.Errorf("%s: got %v", name, reasonsOf(p))
		}
		w.Publish("2", 2)
		if p := d.Converse(); p.Verdict != "affirmed" || p.Release != "lamp/2" || d.Row().HighCounter != 2 {
			t.Errorf("%s, after it was published again: got %+v", name, p)
		}
	}
}

// What a device says protects it only while it has proven nothing, and only if the server cannot know what it says. An
// unknown image without such a claim, or after the first proof, quarantines as ever.
func TestRestoreExcusesNoWrongState(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	plain, proven := settled(t, w, "a"), settled(t, w, "b")
	restored(t, w, plain.Row(), proven.Row())
	plain.Boot("evil")
	wantRefused(t, plain.Converse(), reason.PCRMismatch, reason.DeviceQuarantined)

	if p := proven.Converse(); p.Verdict != "affirmed" {
		t.Fatalf("got %+v", p)
	}
	proven.Boot("evil")
	proven.Claims.Counter = &wire.Counter{Value: 99}
	wantRefused(t, proven.Converse(), reason.PCRMismatch, reason.DeviceQuarantined)
}

// A server that was never restored excuses nothing.
func TestUnknownReleaseQuarantinesWithoutARestore(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Boot("lamp/2")
	d.Claims.Counter = &wire.Counter{Value: 99}
	wantRefused(t, d.Converse(), reason.PCRMismatch, reason.DeviceQuarantined)
}
