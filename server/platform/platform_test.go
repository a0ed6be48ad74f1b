package platform_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// releases shows the catalog of a world.
type releases struct{ w *appraisetest.World }

func (r releases) Catalog() *repository.Catalog { return r.w.Catalog() }

func (r releases) Look(_ context.Context, name string) (*repository.Release, error) {
	if out, ok := r.w.Catalog().Products[appraisetest.Product].Release(name); ok {
		return out, nil
	}
	return nil, problem.New(404, reason.ReleaseUnknown, "there is no release %s", name)
}

func newService(w *appraisetest.World) *platform.Service { return platform.New(w.Store, releases{w}) }

// learning is a world whose policy names a baseline signer and that has no baseline yet.
func learning(t *testing.T) *appraisetest.World {
	t.Helper()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		p.Baselines = map[string]repository.Baseline{}
		p.Policy.Baselines = &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{{Name: "platform", Issuer: "https://ci.example", Subject: "platform"}}}
	})
	return w
}

func query(devices int, exclude ...string) platform.Query {
	return platform.Query{Product: appraisetest.Product, Profile: evidencetest.Profile, Devices: devices, Exclude: exclude}
}

// shows lets devices poll until their observation is kept.
func shows(t *testing.T, w *appraisetest.World, label string, tweaks ...evidencetest.Tweak) *appraisetest.Device {
	t.Helper()
	d := w.Enrolled(t, label, "lamp/1")
	d.Boot("lamp/1", tweaks...)
	d.Converse()
	return d
}

func TestLearnsFromDevicesThatAgree(t *testing.T) {
	t.Parallel()
	w := learning(t)
	var ids []string
	for _, label := range []string{"a", "b", "c"} {
		ids = append(ids, shows(t, w, label).ID)
	}
	slices.Sort(ids)
	got, err := newService(w).Learn(t.Context(), query(3))
	if err != nil || len(got.Refusals) > 0 || len(got.Devices) != 3 {
		t.Fatalf("got %+v, %v", got, err)
	}
	s, err := artifacts.DecodeBaselineStatement(got.Statement)
	if err != nil {
		t.Fatal(err)
	}
	b := s.Predicate
	if b.Product != appraisetest.Product || b.Generation != 1 || len(b.Sets) != 1 || b.Sets[0].Name != "g1" || b.Sets[0].Source != artifacts.BaselineLearned {
		t.Errorf("statement: %+v", b)
	}
	var named []string
	for _, d := range b.Sets[0].Devices {
		named = append(named, d.Device)
	}
	if !slices.Equal(named, ids) {
		t.Errorf("devices: got %v, want %v", named, ids)
	}
	// What was learned is what lets them pass.
	w.Edit(func(_ *repository.Catalog, p *repository.Product) {
		p.Baselines = map[string]repository.Baseline{evidencetest.Profile: {Value: b.Baseline(), Digest: s.Subject[0].Digest.SHA256, Generation: 1}}
	})
	if p := w.Enrolled(t, "d", "lamp/1").Converse(); len(p.Refusal) != 0 {
		t.Errorf("a device of the platform is refused: %+v", p.Refusal)
	}
}

func TestLearnsNothingWhenOneDeviceDiffers(t *testing.T) {
	t.Parallel()
	w := learning(t)
	for _, label := range []string{"a", "b", "c"} {
		shows(t, w, label)
	}
	odd := shows(t, w, "odd", evidencetest.Firmware("implant"))
	got, err := newService(w).Learn(t.Context(), query(3))
	if err != nil || got.Statement != nil || len(got.Refusals) != 1 || !strings.Contains(got.Refusals[0], odd.ID) {
		t.Fatalf("got %+v, %v, want a refusal that names %s", got.Refusals, err, odd.ID)
	}
	if len(got.Learned.Others) != 1 || len(got.Learned.Others[0].Detail) == 0 {
		t.Errorf("others: %+v", got.Learned.Others)
	}
	if got, err = newService(w).Learn(t.Context(), query(3, odd.ID)); err != nil || got.Statement == nil {
		t.Errorf("left out by name: %+v, %v", got.Refusals, err)
	}
	if strings.Contains(string(got.Statement), odd.ID) {
		t.Error("a device that does not count is named as one that agreed")
	}
	// Three are too few for four, and a name that nobody has is a typing error, not a device that may be passed over.
	for name, q := range map[string]platform.Query{"four": query(4, odd.ID), "unknown": query(3, odd.ID, "nobody")} {
		if got, err := newService(w).Learn(t.Context(), q); err != nil || got.Statement != nil {
			t.Errorf("%s: got a statement, %v", name, err)
		}
	}
}

func TestOnlyActiveDevicesOfThePlatformCount(t *testing.T) {
	t.Parallel()
	w := learning(t)
	a, b := shows(t, w, "a"), shows(t, w, "b")
	for id, change := range map[string]func(*fleet.Device){
		a.ID: func(d *fleet.Device) { d.Lifecycle = fleet.Retired },
		b.ID: func(d *fleet.Device) { d.Profile = "other" },
	} {
		row, err := w.Store.Device(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		change(&row)
		if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := newService(w).Learn(t.Context(), query(1))
	if err != nil || got.Statement != nil || len(got.Devices) != 2 || got.Devices[0].LeftOut == "" || got.Devices[1].LeftOut == "" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A TPM that people stopped believing after it was observed has no say in what the platform is.
func TestTPMsOnTheDenyListDoNotCount(t *testing.T) {
	t.Parallel()
	w := learning(t)
	d := shows(t, w, "a")
	shows(t, w, "b")
	row, err := w.Store.Device(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	row.EKPublic = []byte("the EK of a")
	n := fleet.Denial{ID: "d-1", Denial: identity.Denial{Key: digest.Of(row.EKPublic).String(), Why: "it leaked"}, By: "ann", At: w.Now()}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}, store.PutDenial{Denial: n}}}); err != nil {
		t.Fatal(err)
	}
	got, err := newService(w).Learn(t.Context(), query(2))
	if err != nil || got.Statement != nil || len(got.Refusals) == 0 {
		t.Errorf("learned from it: got %+v, %v", got, err)
	}
	if got, err = newService(w).Learn(t.Context(), query(1)); err != nil || got.Statement == nil || strings.Contains(string(got.Statement), d.ID) {
		t.Errorf("without it: got %+v, %v", got, err)
	}
}

// What the database says an observation was is held against its log again.
func TestForgedObservationDoesNotCount(t *testing.T) {
	t.Parallel()
	w := learning(t)
	d := shows(t, w, "a")
	rows, err := w.Store.Observations(t.Context(), appraisetest.Product, evidencetest.Profile, 0)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	for i, p := range rows[0].PCRs {
		if p.Index == 7 {
			rows[0].PCRs[i].Value = digest.Of([]byte("other keys"))
		}
	}
	if err := w.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutObservation{Observation: rows[0]}}}); err != nil {
		t.Fatal(err)
	}
	got, err := newService(w).Learn(t.Context(), query(1))
	if err != nil || got.Statement != nil || !strings.Contains(got.Devices[0].LeftOut, "PCR 7") {
		t.Errorf("device %s: got %+v, %v", d.ID, got, err)
	}
}

func TestRefusesToLearnWhatNobodyCouldSign(t *testing.T) {
	t.Parallel()
	w := learning(t)
	for name, row := range map[string]struct {
		change func(*repository.Product, *platform.Query)
		want   reason.Reason
	}{
		"no signers": {func(p *repository.Product, _ *platform.Query) { p.Policy.Baselines = nil }, reason.BaselineRefused},
		"offline baseline": {func(p *repository.Product, _ *platform.Query) {
			p.Baselines = map[string]repository.Baseline{evidencetest.Profile: {}}
		}, reason.BaselineRefused},
		"unknown product": {func(_ *repository.Product, q *platform.Query) { q.Product = "pump" }, reason.PolicyMissing},
		"no devices":      {func(_ *repository.Product, q *platform.Query) { q.Devices = 0 }, reason.RequestMalformed},
		"no name":         {func(_ *repository.Product, q *platform.Query) { q.Name = "A B" }, reason.RequestMalformed},
	} {
		q := query(1)
		before := *w.Catalog().Products[appraisetest.Product]
		w.Edit(func(_ *repository.Catalog, p *repository.Product) { row.change(p, &q) })
		_, err := newService(w).Learn(t.Context(), q)
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Reason != row.want {
			t.Errorf("%s: got %v, want %s", name, err, row.want)
		}
		w.Edit(func(_ *repository.Catalog, p *repository.Product) { *p = before })
	}
}

// A dry run keeps its promise: what it predicts is what the device quotes when it has updated.
func TestDryRunPredictsTheNextQuote(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	d := w.Enrolled(t, "a", "lamp/1")
	d.Converse()
	never := w.Enrolled(t, "b", "lamp/1")
	foreign := w.Enrolled(t, "c", "lamp/1", func(d *fleet.Device) { d.HardwareID = "other" })
	w.Publish("2", 2)

	got, err := newService(w).DryRun(t.Context(), "lamp/2", "", "", 10)
	if err != nil || len(got.Devices) != 3 || got.Predictable != 1 || got.Next != "" {
		t.Fatalf("got %+v, %v", got, err)
	}
	d.Converse() // and with it the offer
	for _, device := range got.Devices {
		switch device.Device {
		case d.ID:
			d.Boot("lamp/2")
			changes := 0
			for _, p := range device.PCRs {
				if p.Then != d.Regs[p.Index] {
					t.Errorf("PCR %d: predicted %s, measured %s", p.Index, p.Then, d.Regs[p.Index])
				}
				if p.Changes {
					changes++
				}
			}
			if changes == 0 || len(device.Problems) > 0 || device.Runs != "lamp/1" || device.Component != "system" {
				t.Errorf("prediction: %+v", device)
			}
		case never.ID:
			if device.Predictable || device.Problems[0].Kind != reference.NoLog {
				t.Errorf("never proven: %+v", device)
			}
		case foreign.ID:
			if device.Predictable || device.Problems[0].Kind != reference.OtherHardware {
				t.Errorf("other hardware: %+v", device)
			}
		}
	}
	if p := d.Converse(); p.Release != "lamp/2" || p.Verdict != "affirmed" {
		t.Errorf("after the update: got %s for %s, %+v", p.Verdict, p.Release, p.Refusal)
	}
}

func TestDryRunIsPagedAndBounded(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	for _, label := range []string{"a", "b", "c"} {
		w.Enrolled(t, label, "lamp/1").Converse()
	}
	s := newService(w)
	seen, after := map[string]bool{}, ""
	for range 4 {
		page, err := s.DryRun(t.Context(), "lamp/1", "", after, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Devices {
			if seen[d.Device] || !d.Predictable {
				t.Errorf("device %s is there twice, or not predictable: %+v", d.Device, d.Problems)
			}
			seen[d.Device] = true
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(seen) != 3 {
		t.Errorf("saw %d devices, want 3", len(seen))
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.DryRun(canceled, "lamp/1", "", "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
	for _, id := range []string{"nobody", ""} {
		_, err := s.DryRun(t.Context(), "lamp/9", id, "", 10)
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Reason != reason.ReleaseUnknown {
			t.Errorf("unknown release: %v", err)
		}
	}
	_, err := s.DryRun(t.Context(), "lamp/1", "nobody", "", 10)
	if p, ok := errors.AsType[*problem.Error](err); !ok || p.Reason != reason.NotFound {
		t.Errorf("unknown device: %v", err)
	}
}
