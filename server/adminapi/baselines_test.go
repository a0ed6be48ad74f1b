package adminapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

// observed adds an active device of profile board and what it showed of its platform.
func (a *admin) observed(label string, tweaks ...evidencetest.Tweak) string {
	a.t.Helper()
	id := a.device(label, func(d *fleet.Device) {
		d.Product, d.Profile, d.HardwareID, d.Lifecycle = "lamp", "board", repositorytest.Hardware, fleet.Active
	})
	log := evidencetest.DirectUKI(evidencetest.Release("lamp/1"), tweaks...)
	o := store.Observation{Device: id, Product: "lamp", Profile: "board", At: a.Now(), Release: "lamp/1",
		Evidence: digest.Of([]byte("evidence " + label)), LogDigest: digest.Of(log.Bytes())}
	for _, pcr := range attestation.DefaultRequiredPCRs {
		o.PCRs = append(o.PCRs, attestation.PCR{Index: pcr, Value: log.PCRs()[pcr]})
	}
	err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.PutObservation{Observation: o}, store.AddLog{Digest: o.LogDigest, Bytes: log.Bytes()}}})
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// From devices that agree, over a person who signs, to a baseline in force; as cordonctl asks for it.
func TestBaselineFromDevicesToForce(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Pass(time.Since(a.Now()))
	key := repositorytest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	policy := a.Policy("lamp")
	policy.Baselines = &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{repositorytest.PublisherOf("platform", key)}}
	a.Apply(a.First(policy))
	oscar, robot, aud := a.person("oscar", api.RoleOperator), a.person("robot", api.RoleCI), a.person("aud", api.RoleAuditor)
	query := api.LearnQuery{Product: "lamp", Profile: "board", Devices: 2}

	// The profile has no baseline yet, and its devices can be claimed: there is somebody who may sign one.
	entry := api.InventoryEntry{Device: a.device("new", nil), Product: "lamp", HardwareID: repositorytest.Hardware, Profile: "board"}
	if err := oscar.PutInventory(t.Context(), entry); err != nil {
		t.Errorf("claim: %v", err)
	}
	a.observed("a")
	if l, err := aud.LearnBaseline(t.Context(), query); err != nil || len(l.Refusals) == 0 || l.Statement != nil {
		t.Errorf("one device: got %+v, %v", l, err)
	}
	a.observed("b")
	odd := a.observed("odd", evidencetest.Firmware("implant"))
	if l, err := aud.LearnBaseline(t.Context(), query); err != nil || l.Statement != nil || len(l.Learned.Others) != 1 {
		t.Errorf("one differs: got %+v, %v", l, err)
	}
	query.Exclude, query.Name = []string{odd}, "bios-1"
	l, err := aud.LearnBaseline(t.Context(), query)
	if err != nil || l.Statement == nil {
		t.Fatalf("learn: got %+v, %v", l, err)
	}
	signed := api.BaselineRequest{Bundles: [][]byte{repositorytest.Bundle(l.Statement, key)}}
	_, err = aud.AddBaseline(t.Context(), signed)
	wantReason(t, "upload as auditor", err, reason.PermissionDenied)
	_, err = robot.AddBaseline(t.Context(), api.BaselineRequest{Bundles: [][]byte{repositorytest.Bundle(l.Statement, a.Publisher)}})
	wantReason(t, "signed by a publisher", err, reason.BaselineRefused)
	_, err = robot.AddBaseline(t.Context(), api.BaselineRequest{Bundles: [][]byte{l.Statement}})
	wantReason(t, "unsigned", err, reason.BaselineRefused)
	b, err := robot.AddBaseline(t.Context(), signed)
	if err != nil || !b.Changed || b.State != api.BaselineInForce || b.Sets[0].Name != "bios-1" || len(b.Sets[0].Devices) != 2 {
		t.Fatalf("upload: got %+v, %v", b, err)
	}
	if page, err := aud.Baselines(t.Context(), "lamp", ""); err != nil || len(page.Items) != 1 || page.Items[0].Generation != 1 {
		t.Errorf("list: got %+v, %v", page, err)
	}
	if one, err := aud.Baseline(t.Context(), "lamp", "board", 1); err != nil || len(one.Bundles) != 1 {
		t.Errorf("show: got %+v, %v", one, err)
	}
	_, err = aud.Baseline(t.Context(), "lamp", "board", 7)
	wantReason(t, "unknown generation", err, reason.NotFound)

	// The next firmware, learned from the device that has it: the state before stays beside it.
	query.Exclude, query.Name, query.Devices = []string{}, "bios-2", 1
	for _, d := range l.Devices {
		if d.Device != odd {
			query.Exclude = append(query.Exclude, d.Device)
		}
	}
	l, err = aud.LearnBaseline(t.Context(), query)
	if err != nil || l.Statement == nil {
		t.Fatalf("learn again: got %+v, %v", l, err)
	}
	b, err = oscar.AddBaseline(t.Context(), api.BaselineRequest{Bundles: [][]byte{repositorytest.Bundle(l.Statement, key)}})
	if err != nil || b.Generation != 2 || len(b.Sets) != 2 || b.Sets[1].Name != "bios-1" {
		t.Errorf("second: got %+v, %v", b, err)
	}
	_, err = oscar.AddBaseline(t.Context(), signed)
	wantReason(t, "the older one again", err, reason.BaselineRefused)
}

func TestDryRunOfARelease(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Pass(time.Since(a.Now()))
	a.Apply(a.First(a.Policy("lamp")))
	aud := a.person("aud", api.RoleAuditor)
	a.Publish(a.Draft("lamp", "1", 1))
	id := a.device("a", func(d *fleet.Device) {
		d.Product, d.Profile, d.HardwareID, d.Lifecycle = "lamp", "board", repositorytest.Hardware, fleet.Active
	})
	for _, only := range []string{"", id} {
		got, err := aud.DryRunRelease(t.Context(), "lamp", "1", only, "")
		if err != nil || len(got.Devices) != 1 || got.Predictable != 0 || got.Devices[0].Problems[0].Kind != "no_log" {
			t.Errorf("device %q: got %+v, %v", only, got, err)
		}
	}
	_, err := aud.DryRunRelease(t.Context(), "lamp", "9", "", "")
	wantReason(t, "unknown release", err, reason.ReleaseUnknown)
	_, err = aud.DryRunRelease(t.Context(), "lamp", "1", "x", "")
	wantReason(t, "no device id", err, reason.RequestMalformed)
}
