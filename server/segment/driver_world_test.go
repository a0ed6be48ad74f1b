package segment_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/observe"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// onEach runs a test once per engine.
func onEach(t *testing.T, run func(t *testing.T, dsn string)) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			run(t, fresh(t, engine))
		})
	}
}

// fresh is an empty database of the engine, or of the engine of another one.
func fresh(t *testing.T, engine string) string {
	t.Helper()
	if strings.HasPrefix(engine, "sqlite") {
		return "sqlite:" + filepath.Join(t.TempDir(), "state.db")
	}
	return parts.TestPostgres(t)
}

// site is a database, a clock and a network.
type site struct {
	t       *testing.T
	dsn     string
	store   *store.Store
	net     *segmenttest.Network
	rules   standing.Rules
	breaker segment.Breaker

	mu    sync.Mutex
	clock time.Time
}

var pace = segment.Pace{
	Every: time.Second, Timeout: 5 * time.Second, Parallel: 4, Rate: 1e6, Burst: 1e6,
	RetryMin: 100 * time.Millisecond, RetryMax: 10 * time.Second, Reapply: 5 * time.Second, Reconcile: time.Minute,
}

func newSite(t *testing.T, dsn string) *site {
	s := &site{t: t, dsn: dsn, clock: now, rules: standing.Rules{Terms: appraisetest.Settings.Terms, Points: []string{"net"}},
		breaker: segment.Breaker{Devices: 10, Percent: 5, Window: 10 * time.Minute}}
	s.store = s.open()
	s.net = segmenttest.NewNetwork("net", segment.ByAddress, s.now)
	return s
}

func (s *site) open() *store.Store {
	s.t.Helper()
	db, err := store.Open(s.t.Context(), s.dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *site) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

func (s *site) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

// driver is a new one: what it knows is in the rows.
func (s *site) driver() *segment.Driver { return s.driverOver(s.store, s.net.Point()) }

func (s *site) driverOver(db segment.Outbox, p segment.Point) *segment.Driver {
	return segment.NewDriver(segment.Drive{
		Point: p, Store: db, Breaker: s.breaker, Pace: pace, Now: s.now, Log: slog.New(slog.DiscardHandler),
		Metrics: observe.NewMetrics(func() float64 { return 0 }),
	})
}

// round runs rounds, each after the longest retry.
func (s *site) round(d *segment.Driver, rounds int) {
	s.t.Helper()
	for range rounds {
		s.advance(pace.RetryMax)
		if err := d.Round(s.t.Context()); err != nil {
			s.t.Fatalf("Round: %v", err)
		}
	}
}

func id(n int) string { return fmt.Sprintf("device%020d", n) }

// admit writes an affirmed device with an address, in production at every point.
func (s *site) admit(n int) fleet.Device {
	s.t.Helper()
	d := fleet.Device{ID: id(n), Product: appraisetest.Product, Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Restricted,
		EKSPKI: digest.Of([]byte("ek" + id(n))), TLSKey: digest.Of([]byte("tls" + id(n))), ProvenAt: s.now(), LeaseUntil: s.now().Add(1000 * time.Hour)}
	s.locate(d.ID, fmt.Sprintf("10.0.%d.%d", n/250, n%250+1))
	return s.close(d, nil, store.Change{})
}

func (s *site) locate(device string, addresses ...string) {
	s.t.Helper()
	s.commit(store.Change{Writes: []store.Write{store.PutInventory{Entry: store.Inventory{
		Device: device, Product: appraisetest.Product, By: "ann", At: s.now(), Addresses: addresses,
	}}}})
}

func (s *site) commit(c store.Change) {
	s.t.Helper()
	if err := s.store.Commit(s.t.Context(), c); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) close(d fleet.Device, q *fleet.Quarantine, c store.Change) fleet.Device {
	s.t.Helper()
	s.rules.Close(&c, &d, q, "server", s.now())
	s.commit(c)
	d, err := s.store.Device(s.t.Context(), d.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// isolate takes a device out of production, restore brings it back.
func (s *site) isolate(d fleet.Device) fleet.Device {
	s.t.Helper()
	var c store.Change
	var q *fleet.Quarantine
	standing.Take(&c, &d, &q, fleet.Isolate(d, nil, "ann", "looks odd", s.now()), "ann", s.now())
	return s.close(d, q, c)
}

func (s *site) restore(d fleet.Device) fleet.Device {
	s.t.Helper()
	q, err := s.store.OpenQuarantine(s.t.Context(), d.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	var c store.Change
	open := &q
	standing.Take(&c, &d, &open, fleet.End(d, q, s.now()), "bob", s.now())
	d.Standing, d.LeaseUntil = fleet.Affirmed, s.now().Add(1000*time.Hour)
	return s.close(d, nil, c)
}

// order is the device's order in force at the point.
func (s *site) order(device string) store.Order {
	s.t.Helper()
	orders, err := s.store.CurrentOrders(s.t.Context(), []string{device})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range orders {
		if o.Point == "net" {
			return o
		}
	}
	s.t.Fatalf("%s has no order", device)
	return store.Order{}
}

func (s *site) want(device string, state segment.State, waiting store.Waiting, where fleet.Segment) store.Order {
	s.t.Helper()
	o := s.order(device)
	if segment.StateOf(o) != state || o.Waiting != waiting {
		s.t.Errorf("order of epoch %d: got %s, %q (%s), want %s, %q", o.Epoch, segment.StateOf(o), o.Waiting, o.Detail, state, waiting)
	}
	if got := s.net.Where(device); got != where {
		s.t.Errorf("the network holds %s in %s, want %s", device, got, where)
	}
	return o
}

// events returns how many events of a type a subject has.
func (s *site) events(subject, kind string) []store.StoredEvent {
	s.t.Helper()
	all, err := s.store.Events(s.t.Context(), store.EventFilter{Subject: subject, Types: []string{kind}}, 0, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func (s *site) wantEvents(subject, kind string, n int) {
	s.t.Helper()
	if got := s.events(subject, kind); len(got) != n {
		s.t.Errorf("%s of %s: got %d events, want %d", kind, subject, len(got), n)
	}
}

// receipt is the newest receipt's data.
func (s *site) receipt(device string) string {
	s.t.Helper()
	all := s.events(device, audit.SegmentVerified)
	if len(all) == 0 {
		return ""
	}
	data, err := audit.DataOf(all[len(all)-1].Leaf)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func wantIn(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: got %s, want %q in it", what, text, part)
		}
	}
}
