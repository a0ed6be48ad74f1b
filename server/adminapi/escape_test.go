package adminapi_test

import (
	"fmt"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// Audit events name people, devices and parts of the server in one field. Nobody may have a name that reads as another.
func TestNobodyIsNamedLikeADeviceOrAPartOfTheServer(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	alice := a.person("alice", api.RoleAdmin)
	for _, name := range []string{"server", "verifier", "sweeper", "door", "enroll", "inventory", "token", "ceremony", deviceID("a device")} {
		_, err := alice.CreatePerson(t.Context(), api.PersonRequest{Name: name, Roles: []string{api.RoleOperator}})
		wantReason(t, name, err, reason.RequestMalformed)
	}
}

// Whoever is disabled has no voice any more: an approval given with a stolen token must not end a quarantine later.
func TestApprovalOfADisabledPersonDoesNotCount(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	admin := a.person("root", api.RoleAdmin)
	stolen, bob, carol := a.person("stolen", api.RoleOperator), a.person("bob", api.RoleOperator), a.person("carol", api.RoleOperator)
	id := a.device("a", func(d *fleet.Device) { d.Standing = fleet.Refused })
	q := fleet.Quarantine{ID: "q-" + id, Device: id, Since: a.Now(), Causes: []reason.Reason{reason.PCRMismatch}, By: "verifier", RecoveredAt: a.Now()}
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutQuarantine{Quarantine: q}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stolen.ReleaseDevice(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := admin.RemovePerson(t.Context(), "stolen"); err != nil {
		t.Fatal(err)
	}
	d, err := bob.ReleaseDevice(t.Context(), id)
	if err != nil || d.Quarantine == nil {
		t.Fatalf("a disabled person's approval counted: %+v, %v", d, err)
	}
	if d, err = carol.ReleaseDevice(t.Context(), id); err != nil || d.Quarantine != nil {
		t.Errorf("two people: %+v, %v", d, err)
	}
}

// A device must not escape an operator by polling: its row may change any time between the look at it and the decision.
func TestBusyDeviceCannotEscapeIsolationOrRetirement(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann := a.person("ann", api.RoleOperator)
	for i := range 12 {
		id := a.device(fmt.Sprintf("busy %d", i), nil)
		started, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for n := range 12 {
				d, err := a.Store.Device(t.Context(), id)
				if err == nil {
					_ = a.Store.Commit(t.Context(), store.Change{
						Expect: []store.Expect{{Table: store.Devices, Key: id, Version: d.Version}}, Writes: []store.Write{store.PutDevice{Device: d}},
					})
				}
				if n == 0 {
					close(started)
				}
			}
		}()
		<-started
		if _, err := ann.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "suspicious"}); err != nil {
			t.Errorf("isolate: %v", err)
		}
		if _, err := ann.RetireDevice(t.Context(), id); err != nil {
			t.Errorf("retire: %v", err)
		}
		<-done
	}
}
