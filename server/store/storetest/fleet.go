package storetest

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

func fleetContracts() []contract {
	return []contract{
		{"KeepsDevices", keepsDevices},
		{"ListsDevices", listsDevices},
		{"FindsDevicesDue", findsDevicesDue},
		{"KeepsQuarantines", keepsQuarantines},
		{"KeepsApprovals", keepsApprovals},
		{"KeepsAppraisals", keepsAppraisals},
		{"KeepsRepetitions", keepsRepetitions},
		{"FindsOutdatedDevices", findsOutdatedDevices},
		{"KeepsUpdates", keepsUpdates},
		{"KeepsBaselines", keepsBaselines},
		{"KeepsObservations", keepsObservations},
		{"KeepsDenials", keepsDenials},
		{"KeepsInventory", keepsInventory},
		{"KeepsOrders", keepsOrders},
	}
}

// fullDevice has every field set, with the largest numbers where a database would lose them.
func fullDevice(id string) fleet.Device {
	counter := uint64(math.MaxUint64 - 7)
	d := device(id)
	d.HardwareID, d.Profile, d.Standing, d.Tier, d.AdmittedBy = "lamp-r2", "uefi", fleet.Affirmed, 2, "approval:ada"
	d.EKCertificate, d.Manufacturer = []byte{0x30, 0, 0xff}, "id:49424D00 'ü"
	d.AKPublic, d.AKName, d.AKQualifiedSigner, d.TLSPublic = []byte("ak"), []byte("name"), []byte("signer"), []byte("tls")
	d.CounterBase = math.MaxUint64
	d.Accepted = &attestation.Accepted{
		Clock:    quote.Clock{ResetCount: math.MaxUint32, RestartCount: 2, Clock: math.MaxUint64, Safe: true},
		Firmware: math.MaxUint64 - 1,
		PCRs:     []attestation.PCR{{Index: 0, Value: sum("pcr0")}, {Index: 11, Value: sum("pcr11")}},
	}
	d.LastEvidence, d.LogDigest = sum("evidence", id), sum("log", id)
	d.Proven, d.ProvenCounter, d.HighCounter = "lamp/1.0", 1<<63, 1<<63+1
	d.ProvenAt, d.ChallengedAt, d.LeaseUntil, d.StaleSince = at(1), at(2), at(3), at(4)
	d.Offered, d.OfferedCounter, d.OfferedAt, d.Deadline = "lamp/1.1", 1<<63+2, at(5), at(6)
	d.Counter = &counter
	d.LastPoll, d.LastAnswer, d.SeenAt = sum("poll", id), []byte("{}"), at(7)
	d.Segment, d.Epoch = fleet.Production, math.MaxInt64
	d.Grounds = sum("grounds", id)
	d.EKPublic, d.EKIssuers = []byte{0x30, 1}, []string{"00ff", "aa"}
	d.ForgetKey = []fleet.KeyVoice{{Person: "ada", Why: "'ü' \x00", At: at(8)}, {Person: "bob", At: at(9)}}
	return d
}

func keepsDevices(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Device(ctx, "nobody")
	wantError(t, "unknown device", err, store.ErrNotFound)
	_, err = s.DeviceByTLSKey(ctx, digest.SHA256{})
	wantError(t, "zero TLS key", err, store.ErrNotFound)

	full, bare := fullDevice("full"), fleet.Device{ID: "bare", Lifecycle: fleet.Pending}
	write(t, s, store.PutDevice{Device: full}, store.PutDevice{Device: bare})
	write(t, s, store.PutDevice{Device: fleet.Device{ID: "bare-too"}}) // absent digests are not equal digests
	full.Version, bare.Version = 1, 1
	got(s.Device(ctx, "full"))(t, "Device", full)
	got(s.Device(ctx, "bare"))(t, "Device without optional fields", bare)
	got(s.DeviceByTLSKey(ctx, full.TLSKey))(t, "DeviceByTLSKey", full)

	// A whole row is replaced: what is empty now is empty.
	again := device("full")
	again.EKSPKI, again.TLSKey = full.EKSPKI, sum("another key")
	write(t, s, store.PutDevice{Device: again})
	again.Version = 2
	got(s.Device(ctx, "full"))(t, "Device after Put", again)
	_, err = s.DeviceByTLSKey(ctx, full.TLSKey)
	wantError(t, "replaced TLS key", err, store.ErrNotFound)
}

func ids(devices []fleet.Device) []string {
	var out []string
	for _, d := range devices {
		out = append(out, d.ID)
	}
	return out
}

func listsDevices(t *testing.T, s *store.Store) {
	for id, change := range map[string]func(*fleet.Device){
		"a": func(*fleet.Device) {},
		"b": func(d *fleet.Device) { d.Product = "door" },
		"c": func(d *fleet.Device) { d.Lifecycle = fleet.Retired },
		"d": func(d *fleet.Device) { d.Standing = fleet.Refused },
	} {
		d := device(id)
		change(&d)
		write(t, s, store.PutDevice{Device: d})
	}
	for _, tt := range []struct {
		name   string
		filter store.DeviceFilter
		after  string
		limit  int
		want   []string
	}{
		{"all", store.DeviceFilter{}, "", 0, []string{"a", "b", "c", "d"}},
		{"page", store.DeviceFilter{}, "a", 2, []string{"b", "c"}},
		{"product", store.DeviceFilter{Product: "lamp"}, "", 0, []string{"a", "c", "d"}},
		{"lifecycle", store.DeviceFilter{Lifecycle: fleet.Active}, "", 0, []string{"a", "b", "d"}},
		{"standing", store.DeviceFilter{Product: "lamp", Standing: fleet.Refused}, "", 0, []string{"d"}},
		{"none", store.DeviceFilter{Product: "nothing"}, "", 0, nil},
	} {
		list, err := s.ListDevices(t.Context(), tt.filter, tt.after, tt.limit)
		got(ids(list), err)(t, tt.name, tt.want)
	}
}

func findsDevicesDue(t *testing.T, s *store.Store) {
	put := func(id string, change func(*fleet.Device)) {
		d := device(id)
		change(&d)
		write(t, s, store.PutDevice{Device: d})
	}
	put("leased", func(d *fleet.Device) { d.Standing, d.LeaseUntil = fleet.Affirmed, at(11) })
	put("ended", func(d *fleet.Device) { d.Standing, d.LeaseUntil = fleet.Affirmed, at(10) })
	put("ended-retired", func(d *fleet.Device) {
		d.Standing, d.LeaseUntil, d.Lifecycle = fleet.Affirmed, at(1), fleet.Retired
	})
	put("ended-and-overdue", func(d *fleet.Device) { d.Standing, d.LeaseUntil, d.Deadline = fleet.Affirmed, at(9), at(9) })
	put("overdue", func(d *fleet.Device) { d.Standing, d.LeaseUntil, d.Deadline = fleet.Affirmed, at(99), at(3) })
	put("stale", func(d *fleet.Device) { d.Standing, d.StaleSince, d.Segment = fleet.Stale, at(2), fleet.Production })
	put("staler", func(d *fleet.Device) { d.Standing, d.StaleSince, d.Segment = fleet.Stale, at(1), fleet.Production })
	put("stale-restricted", func(d *fleet.Device) { d.Standing, d.StaleSince = fleet.Stale, at(1) })

	due, err := s.DevicesDue(t.Context(), at(10), 0)
	got(ids(due), err)(t, "DevicesDue", []string{"ended-and-overdue", "ended", "overdue", "staler", "stale"})
	due, err = s.DevicesDue(t.Context(), at(10), 3)
	got(ids(due), err)(t, "DevicesDue with limit", []string{"ended-and-overdue", "ended", "overdue"})
}

func keepsQuarantines(t *testing.T, s *store.Store) {
	ctx := t.Context()
	write(t, s, store.PutDevice{Device: device("lamp-1")})
	q := fleet.Quarantine{
		ID: "q1", Device: "lamp-1", Since: at(10), Causes: []reason.Reason{reason.PCRMismatch, reason.SecureBootOff},
		Detail: "PCR 7", By: "verifier", Evidence: sum("e"),
	}
	_, err := s.OpenQuarantine(ctx, "lamp-1")
	wantError(t, "no quarantine", err, store.ErrNotFound)
	write(t, s, store.PutQuarantine{Quarantine: q})
	q.Version = 1
	got(s.OpenQuarantine(ctx, "lamp-1"))(t, "OpenQuarantine", q)

	second := q
	second.ID = "q2"
	wantConflict(t, s, "second open quarantine", store.Change{Writes: []store.Write{store.PutQuarantine{Quarantine: second}}})

	q.RecoveredAt, q.EndedAt = at(20), at(30)
	commit(t, s, store.Change{
		Expect: []store.Expect{{Table: store.Quarantines, Key: "q1", Version: 1}},
		Writes: []store.Write{store.PutQuarantine{Quarantine: q}, store.PutQuarantine{Quarantine: second}},
	})
	q.Version, second.Version = 2, 1
	got(s.Quarantine(ctx, "q1"))(t, "ended quarantine", q)
	got(s.OpenQuarantine(ctx, "lamp-1"))(t, "next quarantine", second)
	_, err = s.Quarantine(ctx, "q3")
	wantError(t, "unknown quarantine", err, store.ErrNotFound)

	both := []fleet.Quarantine{q, second}
	got(s.ListQuarantines(ctx, at(0), time.Time{}, ""))(t, "all quarantines", both)
	got(s.ListQuarantines(ctx, at(25), at(26), "lamp"))(t, "quarantines of a period", both)
	got(s.ListQuarantines(ctx, at(31), at(40), "lamp"))(t, "later period", both[1:])
	got(s.ListQuarantines(ctx, at(0), at(10), ""))(t, "earlier period", nil)
	got(s.ListQuarantines(ctx, at(0), time.Time{}, "door"))(t, "other product", nil)
}

func keepsApprovals(t *testing.T, s *store.Store) {
	a := fleet.Approval{Subject: "release:lamp/1.0", Person: "ada", At: at(1)}
	b := fleet.Approval{Subject: "release:lamp/1.0", Person: "bob", At: at(0)}
	write(t, s, store.AddApproval{Approval: a}, store.AddApproval{Approval: b})
	wantConflict(t, s, "same person twice", store.Change{Writes: []store.Write{store.AddApproval{Approval: a}}})
	got(s.Approvals(t.Context(), a.Subject))(t, "Approvals", []fleet.Approval{b, a})
	got(s.Approvals(t.Context(), "release:lamp/1.1"))(t, "no approvals", nil)
}

func keepsAppraisals(t *testing.T, s *store.Store) {
	ctx := t.Context()
	var all []store.Appraisal
	for i, dev := range []string{"a", "b", "a"} {
		all = append(all, store.Appraisal{
			ID: sum("appraisal", i), Device: dev, Product: "lamp-" + dev, At: at(i), Outcome: "refused", Release: "lamp/1.0",
			Input: []byte(`{"i":1}`), Verdict: []byte{0, 1, 2}, Verifier: "v1", Policy: sum("policy"), Baseline: sum("baseline"),
		})
	}
	_, err := s.LastAppraisal(ctx, "a")
	wantError(t, "no appraisal", err, store.ErrNotFound)
	for i := range all {
		write(t, s, store.AddAppraisal{Appraisal: all[i]})
	}
	wantConflict(t, s, "same appraisal", store.Change{Writes: []store.Write{store.AddAppraisal{Appraisal: all[0]}}})
	list, err := s.Appraisals(ctx, time.Time{}, time.Time{}, "", 0, 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("Appraisals: got %d, %v, want 3", len(list), err)
	}
	for i := range all {
		if i > 0 && list[i].Number <= list[i-1].Number {
			t.Errorf("appraisal numbers do not rise: %d after %d", list[i].Number, list[i-1].Number)
		}
		all[i].Number = list[i].Number
	}
	got(list, err)(t, "Appraisals", all)
	got(s.Appraisals(ctx, at(1), at(2), "", 0, 0))(t, "period", all[1:2])
	got(s.Appraisals(ctx, at(0), time.Time{}, "lamp-a", 0, 1))(t, "product, first page", all[:1])
	got(s.Appraisals(ctx, at(0), time.Time{}, "lamp-a", all[0].Number, 1))(t, "product, second page", all[2:])
	got(s.LastAppraisal(ctx, "a"))(t, "LastAppraisal", all[2])
	got(s.Appraisal(ctx, all[1].ID))(t, "Appraisal", all[1])

	write(t, s, store.AddLog{Digest: sum("log"), Bytes: []byte("log")}, store.AddLog{Digest: sum("empty")})
	write(t, s, store.AddLog{Digest: sum("log"), Bytes: []byte("log")})
	got(s.Log(ctx, sum("log")))(t, "Log", []byte("log"))
	_, err = s.Log(ctx, sum("other log"))
	wantError(t, "unknown log", err, store.ErrNotFound)
}

func keepsUpdates(t *testing.T, s *store.Store) {
	ctx := t.Context()
	first := store.Update{Device: "a", Product: "lamp", From: "lamp/1.0", To: "lamp/1.1", OfferedAt: at(0)}
	write(t, s, store.CloseUpdate{Device: "a", Result: "superseded", At: at(0)}) // none is open: nothing happens
	write(t, s, store.AddUpdate{Update: first})
	wantConflict(t, s, "second open update", store.Change{Writes: []store.Write{store.AddUpdate{Update: first}}})
	second := first
	second.To, second.OfferedAt = "lamp/1.2", at(5)
	write(t, s, store.CloseUpdate{Device: "a", Result: "proven", At: at(5), Evidence: sum("e")}, store.AddUpdate{Update: second})
	first.Result, first.EndedAt, first.Evidence, second.Result = "proven", at(5), sum("e"), "open"
	got(s.Updates(ctx, at(0), time.Time{}, "", 0))(t, "Updates", []store.Update{first, second})
	got(s.Updates(ctx, at(1), at(6), "lamp", 0))(t, "Updates of a period", []store.Update{second})
	got(s.Updates(ctx, at(0), time.Time{}, "door", 0))(t, "Updates of another product", nil)
}

func keepsInventory(t *testing.T, s *store.Store) {
	ctx := t.Context()
	a := store.Inventory{Device: "a", Product: "lamp", HardwareID: "r1", Profile: "uefi", By: "ada", At: at(0)}
	b := store.Inventory{Device: "b", Product: "lamp", HardwareID: "r1", Profile: "uefi", By: "bob", At: at(1)}
	write(t, s, store.PutInventory{Entry: b}, store.PutInventory{Entry: a})
	a.HardwareID = "r2"
	write(t, s, store.PutInventory{Entry: a})
	got(s.Inventory(ctx, "a"))(t, "Inventory", a)
	got(s.ListInventory(ctx))(t, "ListInventory", []store.Inventory{a, b})
	write(t, s, store.RemoveInventory{Device: "a"}, store.RemoveInventory{Device: "never there"})
	_, err := s.Inventory(ctx, "a")
	wantError(t, "removed entry", err, store.ErrNotFound)
}

func keepsOrders(t *testing.T, s *store.Store) {
	ctx := t.Context()
	order := func(device string, epoch int64, segment fleet.Segment) store.Order {
		return store.Order{Device: device, Segment: segment, Epoch: epoch, Point: "door", At: at(int(epoch))}
	}
	commit(t, s, store.Change{Orders: []store.Order{order("a", 1, fleet.Restricted), order("b", 1, fleet.Restricted)}})
	pending, err := s.PendingOrders(ctx, "door", 0)
	if err != nil || len(pending) != 2 || pending[0].ID == pending[1].ID || pending[0].ID <= 0 {
		t.Fatalf("PendingOrders: got %+v, %v, want two with ids", pending, err)
	}
	want := order("a", 1, fleet.Restricted)
	want.ID = pending[0].ID
	if diff := cmp.Diff(want, pending[0]); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	// Acknowledged is not yet in force.
	write(t, s, store.SettleOrder{ID: want.ID, Acked: at(1)})
	write(t, s, store.SettleOrder{ID: pending[1].ID, Acked: at(1), Verified: at(2), Detail: "set"})
	want.Acked = at(1)
	got(s.PendingOrders(ctx, "door", 0))(t, "unverified orders", []store.Order{want})
	write(t, s, store.SettleOrder{ID: want.ID, Verified: at(3), Detail: "read back"})
	got(s.PendingOrders(ctx, "door", 0))(t, "all verified", nil)
	want.Verified, want.Detail = at(3), "read back"
	got(s.Orders(ctx, "a", 0))(t, "Orders", []store.Order{want})
	wantConflict(t, s, "unknown order", store.Change{Writes: []store.Write{store.SettleOrder{ID: 1 << 40, Acked: at(1)}}})

	// An older order never comes back, whichever way round they were written.
	commit(t, s, store.Change{Orders: []store.Order{order("a", 2, fleet.Production)}})
	commit(t, s, store.Change{Orders: []store.Order{order("a", 4, fleet.Restricted)}})
	commit(t, s, store.Change{Orders: []store.Order{order("a", 3, fleet.Production)}})
	pending, err = s.PendingOrders(ctx, "door", 0)
	if err != nil || len(pending) != 1 || pending[0].Epoch != 4 {
		t.Errorf("PendingOrders: got %+v, %v, want epoch 4 alone", pending, err)
	}
	got(s.PendingOrders(ctx, "window", 0))(t, "other point", nil)
}
