// Package storetest is the contract of server/store as tests: every engine has to pass all of them. Only tests trust it.
package storetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Open returns a Store on an empty database of its own; it is closed when the test ends.
type Open func(t *testing.T) *store.Store

// Run runs the whole contract.
func Run(t *testing.T, open Open) {
	for _, group := range [][]contract{fleetContracts(), serverContracts(), ruleContracts(), commitContracts(), networkContracts()} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, open(t))
			})
		}
	}
}

type contract struct {
	name string
	run  func(t *testing.T, s *store.Store)
}

// noon is when the contract's events happen.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func at(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }

func sum(parts ...any) digest.SHA256 { return digest.Of([]byte(fmt.Sprint(parts...))) }

func commit(t *testing.T, s *store.Store, c store.Change) {
	t.Helper()
	if err := s.Commit(t.Context(), c); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func write(t *testing.T, s *store.Store, writes ...store.Write) {
	t.Helper()
	commit(t, s, store.Change{Writes: writes})
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func wantConflict(t *testing.T, s *store.Store, what string, c store.Change) {
	t.Helper()
	wantError(t, what, s.Commit(t.Context(), c), store.ErrConflict)
}

// got returns a check of a read's value and error; it is called with both results of the read.
func got[T any](value T, err error) func(t *testing.T, what string, want T) {
	return func(t *testing.T, what string, want T) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if diff := cmp.Diff(want, value); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// device is a device with only what its uniqueness needs.
func device(id string) fleet.Device {
	return fleet.Device{
		ID: id, Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Unproven, Segment: fleet.Restricted,
		EKSPKI: sum("ek", id), AKName: []byte("ak of " + id), TLSKey: sum("tls", id), EnrolledAt: noon,
	}
}

func event(subject string, data any) store.Event {
	return store.Event{At: noon, Type: "device.enrolled", Actor: "server", Subject: subject, Data: data}
}

// checkEvents reads all audit events back, and fails unless their numbers run from 1 without a gap and every leaf says
// what its row says.
func checkEvents(t *testing.T, s *store.Store) []store.StoredEvent {
	t.Helper()
	var all []store.StoredEvent
	for {
		page, err := s.Events(t.Context(), store.EventFilter{}, int64(len(all)), 100)
		if err != nil {
			t.Fatalf("Events: %v", err)
		}
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
	}
	for i, e := range all {
		checkLeaf(t, e, int64(i)+1)
	}
	feed, err := s.Feed(t.Context())
	if err != nil || feed != int64(len(all)) {
		t.Errorf("Feed: got %d, %v, want %d", feed, err, len(all))
	}
	return all
}

func checkLeaf(t *testing.T, e store.StoredEvent, number int64) {
	t.Helper()
	var leaf struct {
		V       int            `json:"v"`
		N       int64          `json:"n"`
		At      time.Time      `json:"at"`
		Type    string         `json:"type"`
		Actor   string         `json:"actor"`
		Subject string         `json:"subject"`
		Data    map[string]any `json:"data"`
	}
	if err := json.Unmarshal(e.Leaf, &leaf, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("leaf %s: %v", e.Leaf, err)
	}
	if e.Number != number || leaf.V != 1 || leaf.N != number || !leaf.At.Equal(e.At) || leaf.Type != e.Type ||
		leaf.Actor != e.Actor || leaf.Subject != e.Subject || leaf.Data == nil {
		t.Errorf("event %d: row %+v and leaf %s differ", number, e, e.Leaf)
	}
}

func number(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
