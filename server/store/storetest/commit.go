package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

func commitContracts() []contract {
	return []contract{
		{"LetsExactlyOneWin", func(t *testing.T, s *store.Store) { LetsExactlyOneWin(t, s, s) }},
		{"LetsNobodyElsePay", letsNobodyElsePay},
		{"NumbersEventsWithoutGaps", func(t *testing.T, s *store.Store) { NumbersEventsWithoutGaps(t, s, s) }},
		{"CountsEveryIncrement", func(t *testing.T, s *store.Store) { CountsEveryIncrement(t, s, s) }},
		{"ShowsWholeChangesOnly", showsWholeChangesOnly},
	}
}

const crowd = 24

// together runs n functions at once and waits for all.
func together(n int, run func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			run(i)
		})
	}
	close(start)
	wg.Wait()
}

func alternate(stores []*store.Store, i int) *store.Store { return stores[i%len(stores)] }

// LetsExactlyOneWin: of many committers that expect the same version, through any Store on the database, one wins.
func LetsExactlyOneWin(t *testing.T, stores ...*store.Store) {
	for round := range int64(5) {
		var won atomic.Int64
		together(crowd, func(i int) {
			d := device("prize")
			d.Epoch = int64(i)
			err := alternate(stores, i).Commit(t.Context(), store.Change{
				Expect: []store.Expect{{Table: store.Devices, Key: "prize", Version: round}},
				Writes: []store.Write{store.PutDevice{Device: d}},
				Events: []store.Event{event("prize", map[string]any{"i": i})},
				Orders: []store.Order{{Device: "prize", Segment: fleet.Restricted, Point: "door", Epoch: round + 1}},
			})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("loser: %v", err)
			}
		})
		if won.Load() != 1 {
			t.Fatalf("round %d: %d committers won, want 1", round, won.Load())
		}
	}
	d, err := stores[0].Device(t.Context(), "prize")
	got(d.Version, err)(t, "version", int64(5))
	orders, err := stores[0].Orders(t.Context(), "prize", 0)
	got(len(orders), err)(t, "orders", 5)
	if events := checkEvents(t, stores[0]); len(events) != 5 {
		t.Errorf("got %d events, want one per winner: 5", len(events))
	}
}

// letsNobodyElsePay mixes good Changes with ones that break each kind of rule, all at once.
func letsNobodyElsePay(t *testing.T, s *store.Store) {
	write(t, s, store.PutDevice{Device: device("there")}, store.ConsumeChallenge{Digest: sum("used"), Expires: at(1)})
	stolen := device("thief")
	stolen.EKSPKI = sum("ek", "there")
	bad := []store.Write{
		store.PutDevice{Device: stolen},                             // an error of the database, which aborts the transaction on PostgreSQL
		store.ConsumeChallenge{Digest: sum("used"), Expires: at(1)}, // a count that is wrong
	}
	together(5*crowd, func(i int) {
		c := store.Change{
			Writes: []store.Write{store.PutDevice{Device: device(fmt.Sprint("good", i))}},
			Events: []store.Event{event(fmt.Sprint("good", i), nil), event(fmt.Sprint("good", i), nil)},
		}
		if i%5 == 0 {
			c.Writes = append(c.Writes, bad[i/5%2])
			wantError(t, "bad change", s.Commit(t.Context(), c), store.ErrConflict)
			return
		}
		if err := s.Commit(t.Context(), c); err != nil {
			t.Errorf("good change: %v", err)
		}
	})
	for i := range 5 * crowd {
		_, err := s.Device(t.Context(), fmt.Sprint("good", i))
		if i%5 == 0 {
			wantError(t, "device of a bad change", err, store.ErrNotFound)
		} else if err != nil {
			t.Errorf("device of a good change: %v", err)
		}
	}
	if events, want := checkEvents(t, s), 2*4*crowd; len(events) != want {
		t.Errorf("got %d events, want %d", len(events), want)
	}
}

// NumbersEventsWithoutGaps: whatever fails or is cancelled meanwhile, the numbers of what happened run from 1.
func NumbersEventsWithoutGaps(t *testing.T, stores ...*store.Store) {
	var happened atomic.Int64
	together(crowd, func(i int) {
		for round := range 8 {
			ctx, cancel := context.WithCancel(t.Context())
			c := store.Change{Writes: []store.Write{store.ConsumeChallenge{Digest: sum("c", (i+round)%crowd), Expires: at(1)}}}
			for n := range round % 3 {
				c.Events = append(c.Events, event(fmt.Sprint(i), map[string]any{"n": n}))
			}
			if i%4 == 0 {
				go cancel()
			}
			err := alternate(stores, i).Commit(ctx, c)
			cancel()
			switch {
			case err == nil:
				happened.Add(int64(len(c.Events)))
			case !errors.Is(err, store.ErrConflict) && !errors.Is(err, context.Canceled):
				t.Errorf("Commit: %v", err)
			}
		}
	})
	if events := checkEvents(t, stores[0]); int64(len(events)) != happened.Load() {
		t.Errorf("got %d events, want %d", len(events), happened.Load())
	}
}

// CountsEveryIncrement: read, decide, commit, and again after a conflict, loses no update.
func CountsEveryIncrement(t *testing.T, stores ...*store.Store) {
	write(t, stores[0], store.PutSetting{Name: "count"})
	together(8, func(i int) {
		s := alternate(stores, i)
		for done := 0; done < 5; {
			value, version, err := s.Setting(t.Context(), "count")
			if err != nil {
				t.Errorf("Setting: %v", err)
				return
			}
			err = s.Commit(t.Context(), store.Change{
				Expect: []store.Expect{{Table: store.Settings, Key: "count", Version: version}},
				Writes: []store.Write{store.PutSetting{Name: "count", Value: append(value, 1)}},
			})
			if err == nil {
				done++
			} else if !errors.Is(err, store.ErrConflict) {
				t.Errorf("Commit: %v", err)
				return
			}
		}
	})
	value, _, err := stores[0].Setting(t.Context(), "count")
	got(len(value), err)(t, "count", 40)
}

// showsWholeChangesOnly reads while others write: a row that a Change wrote comes with its event, never before.
func showsWholeChangesOnly(t *testing.T, s *store.Store) {
	var writing atomic.Int64
	writing.Store(4)
	together(8, func(i int) {
		if i < 4 {
			defer writing.Add(-1)
			for n := range 25 {
				id := fmt.Sprintf("d%d-%d", i, n)
				change := store.Change{Events: []store.Event{event(id, nil)}, Writes: []store.Write{store.PutDevice{Device: device(id)}}}
				if err := s.Commit(t.Context(), change); err != nil {
					t.Errorf("Commit: %v", err)
				}
			}
			return
		}
		for writing.Load() > 0 {
			devices, err := s.ListDevices(t.Context(), store.DeviceFilter{}, "", 0)
			if err != nil {
				t.Errorf("ListDevices: %v", err)
				return
			}
			events, err := s.Feed(t.Context())
			if err != nil || events < int64(len(devices)) {
				t.Errorf("saw %d devices and then %d events, %v: a device came before its event", len(devices), events, err)
				return
			}
		}
	})
}
