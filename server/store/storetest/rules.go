package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

func ruleContracts() []contract {
	return []contract{
		{"RefusesWrongVersions", refusesWrongVersions},
		{"RefusesSecondDeviceWithSameKeys", refusesSameKeys},
		{"KeepsNothingOfAFailedChange", keepsNothing},
		{"RefusesMalformedChanges", refusesMalformed},
		{"RefusesAfterClose", refusesAfterClose},
	}
}

// putters writes a row of every versioned table under the key "k".
func putters() map[store.Table]func(detail string) store.Write {
	return map[store.Table]func(string) store.Write{
		store.Devices: func(detail string) store.Write {
			d := device("k")
			d.Manufacturer = detail
			return store.PutDevice{Device: d}
		},
		store.Quarantines: func(detail string) store.Write {
			return store.PutQuarantine{Quarantine: fleet.Quarantine{ID: "k", Device: "k", Detail: detail}}
		},
		store.Releases: func(detail string) store.Write {
			return store.PutRelease{Release: store.Release{Name: "k", State: detail}}
		},
		store.Repos:     func(string) store.Write { return store.PutRepo{Repo: store.Repo{Name: "k"}} },
		store.Directors: func(string) store.Write { return store.PutDirector{Director: store.Director{Device: "k"}} },
		store.People:    func(string) store.Write { return store.PutPerson{Person: store.Person{Name: "k"}} },
		store.Settings: func(detail string) store.Write {
			return store.PutSetting{Name: "k", Value: []byte(detail)}
		},
		store.Denials: func(string) store.Write {
			return store.PutDenial{Denial: fleet.Denial{ID: "k", By: "ada", At: noon}}
		},
		store.Checkpoints: func(detail string) store.Write {
			return store.PutCheckpoint{Checkpoint: store.Checkpoint{Name: "k", Size: 1, Root: sum(detail), Note: []byte(detail), At: noon}}
		},
	}
}

func refusesWrongVersions(t *testing.T, s *store.Store) {
	for table, put := range putters() {
		expect := func(version int64, writes ...store.Write) store.Change {
			return store.Change{Expect: []store.Expect{{Table: table, Key: "k", Version: version}}, Writes: writes}
		}
		name := string(table)
		wantConflict(t, s, name+": row that is not there", expect(1, put("x")))
		wantConflict(t, s, name+": row that is not there, unwritten", expect(1))
		commit(t, s, expect(0))
		commit(t, s, expect(0, put("a")))
		wantConflict(t, s, name+": row that is there", expect(0, put("x")))
		wantConflict(t, s, name+": row that is there, unwritten", expect(0))
		commit(t, s, expect(1, put("b")))
		wantConflict(t, s, name+": older version", expect(1, put("x")))
		wantConflict(t, s, name+": newer version", expect(3, put("x")))
		wantConflict(t, s, name+": older version, unwritten", expect(1))
		commit(t, s, expect(2))
		commit(t, s, expect(2, put("c"), put("d"))) // the second Put of a row follows the first
		commit(t, s, expect(4))
	}
	d, err := s.Device(t.Context(), "k")
	got(d.Manufacturer, err)(t, "device", "d")
	got(d.Version, err)(t, "device's version", int64(4))
}

func refusesSameKeys(t *testing.T, s *store.Store) {
	write(t, s, store.PutDevice{Device: device("honest")}, store.PutDevice{Device: device("other")})
	for name, steal := range map[string]func(*fleet.Device){
		"EK":      func(d *fleet.Device) { d.EKSPKI = sum("ek", "honest") },
		"AK":      func(d *fleet.Device) { d.AKName = []byte("ak of honest") },
		"TLS key": func(d *fleet.Device) { d.TLSKey = sum("tls", "honest") },
	} {
		for _, id := range []string{"thief", "other"} { // a new row, and one that is there
			d := device(id)
			steal(&d)
			thief := store.Change{Writes: []store.Write{store.PutDevice{Device: d}}, Events: []store.Event{event(id, nil)}}
			wantConflict(t, s, name+" of another device, without Expect", thief)
			thief.Expect = []store.Expect{{Table: store.Devices, Key: id, Version: 0}}
			wantConflict(t, s, name+" of another device, new row", thief)
			thief.Expect[0].Version = 1
			wantConflict(t, s, name+" of another device, known row", thief)
		}
	}
	_, err := s.Device(t.Context(), "thief")
	wantError(t, "thief", err, store.ErrNotFound)
	if events := checkEvents(t, s); len(events) != 0 {
		t.Errorf("got %d events of refused changes, want none", len(events))
	}
}

// keepsNothing lets the last part of a large Change fail.
func keepsNothing(t *testing.T, s *store.Store) {
	ctx := t.Context()
	write(t, s, store.ConsumeChallenge{Digest: sum("c"), Expires: at(1)})
	wantConflict(t, s, "challenge used twice", store.Change{
		Writes: []store.Write{
			store.PutDevice{Device: device("a")}, store.AddLog{Digest: sum("log"), Bytes: []byte("log")},
			store.AddUpdate{Update: store.Update{Device: "a"}}, store.PutSetting{Name: "s", Value: []byte("v")},
			store.ConsumeChallenge{Digest: sum("c"), Expires: at(1)},
		},
		Events: []store.Event{event("a", nil)},
		Orders: []store.Order{{Device: "a", Segment: fleet.Restricted, Point: "door", Epoch: 1}},
	})
	_, err := s.Device(ctx, "a")
	wantError(t, "device", err, store.ErrNotFound)
	_, err = s.Log(ctx, sum("log"))
	wantError(t, "log", err, store.ErrNotFound)
	_, _, err = s.Setting(ctx, "s")
	wantError(t, "setting", err, store.ErrNotFound)
	got(s.Updates(ctx, noon.AddDate(-99, 0, 0), at(0), "", 0))(t, "updates", nil)
	got(s.Orders(ctx, "a", 0))(t, "orders", nil)
	if events := checkEvents(t, s); len(events) != 0 {
		t.Errorf("got %d events, want none", len(events))
	}
}

func refusesMalformed(t *testing.T, s *store.Store) {
	for name, c := range map[string]store.Change{
		"unknown table":     {Expect: []store.Expect{{Table: "events", Key: "1", Version: 1}}},
		"injected table":    {Expect: []store.Expect{{Table: "devices; DROP TABLE devices", Key: "1", Version: 1}}},
		"empty key":         {Expect: []store.Expect{{Table: store.Devices}}},
		"negative version":  {Expect: []store.Expect{{Table: store.Devices, Key: "a", Version: -1}}},
		"no write":          {Writes: []store.Write{nil}},
		"device without id": {Writes: []store.Write{store.PutDevice{}}},
		"zero byte":         {Writes: []store.Write{store.PutDevice{Device: device("a\x00b")}}},
		"not UTF-8":         {Writes: []store.Write{store.PutDevice{Device: device("\xff")}}},
		"no digest":         {Writes: []store.Write{store.AddBeacon{}}},
		"token without hash": {
			Writes: []store.Write{store.AddToken{Token: store.Token{Person: "ada", Hash: digest.SHA256{}}}},
		},
		"unknown segment": {Orders: []store.Order{{Device: "a", Point: "door", Segment: "guest"}}},
	} {
		err := s.Commit(t.Context(), c)
		if err == nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want an error of its own", name, err)
		}
	}
	wantError(t, "two versions of one row", s.Commit(t.Context(), store.Change{Expect: []store.Expect{
		{Table: store.Devices, Key: "a", Version: 1}, {Table: store.Devices, Key: "a", Version: 2},
	}}), store.ErrConflict)
}

func refusesAfterClose(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	change := store.Change{Events: []store.Event{event("a", nil)}}
	wantError(t, "ended context", s.Commit(ctx, change), context.Canceled)
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	wantError(t, "closed store", s.Commit(t.Context(), change), store.ErrUnavailable)
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
