package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Breaker stops a mistake of ours (a wrong policy, a wrong baseline, a broken clock) from cutting a whole product off at
// once: when more devices are newly restricted within Window than both Devices and Percent allow, network orders
// that tighten wait for a person. It never holds back an order that loosens, and it is about the network alone: the door,
// certificates and offers refuse a restricted device whatever the breaker does.
//
// What an attacker gains: who can make that many devices fail at once keeps those beyond the limit on the network until
// somebody looks. They still get no firmware, no certificate, no key.
type Breaker struct {
	Devices int64         // trips at no fewer newly restricted devices than this
	Percent float64       // and only above this share of the product's active devices
	Window  time.Duration // within this time
}

// Trips decides, from how many devices were newly restricted in the window and how many are active.
func (b Breaker) Trips(restricted, active int64) bool {
	return restricted > 0 && restricted >= b.Devices && float64(restricted)*100 > b.Percent*float64(active)
}

// BreakerState is the row of one product's breaker: it is what replicas and restarts agree on.
type BreakerState struct {
	Product   string    `json:"product"`
	TrippedAt time.Time `json:"tripped_at"`
	Since     time.Time `json:"since"` // orders from then on wait: the start of the window that tripped it
	Devices   int64     `json:"devices"`
	Active    int64     `json:"active"`
	ResumedAt time.Time `json:"resumed_at"`
	By        string    `json:"by"`     // who resumed
	Reason    string    `json:"reason"` // and why

	version int64 // of the row
}

// Tripped says that tightening orders wait.
func (s BreakerState) Tripped() bool { return s.TrippedAt.After(s.ResumedAt) }

// Suspends says that the order waits for a person.
func (s BreakerState) Suspends(o store.Order) bool {
	return s.Tripped() && o.Tightens && o.Segment == fleet.Restricted && !o.At.Before(s.Since)
}

// from is where the window begins: what a person has let go on does not count again.
func (b Breaker) from(s BreakerState, now time.Time) time.Time {
	start := now.Add(-b.Window)
	if s.ResumedAt.After(start) {
		return s.ResumedAt
	}
	return start
}

// Breakers reads and writes what the breaker decides on; contract as in package store.
type Breakers interface {
	Setting(ctx context.Context, name string) (value []byte, version int64, err error)
	Tightened(ctx context.Context, product string, after time.Time) (restricted, active int64, err error)
	Commit(ctx context.Context, change store.Change) error
}

func breakerKey(product string) string { return "segment.breaker:" + product }

// ReadBreaker returns the state of a product's breaker; one that never tripped is the zero state.
func ReadBreaker(ctx context.Context, s Breakers, product string) (BreakerState, error) {
	value, version, err := s.Setting(ctx, breakerKey(product))
	if errors.Is(err, store.ErrNotFound) {
		return BreakerState{Product: product}, nil
	}
	if err != nil {
		return BreakerState{}, fmt.Errorf("cannot read the breaker of %s: %w", product, err)
	}
	state := BreakerState{}
	if err := json.Unmarshal(value, &state); err != nil {
		return BreakerState{}, fmt.Errorf("cannot read the breaker of %s: %w", product, err)
	}
	state.version = version
	return state, nil
}

func (s BreakerState) change(e store.Event) (store.Change, error) {
	b, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return store.Change{}, fmt.Errorf("cannot encode the breaker of %s: %w", s.Product, err)
	}
	return store.Change{
		Expect: []store.Expect{{Table: store.Settings, Key: breakerKey(s.Product), Version: s.version}},
		Writes: []store.Write{store.PutSetting{Name: breakerKey(s.Product), Value: b}},
		Events: []store.Event{e},
	}, nil
}

// check counts, and trips the breaker when it has to. The state that comes back is the row's; an error means that nobody
// knows, and then nothing is tightened in the network.
func (b Breaker) check(ctx context.Context, s Breakers, product string, now time.Time) (state BreakerState, tripped bool, err error) {
	for range breakerAttempts {
		if state, err = ReadBreaker(ctx, s, product); err != nil || state.Tripped() {
			return state, false, err
		}
		since := b.from(state, now)
		restricted, active, err := s.Tightened(ctx, product, since)
		if err != nil {
			return state, false, fmt.Errorf("cannot count restricted devices: %w", err)
		}
		if !b.Trips(restricted, active) {
			return state, false, nil
		}
		state.TrippedAt, state.Since, state.Devices, state.Active = now, since, restricted, active
		if !state.TrippedAt.After(state.ResumedAt) { // two clocks: what trips always follows the last resume
			state.TrippedAt = state.ResumedAt.Add(time.Microsecond)
		}
		state.By, state.Reason = "", ""
		change, err := state.change(store.Event{At: now, Type: audit.BreakerTripped, Actor: "server", Subject: product, Data: map[string]any{
			"devices": restricted, "active": active, "since": since.UTC(),
		}})
		if err != nil {
			return state, false, err
		}
		err = s.Commit(ctx, change)
		if errors.Is(err, store.ErrConflict) {
			continue // another replica was first
		}
		if err != nil {
			return state, false, fmt.Errorf("cannot write the breaker: %w", err)
		}
		return state, true, nil
	}
	return state, false, fmt.Errorf("breaker of %s kept changing: %w", product, store.ErrConflict)
}

const breakerAttempts = 4

// ErrNotTripped is returned by Resume when no order of the product waits for a person.
var ErrNotTripped = errors.New("the breaker has not tripped")

// Resume lets the product's tightening orders go on; one person is enough, because it tightens. The error is
// ErrNotTripped, or store.ErrConflict when it changed in between.
func Resume(ctx context.Context, s Breakers, product, person, why string, now time.Time) (BreakerState, error) {
	state, err := ReadBreaker(ctx, s, product)
	if err != nil {
		return state, err
	}
	if !state.Tripped() {
		return state, ErrNotTripped
	}
	state.ResumedAt, state.By, state.Reason = now, person, why
	if !state.ResumedAt.After(state.TrippedAt) { // two clocks: a resume always follows what it resumes
		state.ResumedAt = state.TrippedAt
	}
	change, err := state.change(store.Event{At: now, Type: audit.BreakerResumed, Actor: person, Subject: product, Data: map[string]any{
		"reason": why, "devices": state.Devices, "tripped_at": state.TrippedAt.UTC(),
	}})
	if err != nil {
		return state, err
	}
	return state, s.Commit(ctx, change)
}
