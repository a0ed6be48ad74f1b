package appraise_test

import (
	"context"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// chained makes Publish publish a release that GRUB boots: no measurement of it is the image's alone.
func chained(r *repository.Release) {
	v := r.Values["system"]
	v.Boot = reference.BootChain
	r.Values["system"] = v
}

// A withdrawn image that no measurement names is not recognised wherever it boots, but nobody is affirmed on it any more:
// neither by what was proven before, nor by a new proof, nor by a first one.
func TestWithdrawnImageOfABootChainIsNotExpectedAnyMore(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1, chained)
	w.Publish("2", 2)
	d, silent := w.Enrolled(t, "a", "lamp/1"), w.Enrolled(t, "b", "lamp/1")
	for _, one := range []*appraisetest.Device{d, silent} {
		one.Converse()
		if row := one.Row(); row.Standing != fleet.Affirmed || doorSays(t, w, one, "lamp/2") != "" {
			t.Fatalf("not settled: %+v", row)
		}
	}
	learn(w, withdrawn("lamp/1"))
	if got := doorSays(t, w, silent, "lamp/2"); got != reason.DeviceUnproven {
		t.Errorf("the door before anybody looked: got %q, want %s", got, reason.DeviceUnproven)
	}
	sweep(t, w)
	if row := silent.Row(); row.Standing != fleet.Stale || !row.LeaseUntil.IsZero() {
		t.Errorf("a silent device is %s until %s", row.Standing, row.LeaseUntil)
	}
	first := w.Enrolled(t, "c", "lamp/1")
	for name, one := range map[string]*appraisetest.Device{"proven before": d, "silent": silent, "never proven": first} {
		p, _, err := one.Send(w.Service, one.Body(challenge(w, one), true))
		if err != nil || p.Verdict != "refused" || len(p.Certificate) > 0 || one.Row().Standing != fleet.Refused {
			t.Errorf("%s: a new proof: got %+v, %v, %s", name, p, err, one.Row().Standing)
		}
		wantRefused(t, p, reason.PCRMismatch, reason.DeviceQuarantined)
	}
}

// The same where nothing else could be expected: that is no wrong state of the device's, and no proof either.
func TestWithdrawnImageOfABootChainProvesNothing(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1, chained)
	d := w.Enrolled(t, "a", "lamp/1")
	d.Converse()
	learn(w, withdrawn("lamp/1"))
	p, _, err := d.Send(w.Service, d.Body(challenge(w, d), true))
	if row := d.Row(); err != nil || p.Verdict != "" || len(p.Certificate) > 0 || row.Standing != fleet.Stale || !row.LeaseUntil.IsZero() {
		t.Errorf("got %+v, %v, %+v", p, err, row)
	}
}

// newer is a store in which the holders sign something else while the first batch of a round is read.
type newer struct {
	*store.Store
	reads int
	sign  func()
}

func (n *newer) DevicesOutdated(ctx context.Context, product, profile string, grounds digest.SHA256, limit int) ([]fleet.Device, error) {
	if n.reads++; n.reads == 2 {
		n.sign()
	}
	return n.Store.DevicesOutdated(ctx, product, profile, grounds, limit)
}

// A round that goes on with what was signed before would bring back devices that polls have brought to what holds now.
func TestRoundEndsWhenTheGroundsChange(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d, polled := settled(t, w, "a"), settled(t, w, "b")
	w.Publish("2", 2)
	w.Publish("3", 3)
	learn(w, withdrawn("lamp/2"))
	holds := func(one *appraisetest.Device) bool {
		return one.Row().Grounds == w.Catalog().Products[appraisetest.Product].Grounds(one.Row().Profile)
	}
	s := &newer{Store: w.Store}
	s.sign = func() { t.Error("it looks for more devices on grounds that do not hold any more") }
	service := sweeperOf(w, &signing{s, func() {
		learn(w, withdrawn("lamp/3"))
		polled.Poll(nil)
	}}, "test")
	if _, err := service.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	sweep(t, w)
	for _, one := range []*appraisetest.Device{d, polled} {
		if row := one.Row(); !holds(one) || row.Standing != fleet.Affirmed {
			t.Errorf("%s: %s", one.ID, row.Standing)
		}
	}
}

// signing signs when the lock of the first batch is taken.
type signing struct {
	*newer
	sign func()
}

func (s *signing) Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (int64, bool, error) {
	fence, ok, err := s.newer.Lock(ctx, name, holder, ttl, now)
	s.sign()
	return fence, ok, err
}
