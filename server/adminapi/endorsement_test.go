package adminapi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

const leaked = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func TestOneDeniesAndTwoOthersLift(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann, bob, cid := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator), a.person("cid", api.RoleOperator)
	swept := 0
	a.api.Sweep = func() { swept++ }
	n, err := ann.DenyEndorsement(t.Context(), api.DenialRequest{Key: strings.ToUpper(leaked), Why: "sold at an auction"})
	if err != nil || n.Key != leaked || n.By != "ann" || n.LiftedAt != nil || swept != 1 {
		t.Fatalf("got %+v, %v, swept %d times", n, err, swept)
	}
	_, err = bob.DenyEndorsement(t.Context(), api.DenialRequest{Key: leaked, Why: "the same again"})
	wantReason(t, "the same TPMs", err, reason.Conflict)
	_, err = ann.LiftEndorsement(t.Context(), n.ID)
	wantReason(t, "who denied lifts", err, reason.SamePerson)
	if n, err = bob.LiftEndorsement(t.Context(), n.ID); err != nil || n.LiftedAt != nil || len(n.Approvals) != 1 {
		t.Errorf("one person: got %+v, %v", n, err)
	}
	_, err = bob.LiftEndorsement(t.Context(), n.ID)
	wantReason(t, "the same person twice", err, reason.SamePerson)
	if list, err := a.Store.DenialsInForce(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("one person lifted it: %+v, %v", list, err)
	}
	if n, err = cid.LiftEndorsement(t.Context(), n.ID); err != nil || n.LiftedAt == nil || len(n.Approvals) != 2 {
		t.Errorf("two people: got %+v, %v", n, err)
	}
	if list, err := a.Store.DenialsInForce(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("still in force: %+v, %v", list, err)
	}
	_, err = cid.LiftEndorsement(t.Context(), n.ID)
	wantReason(t, "lifted already", err, reason.Conflict)
	page, err := ann.Denials(t.Context(), "")
	if err != nil || len(page.Items) != 1 || page.Items[0].Why != "sold at an auction" {
		t.Errorf("list: got %+v, %v", page, err)
	}
	events, err := a.Store.LastEvents(t.Context(), n.ID, 10)
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Type)
	}
	want := audit.EndorsementLifted + " " + audit.EndorsementApproved + " " + audit.EndorsementApproved + " " + audit.EndorsementDenied
	if err != nil || strings.Join(kinds, " ") != want {
		t.Errorf("events %v, %v, want %s", kinds, err, want)
	}
}

// The yes of somebody whose account was disabled since does not count: his token may have been stolen.
func TestApprovalOfADisabledPersonDoesNotLift(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann, bob, cid, dan := a.person("ann", api.RoleOperator), a.person("bob", api.RoleOperator), a.person("cid", api.RoleOperator), a.person("dan", api.RoleAdmin)
	n, err := ann.DenyEndorsement(t.Context(), api.DenialRequest{Issuer: "aa:BB", Why: "x"})
	if err != nil || n.Issuer != "aabb" {
		t.Fatalf("got %+v, %v", n, err)
	}
	if _, err := bob.LiftEndorsement(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	if err := dan.RemovePerson(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	if n, err = cid.LiftEndorsement(t.Context(), n.ID); err != nil || n.LiftedAt != nil {
		t.Errorf("got %+v, %v", n, err)
	}
}

func TestDenialsAreCheckedAndProtected(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann := a.person("ann", api.RoleOperator)
	for name, req := range map[string]api.DenialRequest{
		"nothing named":        {Why: "x"},
		"no why":               {Key: leaked},
		"two ways":             {Key: leaked, Issuer: "aa", Why: "x"},
		"serial alone":         {Serial: "01", Why: "x"},
		"manufacturer alone":   {Manufacturer: "id:49465800", Why: "x"},
		"firmware upside down": {Manufacturer: "id:49465800", FirmwareFrom: "9", FirmwareTo: "1", Why: "x"},
		"firmware in words":    {Manufacturer: "id:49465800", FirmwareTo: "all", Why: "x"},
		"short key":            {Key: "aabb", Why: "x"},
	} {
		_, err := ann.DenyEndorsement(t.Context(), req)
		wantReason(t, name, err, reason.RequestMalformed)
	}
	n, err := ann.DenyEndorsement(t.Context(), api.DenialRequest{Manufacturer: "id:49465800", FirmwareFrom: "0x0007003E", FirmwareTo: "ffffffffffffffff", Why: "x"})
	if err != nil || n.FirmwareFrom != "000000000007003e" || n.FirmwareTo != "ffffffffffffffff" {
		t.Errorf("got %+v, %v", n, err)
	}
	for role, may := range map[string]bool{api.RoleAuditor: true, api.RoleAdmin: true, api.RoleCI: false} {
		p := a.person("p-"+role, role)
		_, err := p.DenyEndorsement(t.Context(), api.DenialRequest{Key: leaked, Why: "x"})
		wantReason(t, role+" denies", err, reason.PermissionDenied)
		_, err = p.LiftEndorsement(t.Context(), n.ID)
		wantReason(t, role+" lifts", err, reason.PermissionDenied)
		if _, err = p.Denials(t.Context(), ""); (err == nil) != may {
			t.Errorf("%s reads: %v", role, err)
		}
	}
	if status, _, body := a.send(http.MethodPost, "/api/v1/endorsement-denials/d-none/lift", a.tokens["ann"], nil, ""); status != http.StatusNotFound {
		t.Errorf("unknown denial: got %d %s", status, body)
	}
}

func TestDenialsComeInPages(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ann := a.person("ann", api.RoleOperator)
	change := store.Change{}
	for i := range 205 { // a page is 200
		change.Writes = append(change.Writes, store.PutDenial{Denial: fleet.Denial{
			ID: fmt.Sprintf("d-%03d", i), By: "ann", At: a.Now().Add(time.Duration(i/2) * time.Minute), Denial: identity.Denial{Issuer: fmt.Sprintf("%04x", i), Why: "x"},
		}})
	}
	if err := a.Store.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	next := 204
	for n, err := range api.All(t.Context(), ann.Denials) {
		if err != nil || n.ID != fmt.Sprintf("d-%03d", next) {
			t.Fatalf("got %s, %v, want d-%03d", n.ID, err, next)
		}
		next--
	}
	if next != -1 {
		t.Errorf("%d denials are missing", next+1)
	}
	if page, err := ann.Denials(t.Context(), ""); err != nil || len(page.Items) != 200 || page.Next != "d-005" {
		t.Errorf("the first page: %d denials, next %q, %v", len(page.Items), page.Next, err)
	}
	_, err := ann.Denials(t.Context(), "d-none")
	wantReason(t, "after one that is not there", err, reason.NotFound)
	for limit, want := range map[string]int{"7": http.StatusOK, "0": http.StatusBadRequest, "1001": http.StatusBadRequest} {
		if status, _, body := a.send(http.MethodGet, "/api/v1/endorsement-denials?limit="+limit, a.tokens["ann"], nil, ""); status != want {
			t.Errorf("limit %s: got %d %s, want %d", limit, status, body, want)
		}
	}
}

// An operator finds in the device what a denial names it by.
func TestDeviceShowsWhatADenialNamesItBy(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	ek := evidencetest.NewCA("TPM maker").NewEK(nil)
	leaf, err := identity.ParseEKCertificate(ek.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	own := hex.EncodeToString(leaf.AuthorityKeyId)
	stored, err := identity.StoredEK(ek.Certificate, []string{"ccdd", own})
	if err != nil {
		t.Fatal(err)
	}
	id := a.device("shown", func(d *fleet.Device) {
		d.EKCertificate, d.EKSPKI, d.EKIssuers, d.Manufacturer = ek.Certificate, digest.Of(ek.SPKI), stored.Issuers, stored.Manufacturer
		d.Accepted = &attestation.Accepted{Firmware: 0x0007003e00000001}
	})
	ann := a.person("ann", api.RoleOperator)
	got, err := ann.Device(t.Context(), id)
	if err != nil || got.Endorsement == nil || !slices.Equal(got.Endorsement.Issuers, []string{own, "ccdd"}) {
		t.Fatalf("got %+v, %v", got.Endorsement, err)
	}
	e := got.Endorsement
	for name, req := range map[string]api.DenialRequest{
		"key":          {Key: e.Key.String()},
		"serial":       {Serial: e.Serial, Issuer: e.Issuers[0]},
		"its issuer":   {Issuer: e.Issuers[0]},
		"above it":     {Issuer: e.Issuers[1]},
		"its firmware": {Manufacturer: got.Manufacturer, FirmwareFrom: e.Firmware, FirmwareTo: e.Firmware},
	} {
		req.Why = "a leak"
		if _, err := ann.DenyEndorsement(t.Context(), req); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	list, err := a.Store.DenialsInForce(t.Context())
	if err != nil || len(list) != 5 {
		t.Fatalf("got %d denials, %v", len(list), err)
	}
	for _, n := range list {
		if _, denied := identity.Denied(stored, 0x0007003e00000001, []identity.Denial{n.Denial}); !denied {
			t.Errorf("denial %+v does not name the device", n.Denial)
		}
	}
	page, err := ann.Devices(t.Context(), api.DeviceQuery{})
	if err != nil || len(page.Items) != 1 || page.Items[0].Endorsement != nil {
		t.Errorf("list: got %+v, %v", page.Items, err)
	}
}

// V-20: without a certificate a person's word is not enough, and makes no more than the lowest tier of a TPM.
func TestApprovalOfABareDeviceNeedsAToken(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	pending := func(by string) func(*fleet.Device) {
		return func(d *fleet.Device) {
			*d = fleet.Device{ID: d.ID, Lifecycle: fleet.Pending, Standing: fleet.Unproven, EKSPKI: d.EKSPKI, TLSKey: d.TLSKey, EnrolledAt: d.EnrolledAt,
				Segment: fleet.Restricted, EKPublic: []byte("key"), AdmittedBy: by, Product: map[string]string{"token": "lamp"}[by]}
		}
	}
	entry := api.InventoryEntry{Product: "lamp", HardwareID: "rev-a", Profile: "board"}
	entry.Device = a.device("alone", pending(""))
	_, err := oscar.ApproveDevice(t.Context(), entry)
	wantReason(t, "without a token", err, reason.ApprovalRequired)
	key := sha256.Sum256([]byte("denied key"))
	entry.Device = a.device("denied", func(d *fleet.Device) { pending("token")(d); d.EKPublic = []byte("denied key") })
	n, err := oscar.DenyEndorsement(t.Context(), api.DenialRequest{Key: hex.EncodeToString(key[:]), Why: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = oscar.ApproveDevice(t.Context(), entry)
	wantReason(t, "denied by "+n.ID, err, reason.EKRevoked)
	entry.Device = a.device("vouched", pending("token"))
	got, err := oscar.ApproveDevice(t.Context(), entry)
	if err != nil || got.Lifecycle != string(fleet.Active) || got.Tier != fleet.TierBare || got.AdmittedBy != "approval:oscar" {
		t.Errorf("got %+v, %v", got, err)
	}
}
