package store_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

var noonLater = noon.Add(time.Hour)

// lived makes a database that has seen a bit of everything, and closes its Store.
func lived(t *testing.T, dsn string) {
	t.Helper()
	s := open(t, dsn)
	leased := fleet.Device{
		ID: "leased", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production, LeaseUntil: noonLater, ProvenAt: noon,
		HighCounter: math.MaxUint64, LastPoll: digest.Of([]byte("poll")), LastAnswer: []byte{0, 1, 2}, Epoch: 4, TLSKey: digest.Of([]byte("k")),
	}
	quarantined := fleet.Device{ID: "quarantined", Lifecycle: fleet.Active, Standing: fleet.Refused, Segment: fleet.Restricted, Epoch: 2}
	pending := fleet.Device{ID: "pending", Lifecycle: fleet.Pending, Standing: fleet.Unproven}
	token := func(name string) store.EnrollToken {
		return store.EnrollToken{Hash: digest.Of([]byte(name)), Product: "lamp", Expires: noonLater}
	}
	for _, c := range []store.Change{
		{Writes: []store.Write{store.PutDevice{Device: leased}, store.PutDevice{Device: quarantined}, store.PutDevice{Device: pending}},
			Events: []store.Event{{At: noon, Type: "device.enrolled", Actor: "server", Subject: "leased", Data: map[string]any{"text": "ü\u2028\"\\"}}},
			Orders: []store.Order{{Device: "leased", Segment: fleet.Production, Point: "door", Epoch: 4, At: noon}}},
		{Writes: []store.Write{
			store.PutQuarantine{Quarantine: fleet.Quarantine{ID: "q", Device: "quarantined", Since: noon}},
			store.AddMetadata{Metadata: store.Metadata{Name: "empty"}}, store.AddMetadata{Metadata: store.Metadata{Name: "large", Bytes: make([]byte, 5<<20)}},
			store.AddAppraisal{Appraisal: store.Appraisal{ID: digest.Of([]byte("1")), Device: "leased", At: noon, Input: []byte("in"), Outcome: "affirmed"}},
			store.AddAppraisal{Appraisal: store.Appraisal{ID: digest.Of([]byte("2")), Device: "leased", At: noon, Outcome: "refused"}},
			store.AddUpdate{Update: store.Update{Device: "leased", OfferedAt: noon}},
			store.PutRelease{Release: store.Release{Name: "lamp/1.0", Product: "lamp", Recovery: true, Statement: []byte("{}")}},
			store.AddEnrollToken{Token: token("used")}, store.AddEnrollToken{Token: token("unused")},
			store.ConsumeChallenge{Digest: digest.Of([]byte("c")), Expires: noonLater},
			store.PutPerson{Person: store.Person{Name: "ada", Roles: []string{"admin"}, Disabled: true, At: noon}},
			store.PutSetting{Name: "bootstrap", Value: []byte("x")},
		}},
		{Writes: []store.Write{store.UseEnrollToken{Hash: digest.Of([]byte("used")), Device: "leased", At: noon}},
			Events: []store.Event{{At: noon, Type: "device.claimed", Actor: "server", Subject: "leased"}}},
	} {
		if err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := s.Lock(t.Context(), "work", "me", time.Hour, noon); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

// rows reads a whole database, sorted.
func rows(t *testing.T, dsn string) (map[string][]string, *store.Snapshot) {
	t.Helper()
	out := map[string][]string{}
	var kept store.Snapshot
	err := store.ReadSnapshot(t.Context(), dsn, func(s *store.Snapshot) error {
		kept = *s
		for _, table := range s.Tables {
			out[table.Name] = []string{}
			err := s.Rows(t.Context(), table, func(row []any) error {
				out[table.Name] = append(out[table.Name], text(row))
				return nil
			})
			if err != nil {
				return err
			}
			slices.Sort(out[table.Name])
		}
		return nil
	})
	if err != nil {
		t.Fatalf("ReadSnapshot: %v", err)
	}
	return out, &kept
}

// text tells rows apart by value and type; NULL and empty are not the same.
func text(row []any) string {
	var b strings.Builder
	for _, v := range row {
		if data, ok := v.([]byte); ok {
			v = digest.Of(data)
		}
		fmt.Fprintf(&b, "%T %v, ", v, v)
	}
	return b.String()
}

var restored = store.Restored{
	At: noonLater, Setting: store.PutSetting{Name: "epoch", Value: []byte("{}")}, EventNumber: 3,
	Event: store.Event{At: noonLater, Type: "server.restored", Actor: "server", Subject: "server"},
}

// restore copies a database into an empty one, row by row.
func restore(t *testing.T, from, to string, r store.Restored) error {
	t.Helper()
	return store.ReadSnapshot(t.Context(), from, func(s *store.Snapshot) error {
		return store.Restore(t.Context(), to, s.Schema, r, discard, func(l *store.Loader) error {
			for _, table := range s.Tables {
				if err := s.Rows(t.Context(), table, func(row []any) error { return l.Add(table, row) }); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Either engine takes what the other one wrote, to the last bit, and begins a new epoch with it.
func TestRestoresFromAnyEngineIntoAny(t *testing.T) {
	t.Parallel()
	for from, makeFrom := range engines() {
		for to, makeTo := range engines() {
			t.Run(from+" into "+to, func(t *testing.T) {
				t.Parallel()
				source, target := makeFrom(t), makeTo(t)
				lived(t, source)
				if err := restore(t, source, target, restored); err != nil {
					t.Fatal(err)
				}
				before, shape := rows(t, source)
				after, _ := rows(t, target)
				if len(shape.Tables) < 20 {
					t.Errorf("got %d tables: the snapshot is not of everything", len(shape.Tables))
				}
				// What a restore changes, each for its reason; all else is the same.
				for _, changed := range []string{"audit_head", "events", "settings", "devices", "orders", "challenges", "enroll_tokens", "locks"} {
					delete(before, changed)
					delete(after, changed)
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("rows differ (-before +after):\n%s", diff)
				}
				checkNewEpoch(t, open(t, target))
			})
		}
	}
}

func checkNewEpoch(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	d, err := s.Device(ctx, "leased")
	if err != nil {
		t.Fatal(err)
	}
	if d.Standing != fleet.Stale || !d.LeaseUntil.IsZero() || !d.StaleSince.Equal(noonLater) {
		t.Errorf("the lease is not void: standing %s, lease %s, stale since %s", d.Standing, d.LeaseUntil, d.StaleSince)
	}
	if !d.LastPoll.IsZero() || d.LastAnswer != nil {
		t.Error("the last poll would be answered again")
	}
	if d.HighCounter != math.MaxUint64 || d.Epoch != 4 {
		t.Errorf("counter %d, epoch %d", d.HighCounter, d.Epoch)
	}
	if q, err := s.Device(ctx, "quarantined"); err != nil || q.Standing != fleet.Refused {
		t.Errorf("quarantined device: %s, %v", q.Standing, err)
	}
	if _, err := s.EnrollToken(ctx, digest.Of([]byte("unused"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an enrollment token of before: %v", err)
	}
	if orders, err := s.PendingOrders(ctx, "door", 0); err != nil || len(orders) != 0 {
		t.Errorf("orders of before: %v, %v", orders, err)
	}
	if fence, ok, err := s.Lock(ctx, "work", "you", time.Hour, noon); !ok || err != nil || fence < 3 {
		t.Errorf("lock of before: fence %d, %v, %v", fence, ok, err)
	}
	events, err := s.Events(ctx, store.EventFilter{}, 0, 0)
	if err != nil || len(events) != 3 || events[2].Type != "server.restored" || events[2].Number != 3 {
		t.Errorf("events %v, %v", events, err)
	}
	// Numbers go on behind those that were loaded.
	change := store.Change{
		Writes: []store.Write{store.AddAppraisal{Appraisal: store.Appraisal{ID: digest.Of([]byte("3")), Device: "leased", At: noon}}},
		Events: []store.Event{{At: noonLater, Type: "verdict.affirmed", Actor: "leased", Subject: "leased"}},
		Orders: []store.Order{{Device: "leased", Segment: fleet.Restricted, Point: "door", Epoch: 5, At: noonLater}},
	}
	if err := s.Commit(ctx, change); err != nil {
		t.Errorf("the restored database takes no change: %v", err)
	}
}

func TestRestoreOverwritesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		source := engines()["sqlite"](t)
		lived(t, source)
		s := open(t, dsn)
		if err := s.Commit(t.Context(), newDevice("mine")); err != nil {
			t.Fatal(err)
		}
		if err := store.CheckRestore(t.Context(), dsn, 1); !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("CheckRestore: got %v, want ErrNotEmpty", err)
		}
		if err := restore(t, source, dsn, restored); !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("got %v, want ErrNotEmpty", err)
		}
		wantDevices(t, s, "mine")
	})
}

// A restore that fails in the middle leaves an empty database, which the next one fills.
func TestRestoreIsAllOrNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		source := engines()["sqlite"](t)
		lived(t, source)
		cut := errors.New("cut")
		err := store.ReadSnapshot(t.Context(), source, func(s *store.Snapshot) error {
			return store.Restore(t.Context(), dsn, s.Schema, restored, discard, func(l *store.Loader) error {
				for _, table := range s.Tables[:len(s.Tables)/2] {
					if err := s.Rows(t.Context(), table, func(row []any) error { return l.Add(table, row) }); err != nil {
						return err
					}
				}
				return cut
			})
		})
		if !errors.Is(err, cut) {
			t.Fatalf("got %v", err)
		}
		other := restored
		other.EventNumber = 9 // the head of the rows says otherwise
		if err := restore(t, source, dsn, other); err == nil {
			t.Error("a restore with another head came through")
		}
		if err := restore(t, source, dsn, restored); err != nil {
			t.Errorf("the second restore: %v", err)
		}
	})
}

// A snapshot is of one moment, while a server goes on writing.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		if err := s.Commit(t.Context(), newDevice("first")); err != nil {
			t.Fatal(err)
		}
		err := store.ReadSnapshot(t.Context(), dsn, func(snapshot *store.Snapshot) error {
			head, err := snapshot.Events(t.Context())
			if err != nil {
				return err
			}
			if err := s.Commit(t.Context(), newDevice("second")); err != nil {
				return err
			}
			counts := map[string]int64{}
			for _, table := range snapshot.Tables {
				if err := snapshot.Rows(t.Context(), table, func([]any) error { counts[table.Name]++; return nil }); err != nil {
					return err
				}
			}
			if counts["devices"] != 1 || counts["events"] != head || head != 1 {
				t.Errorf("got %d devices and %d events with head %d", counts["devices"], counts["events"], head)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestSnapshotOfNothing(t *testing.T) {
	onEach(t, func(t *testing.T, dsn string) {
		err := store.ReadSnapshot(t.Context(), dsn, func(*store.Snapshot) error { return nil })
		if !errors.Is(err, store.ErrEmpty) {
			t.Errorf("got %v, want ErrEmpty", err)
		}
	})
}
