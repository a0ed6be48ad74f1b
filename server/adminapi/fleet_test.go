package adminapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

// claimable applies a first ceremony with what claiming a device needs: a policy and a baseline of product lamp.
func claimable(a *admin) {
	baseline := reference.LearnBaseline("board", map[int]digest.SHA256{0: {1}, 2: {2}, 3: {3}, 7: {7}})
	c := a.Ceremony(repositorytest.Offline{
		Version: 1, Policies: []artifacts.Policy{a.Policy("lamp")},
		Extra: map[string][]byte{artifacts.BaselinePath("lamp", "board"): repositorytest.Must(baseline.Encode())},
	})
	c.ImageRoots, c.DirectorRoots = [][]byte{a.ImageRoot(1, nil)}, [][]byte{a.DirectorRoot(1, nil)}
	a.Apply(c)
}

func TestInventory(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	entry := api.InventoryEntry{Device: deviceID("one"), Product: "lamp", HardwareID: "rev-a", Profile: "board"}
	if err := oscar.PutInventory(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	if got, err := oscar.InventoryOf(t.Context(), entry.Device); err != nil || !cmp.Equal(got, entry) {
		t.Errorf("got %+v, %v", got, err)
	}
	if page, err := oscar.Inventory(t.Context(), ""); err != nil || len(page.Items) != 1 {
		t.Errorf("list: got %+v, %v", page, err)
	}
	bad := entry
	bad.Product = "../lamp"
	wantReason(t, "bad product", oscar.PutInventory(t.Context(), bad), reason.RequestMalformed)
	bad = entry
	bad.Device = "not-a-device"
	wantReason(t, "bad device", oscar.PutInventory(t.Context(), bad), reason.RequestMalformed)
	body := `{"device":"` + deviceID("two") + `","product":"lamp","hardware_id":"rev-a","profile":"board"}`
	if status, _, answer := a.send("PUT", "/api/v1/inventory/"+entry.Device, a.tokens["oscar"], nil, body); status != http.StatusBadRequest {
		t.Errorf("path and body differ: got %d %s", status, answer)
	}
	if err := oscar.RemoveInventory(t.Context(), entry.Device); err != nil {
		t.Error(err)
	}
	wantReason(t, "removed twice", oscar.RemoveInventory(t.Context(), entry.Device), reason.NotFound)
	_, err := oscar.InventoryOf(t.Context(), entry.Device)
	wantReason(t, "removed", err, reason.NotFound)
}

func TestEnrollTokens(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	req := api.EnrollTokenRequest{Product: "lamp", HardwareID: "rev-a", Profile: "board", Minutes: 10}
	got, err := oscar.CreateEnrollToken(t.Context(), req)
	if err != nil || !got.ExpiresAt.Equal(a.Now().Add(10*time.Minute)) {
		t.Fatalf("got %+v, %v", got, err)
	}
	row, err := a.Store.EnrollToken(t.Context(), authn.Hash(got.Token))
	if err != nil || row.Product != "lamp" || row.By != "oscar" {
		t.Errorf("row: got %+v, %v", row, err)
	}
	// It opens one enrollment, never the admin API.
	_, err = a.client(got.Token).People(t.Context(), "")
	wantReason(t, "as an access token", err, reason.Unauthenticated)
	for _, minutes := range []int{-1, 7*24*60 + 1} {
		req.Minutes = minutes
		_, err := oscar.CreateEnrollToken(t.Context(), req)
		wantReason(t, fmt.Sprint(minutes), err, reason.RequestMalformed)
	}
	if strings.Contains(a.log.String(), got.Token) {
		t.Error("the log holds the token")
	}
}

func TestPendingDeviceIsApproved(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	id := a.device("one", func(d *fleet.Device) {
		*d = fleet.Device{ID: d.ID, Lifecycle: fleet.Pending, Standing: fleet.Unproven, EKSPKI: d.EKSPKI, TLSKey: d.TLSKey, EnrolledAt: d.EnrolledAt, Segment: fleet.Restricted,
			EKCertificate: []byte("of a manufacturer")}
	})
	entry := api.InventoryEntry{Device: id, Product: "lamp", HardwareID: "rev-a", Profile: "board"}
	other := `{"device":"` + deviceID("two") + `","product":"lamp","hardware_id":"rev-a","profile":"board"}`
	if status, _, body := a.send("POST", "/api/v1/devices/"+id+"/approve", a.tokens["oscar"], nil, other); status != http.StatusBadRequest {
		t.Errorf("body and path differ: got %d %s", status, body)
	}
	got, err := oscar.ApproveDevice(t.Context(), entry)
	if err != nil || got.Lifecycle != string(fleet.Active) || got.Product != "lamp" || got.Tier != fleet.TierClaimed {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, change := range map[string]func(*api.InventoryEntry){
		"unknown product": func(e *api.InventoryEntry) { e.Product = "lampp" },
		"unknown profile": func(e *api.InventoryEntry) { e.Profile = "bord" },
	} {
		wrong := entry
		change(&wrong)
		_, err = oscar.ApproveDevice(t.Context(), wrong)
		wantReason(t, name, err, reason.PolicyMissing)
		wantReason(t, name+" in the inventory", oscar.PutInventory(t.Context(), wrong), reason.PolicyMissing)
	}
	entry.HardwareID = "rev-b"
	if got, err = oscar.ApproveDevice(t.Context(), entry); err != nil || got.HardwareID != "rev-b" {
		t.Errorf("a claim is corrected before the first proof: got %+v, %v", got, err)
	}
	proven := a.device("two", nil)
	_, err = oscar.ApproveDevice(t.Context(), api.InventoryEntry{Device: proven, Product: "lamp", HardwareID: "rev-b", Profile: "board"})
	wantReason(t, "a device that has proven something", err, reason.Conflict)
	events, err := a.Store.LastEvents(t.Context(), id, 1)
	if err != nil || len(events) != 1 || events[0].Type != audit.DeviceClaimed || events[0].Actor != "oscar" {
		t.Errorf("events: got %+v, %v", events, err)
	}
	retired, err := oscar.RetireDevice(t.Context(), id)
	if err != nil || retired.Lifecycle != string(fleet.Retired) {
		t.Errorf("retired: got %+v, %v", retired, err)
	}
	_, err = oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "x"})
	wantReason(t, "quarantine of a retired device", err, reason.Conflict)
}

func TestQuarantineByOneOutByTwo(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	oscar, olga, otto := a.person("oscar", api.RoleOperator), a.person("olga", api.RoleOperator), a.person("otto", api.RoleOperator)
	id := a.device("one", nil)
	_, err := oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{})
	wantReason(t, "no detail", err, reason.RequestMalformed)
	_, err = oscar.ReleaseDevice(t.Context(), id)
	wantReason(t, "out of nothing", err, reason.Conflict)
	got, err := oscar.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "it was stolen"})
	if err != nil || got.Quarantine == nil || got.Segment != string(fleet.Restricted) || got.Quarantine.By != "oscar" {
		t.Fatalf("got %+v, %v", got, err)
	}
	_, err = olga.QuarantineDevice(t.Context(), id, api.QuarantineRequest{Detail: "again"})
	wantReason(t, "twice", err, reason.Conflict)
	_, err = olga.ReleaseDevice(t.Context(), id)
	wantReason(t, "before it has recovered", err, reason.DeviceUnproven)
	q, err := a.Store.OpenQuarantine(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	q.RecoveredAt = a.Now()
	if err := a.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutQuarantine{Quarantine: q}}}); err != nil {
		t.Fatal(err)
	}
	_, err = oscar.ReleaseDevice(t.Context(), id)
	wantReason(t, "by the person who put it there", err, reason.SamePerson)
	if one, err := olga.ReleaseDevice(t.Context(), id); err != nil || one.Quarantine == nil || one.Segment != string(fleet.Restricted) {
		t.Errorf("one person: got %+v, %v", one, err)
	}
	_, err = olga.ReleaseDevice(t.Context(), id)
	wantReason(t, "one person twice", err, reason.SamePerson)
	if page, err := oscar.Quarantines(t.Context(), ""); err != nil || len(page.Items) != 1 || len(page.Items[0].Approvals) != 1 {
		t.Errorf("quarantines: got %+v, %v", page, err)
	}
	two, err := otto.ReleaseDevice(t.Context(), id)
	if err != nil || two.Quarantine != nil {
		t.Errorf("two people: got %+v, %v", two, err)
	}
	if two.Standing == string(fleet.Affirmed) {
		t.Error("a device is affirmed by people, without a fresh proof")
	}
	orders, err := a.Store.PendingOrders(t.Context(), "door", 10)
	if err != nil || len(orders) == 0 || orders[0].Segment != fleet.Restricted {
		t.Errorf("orders: got %+v, %v", orders, err)
	}
}

func TestDeviceListsAndWhy(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	oscar := a.person("oscar", api.RoleOperator)
	for i := range 5 {
		a.device(fmt.Sprint("device ", i), nil)
	}
	stale := a.device("stale", func(d *fleet.Device) { d.LeaseUntil = a.Now().Add(-time.Second) })
	orphan := a.device("orphan", func(d *fleet.Device) { d.Product = "kettle" })
	seen := map[string]bool{}
	after := ""
	for {
		status, _, body := a.send("GET", "/api/v1/devices?limit=2&after="+after, a.tokens["oscar"], nil, "")
		var page api.Page[api.Device]
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != http.StatusOK {
			t.Fatalf("got %d %s %v", status, body, err)
		}
		for _, d := range page.Items {
			if seen[d.ID] {
				t.Errorf("%s came twice", d.ID)
			}
			seen[d.ID] = true
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(seen) != 7 {
		t.Errorf("devices: got %d, want 7", len(seen))
	}
	for _, limit := range []string{"0", "-1", "1001", "x"} {
		if status, _, _ := a.send("GET", "/api/v1/devices?limit="+limit, a.tokens["oscar"], nil, ""); status != http.StatusBadRequest {
			t.Errorf("limit %s: got %d", limit, status)
		}
	}
	why, err := oscar.Why(t.Context(), stale)
	if err != nil || why.Device.Standing != string(fleet.Stale) || len(why.Decision.Reasons) == 0 || len(why.Decision.Remedies) != len(why.Decision.Reasons) {
		t.Errorf("stale: got %+v, %v", why, err)
	}
	if why, err := oscar.Why(t.Context(), orphan); err != nil || len(why.Decision.Reasons) != 1 || why.Decision.Reasons[0] != reason.PolicyMissing {
		t.Errorf("product without a policy: got %+v, %v", why.Decision, err)
	}
	_, err = oscar.Why(t.Context(), deviceID("nobody"))
	wantReason(t, "unknown", err, reason.NotFound)
	_, err = oscar.Device(t.Context(), "UPPER")
	wantReason(t, "malformed", err, reason.RequestMalformed)
}

func TestEventsPageReportAndAppraisal(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	ada, oscar := a.person("ada", api.RoleAuditor), a.person("oscar", api.RoleOperator)
	for i := range 5 {
		entry := api.InventoryEntry{Device: deviceID(fmt.Sprint(i)), Product: "lamp", HardwareID: "rev-a", Profile: "board"}
		if err := oscar.PutInventory(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
	var numbers []int64
	for after := int64(0); ; {
		page, err := ada.Events(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			numbers = append(numbers, e.Number)
			after = e.Number
		}
		if page.Next == "" {
			break
		}
	}
	for i, n := range numbers {
		if n != int64(i)+1 {
			t.Fatalf("events: got %v, want no gap and nothing twice", numbers)
		}
	}
	if len(numbers) != 6 {
		t.Errorf("events: got %d, want 6", len(numbers))
	}
	a.Pass(time.Minute)
	body, err := ada.Report(t.Context(), api.ReportQuery{From: repositorytest.Noon.Add(-time.Hour), To: a.Now()})
	var signed api.SignedReport
	if err != nil || json.Unmarshal(body, &signed) != nil {
		t.Fatalf("report: %v", err)
	}
	_, err = oscar.Report(t.Context(), api.ReportQuery{From: repositorytest.Noon.Add(-time.Hour), To: a.Now()})
	wantReason(t, "a report for an operator", err, reason.PermissionDenied)
	_, err = ada.Report(t.Context(), api.ReportQuery{From: a.Now(), To: repositorytest.Noon})
	wantReason(t, "from after to", err, reason.RequestMalformed)
	_, err = ada.Appraisal(t.Context(), digest.Of([]byte("none")).String())
	wantReason(t, "unknown appraisal", err, reason.NotFound)
	_, err = ada.Appraisal(t.Context(), "x")
	wantReason(t, "malformed appraisal", err, reason.RequestMalformed)
	for _, query := range []string{"after=-1", "after=x", "limit=0"} {
		if status, _, _ := a.send("GET", "/api/v1/events?"+query, a.tokens["ada"], nil, ""); status != http.StatusBadRequest {
			t.Errorf("events?%s: got %d", query, status)
		}
	}
}
