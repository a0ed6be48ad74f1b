package appraise_test

import (
	"bytes"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
)

func countOf(w *appraisetest.World, d *appraisetest.Device, kind string) int {
	return len(slices.DeleteFunc(w.Events(d.ID), func(k string) bool { return k != kind }))
}

// What a device can make the server keep for good without proving anything has a limit: its own reports, and Evidence
// that proves nothing. It is told to come back, so nothing that it has to say is lost.
func TestDeviceCannotFillTheDisk(t *testing.T) {
	t.Parallel()
	for name, poll := range map[string]func(*testing.T, *appraisetest.World, *appraisetest.Device, int) []byte{
		"reports": func(_ *testing.T, _ *appraisetest.World, d *appraisetest.Device, i int) []byte {
			d.Claims.Poll = []byte{byte(i >> 8), byte(i)}
			d.Claims.Events = slices.Repeat([]wire.Event{{Reason: reason.MetadataExpired, Detail: "again"}}, 64)
			return d.Body(nil, false)
		},
		"another counter each time": func(_ *testing.T, _ *appraisetest.World, d *appraisetest.Device, i int) []byte {
			d.Claims.Counter = &wire.Counter{Index: 100 + uint64(i%2), Value: uint64(i % 2)}
			return d.Body(nil, false)
		},
		"forged quotes": func(_ *testing.T, w *appraisetest.World, d *appraisetest.Device, _ int) []byte {
			genuine := d.AK
			d.AK = evidencetest.NewAK(evidencetest.Seed("another"))
			defer func() { d.AK = genuine }()
			return d.Body(challenge(w, d), false)
		},
		"claims that its quotes contradict": func(_ *testing.T, w *appraisetest.World, d *appraisetest.Device, _ int) []byte {
			d.Claims.Components = []wire.Installed{{Component: "system", SHA256: digest.Of([]byte("a lie")), Product: "lamp", Version: "9"}}
			defer func() { d.Claims.Components = nil }()
			return d.Body(challenge(w, d), false)
		},
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		polls := 0
		var err error
		for polls = range 1000 {
			if _, _, err = d.Send(w.Service, poll(t, w, d, polls)); err != nil {
				break
			}
		}
		if polls < 32 {
			t.Errorf("%s: refused after %d polls already", name, polls)
		}
		wantProblem(t, err, http.StatusTooManyRequests, reason.RateLimited)
		d.Claims.Events, d.Claims.Counter = nil, &wire.Counter{Index: 100, Value: *d.Row().Counter}
		if p := d.Converse(); p.Verdict != "affirmed" {
			t.Errorf("%s: then a good proof: got %+v", name, p)
		}
		w.Advance(15 * time.Minute)
		if _, _, err := d.Send(w.Service, poll(t, w, d, 9999)); err != nil {
			t.Errorf("%s: a poll interval later: %v", name, err)
		}
	}
}

// The limit is never a way around quarantine.
func TestFloodDoesNotPutOffAQuarantine(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Claims.Events = []wire.Event{{Detail: "noise"}}
	for i := range 1000 {
		d.Claims.Poll = []byte{byte(i >> 8), byte(i)}
		if _, _, err := d.Send(w.Service, d.Body(nil, false)); err != nil {
			break
		}
	}
	d.Boot("lamp/evil")
	if p, _, err := d.Send(w.Service, d.Body(challenge(w, d), true)); err != nil || p.Verdict != "refused" {
		t.Errorf("got %+v, %v", p, err)
	}
	if row := d.Row(); row.Standing != fleet.Refused || row.Segment != fleet.Restricted || countOf(w, d, "quarantine.opened") != 1 {
		t.Errorf("got %+v", row)
	}
}

// A hold, or the end of the lease, ends an offer for the device, too, that says it has lost the answer that made it.
func TestLostAnswerDoesNotOfferWhatIsNotOfferedAnyMore(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*appraisetest.World){
		"held":      func(w *appraisetest.World) { w.Hold("lamp/2", true) },
		"withdrawn": func(w *appraisetest.World) { withdraw(w, "lamp/2") },
		"lease":     func(w *appraisetest.World) { w.Advance(appraisetest.Settings.Terms.Lease + time.Minute) },
	} {
		w := appraisetest.New(t)
		d := settled(t, w, "a")
		w.Publish("2", 2)
		body := d.Body(challenge(w, d), false)
		p, first, err := d.Send(w.Service, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, again, err := d.Send(w.Service, body); err != nil || !bytes.Equal(first.Body, again.Body) {
			t.Fatalf("%s: while it is offered: got %s, %v", name, again.Body, err)
		}
		wantTargets(t, w, d, p, "lamp/2/system")
		d.Claims.DirectorVersion--
		end(w)
		d.Reconnect("second")
		if p, _, err = d.Send(w.Service, body); err != nil {
			t.Fatal(err)
		}
		if p.Director != nil && slices.Contains(targets(t, w, d, p.Director), "lamp/2/system") {
			t.Errorf("%s: the stored answer still offers lamp/2", name)
		}
	}
}

func withdraw(w *appraisetest.World, name string) {
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		p.Policy.Withdrawn = append(slices.Clone(p.Policy.Withdrawn), appraisetest.Image(name))
	})
}
