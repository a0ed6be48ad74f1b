package adminapi_test

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

var lost = api.ForgetKeyRequest{Reason: "somebody rotated it away"}

// row reads a device back.
func (a *admin) row(id string) fleet.Device {
	a.t.Helper()
	d, err := a.Store.Device(a.t.Context(), id)
	if err != nil {
		a.t.Fatal(err)
	}
	return d
}

// kinds are the events about the device, the newest first.
func (a *admin) kinds(id string) []store.StoredEvent {
	a.t.Helper()
	events, err := a.Store.LastEvents(a.t.Context(), id, 20)
	if err != nil {
		a.t.Fatal(err)
	}
	return events
}

func TestTwoPeopleForgetAKey(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	ann, bob := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator)
	id := a.device("one", nil)
	for name, why := range map[string]string{"nothing": "", "blanks": " \t", "too much": strings.Repeat("x", 1025)} {
		_, err := ann.ForgetKey(t.Context(), id, api.ForgetKeyRequest{Reason: why})
		wantReason(t, name, err, reason.RequestMalformed)
	}
	one, err := ann.ForgetKey(t.Context(), id, lost)
	if err != nil || one.Standing != "affirmed" || one.Segment != "production" || one.ForgetKey == nil || one.ForgetKey.Forgotten || len(one.ForgetKey.Voices) != 1 {
		t.Fatalf("one person: %+v, %v", one, err)
	}
	if v := one.ForgetKey.Voices[0]; v.Person != "ann" || v.Reason != lost.Reason || !v.Until.Equal(a.Now().Add(72*time.Hour)) {
		t.Errorf("the voice: %+v", v)
	}
	_, err = ann.ForgetKey(t.Context(), id, lost)
	wantReason(t, "the same person", err, reason.SamePerson)
	if row := a.row(id); row.KeyForgotten() || !row.LeaseUntil.After(a.Now()) {
		t.Fatalf("one person did it: %+v", row)
	}
	two, err := bob.ForgetKey(t.Context(), id, lost)
	if err != nil || two.Standing != "unproven" || two.Segment != "restricted" || two.LeaseUntil != nil || two.ForgetKey == nil || !two.ForgetKey.Forgotten ||
		!slices.Equal(two.Reasons, []reason.Reason{reason.AKUnknown}) {
		t.Fatalf("two people: %+v, %v", two, err)
	}
	orders, err := a.Store.PendingOrders(t.Context(), "door", 10)
	if err != nil || len(orders) != 1 || orders[0].Segment != fleet.Restricted {
		t.Errorf("orders: %+v, %v", orders, err)
	}
	_, err = bob.ForgetKey(t.Context(), id, lost)
	wantReason(t, "again", err, reason.AKUnknown)
	if why, err := ann.Why(t.Context(), id); err != nil || !slices.Equal(why.Decision.Reasons, []reason.Reason{reason.AKUnknown}) || len(why.Decision.Remedies) != 1 {
		t.Errorf("why: %+v, %v", why.Decision, err)
	}
	a.wantForgotten(id)
}

// wantForgotten checks the events of a key that ann and bob had forgotten.
func (a *admin) wantForgotten(id string) {
	a.t.Helper()
	var got []string
	for _, e := range a.kinds(id) {
		got = append(got, e.Type+" by "+e.Actor)
		data, err := audit.DataOf(e.Leaf)
		if err != nil {
			a.t.Fatal(err)
		}
		before := `"before":"` + base64.StdEncoding.EncodeToString([]byte("ak")) + `"`
		if e.Type == audit.DeviceAKForgotten && (!strings.Contains(string(data), before) || !strings.Contains(string(data), `"forgotten":["ann","bob"]`)) {
			a.t.Errorf("the event says %s", data)
		}
		if e.Type == audit.DeviceAKForgetAsked && !strings.Contains(string(data), lost.Reason) {
			a.t.Errorf("the event says %s", data)
		}
	}
	want := []string{"segment.ordered by bob", "device.ak_forgotten by bob", "device.ak_forget_asked by bob", "device.ak_forget_asked by ann"}
	if !slices.Equal(got, want) {
		a.t.Errorf("events %v, want %v", got, want)
	}
}

// Two people at once are two people, one person at once is one; and a device that polls all the time puts nothing off.
func TestPeopleForgetAKeyAtOnce(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann, bob := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator)
	for i, people := range [][]*api.Client{{ann, bob}, {ann, ann}} {
		id := a.device([]string{"two", "one"}[i], nil)
		var wg sync.WaitGroup
		errs := make([]error, len(people))
		for n, p := range people {
			wg.Go(func() { _, errs[n] = p.ForgetKey(t.Context(), id, lost) })
		}
		for range 8 {
			d := a.row(id)
			_ = a.Store.Commit(t.Context(), store.Change{
				Expect: []store.Expect{{Table: store.Devices, Key: id, Version: d.Version}}, Writes: []store.Write{store.PutDevice{Device: d}},
			}) // a poll
		}
		wg.Wait()
		if two := people[0] != people[1]; a.row(id).KeyForgotten() != two {
			t.Errorf("%d: forgotten %v; %v", i, !two, errs)
		} else if two && (errs[0] != nil || errs[1] != nil) {
			t.Errorf("%d: %v", i, errs)
		}
	}
}

func TestVoiceOfADisabledPersonForgetsNoKey(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	root := a.person("root", api.RoleAdmin)
	stolen, bob, cid := a.person("stolen", api.RoleOperator), a.person("bob", api.RoleOperator), a.person("cid", api.RoleOperator)
	id := a.device("one", nil)
	if _, err := stolen.ForgetKey(t.Context(), id, lost); err != nil {
		t.Fatal(err)
	}
	if err := root.RemovePerson(t.Context(), "stolen"); err != nil {
		t.Fatal(err)
	}
	got, err := bob.ForgetKey(t.Context(), id, lost)
	if err != nil || a.row(id).KeyForgotten() || got.ForgetKey == nil || len(got.ForgetKey.Voices) != 1 || got.ForgetKey.Voices[0].Person != "bob" {
		t.Errorf("a disabled person's voice counts: %+v, %v", got.ForgetKey, err)
	}
	if _, err := cid.ForgetKey(t.Context(), id, lost); err != nil || !a.row(id).KeyForgotten() {
		t.Errorf("two people: %v", err)
	}
}

// A key is forgotten by operators, of a device that could enroll again; nothing else about it changes.
func TestKeysThatAreNotForgotten(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann, bob := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator)
	id := a.device("one", nil)
	for _, role := range []string{api.RoleAdmin, api.RoleAuditor, api.RoleCI} {
		_, err := a.person("p-"+role, role).ForgetKey(t.Context(), id, lost)
		wantReason(t, role, err, reason.PermissionDenied)
	}
	retired := a.device("retired", func(d *fleet.Device) { d.Lifecycle = fleet.Retired })
	_, err := ann.ForgetKey(t.Context(), retired, lost)
	wantReason(t, "retired", err, reason.DeviceRetired)
	denied := a.device("denied", func(d *fleet.Device) { d.EKIssuers = []string{"aabb"}; d.EKCertificate = []byte("x") })
	if _, err := ann.ForgetKey(t.Context(), denied, lost); err != nil {
		t.Fatal(err)
	}
	n := fleet.Denial{ID: "d-1", Denial: identity.Denial{Issuer: "aabb", Why: "x"}, By: "ann", At: a.Now()}
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDenial{Denial: n}}}); err != nil {
		t.Fatal(err)
	}
	_, err = bob.ForgetKey(t.Context(), denied, lost)
	wantReason(t, "denied", err, reason.EKRevoked)
	for _, id := range []string{retired, denied} {
		if a.row(id).KeyForgotten() {
			t.Errorf("%s: forgotten", id)
		}
	}
	if status, _, body := a.send(http.MethodPost, "/api/v1/devices/"+deviceID("nobody")+"/forget-key", a.tokens["ann"], nil, `{"reason":"x"}`); status != http.StatusNotFound {
		t.Errorf("unknown device: %d %s", status, body)
	}
}

// Forgetting a key lets nobody out of quarantine, and an approval that was given before does not count after it.
func TestForgettingAKeyEndsNoQuarantine(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	ann, bob, cid := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator), a.person("cid", api.RoleOperator)
	id := a.device("one", func(d *fleet.Device) { d.Standing, d.Segment = fleet.Refused, fleet.Restricted })
	q := fleet.Quarantine{ID: "q-" + id, Device: id, Since: a.Now(), Causes: []reason.Reason{reason.PCRMismatch}, By: "verifier", RecoveredAt: a.Now()}
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutQuarantine{Quarantine: q}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ann.ReleaseDevice(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*api.Client{ann, bob} {
		if got, err := p.ForgetKey(t.Context(), id, lost); err != nil || got.Quarantine == nil || got.Standing != "refused" {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	open, err := a.Store.OpenQuarantine(t.Context(), id)
	if err != nil || !open.RecoveredAt.IsZero() {
		t.Fatalf("got %+v, %v", open, err)
	}
	_, err = cid.ReleaseDevice(t.Context(), id)
	wantReason(t, "a recovery that the forgotten key showed", err, reason.DeviceUnproven)
}
