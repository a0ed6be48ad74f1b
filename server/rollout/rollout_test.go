package rollout_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/rollout"
)

func image(version string) digest.SHA256 { return digest.Of([]byte(version)) }

func candidate(version string, counter uint64, change ...func(*rollout.Candidate)) rollout.Candidate {
	c := rollout.Candidate{Name: artifacts.ReleaseName("lamp", version), Release: artifacts.Release{
		Product: "lamp", Version: version, Counter: counter,
		Components: []artifacts.Component{{Name: "system", HardwareIDs: []string{"rev-a"}, SHA256: image(version)}},
	}}
	for _, f := range change {
		f(&c)
	}
	return c
}

func hold(c *rollout.Candidate)     { c.Hold = true }
func recovery(c *rollout.Candidate) { c.Release.Recovery = true }
func tier5(c *rollout.Candidate)    { c.Release.MinimumTier = 5 }
func revB(c *rollout.Candidate)     { c.Release.Components[0].HardwareIDs = []string{"rev-b"} }
func needs(n uint64) func(*rollout.Candidate) {
	return func(c *rollout.Candidate) { c.Release.Requires = n }
}

func policy() artifacts.Policy {
	return artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: "lamp", Threshold: 1, Publishers: []artifacts.Publisher{{Name: "ci", Issuer: "https://i", Subject: "s"}},
		Recovery: []digest.SHA256{image("r")},
	}
}

func device() fleet.Device {
	counter := uint64(2)
	return fleet.Device{
		ID: "d", Lifecycle: fleet.Active, Standing: fleet.Affirmed, HardwareID: "rev-a", Tier: 4,
		Proven: "lamp/2", ProvenCounter: 2, HighCounter: 2, Counter: &counter,
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	type world struct {
		d fleet.Device
		q *fleet.Quarantine
		p artifacts.Policy
	}
	current := candidate("2", 2)
	tests := map[string]struct {
		change     func(*world)
		candidates []rollout.Candidate
		want       string
		reasons    []reason.Reason
	}{
		"nothing published":        {nil, nil, "", nil},
		"the current one":          {nil, []rollout.Candidate{current}, "lamp/2", nil},
		"the newest":               {nil, []rollout.Candidate{candidate("3", 3), candidate("4", 4), current}, "lamp/4", nil},
		"held: the one before":     {nil, []rollout.Candidate{candidate("4", 4, hold), candidate("3", 3), current}, "lamp/3", []reason.Reason{reason.ReleaseOnHold}},
		"never below the counter":  {nil, []rollout.Candidate{candidate("1", 1)}, "", nil},
		"held current, older left": {nil, []rollout.Candidate{candidate("2", 2, hold), candidate("1", 1)}, "", []reason.Reason{reason.ReleaseOnHold}},
		"withdrawn": {func(w *world) { w.p.Withdrawn = []digest.SHA256{image("3")} },
			[]rollout.Candidate{candidate("3", 3), current}, "lamp/2", []reason.Reason{reason.ReleaseWithdrawn}},
		"below the offline minimum": {func(w *world) { w.p.MinimumCounter = 5 },
			[]rollout.Candidate{candidate("3", 3), current}, "", []reason.Reason{reason.DowngradeRefused}},
		"tier of the release": {nil, []rollout.Candidate{candidate("3", 3, tier5), current}, "lamp/2", []reason.Reason{reason.TierTooLow}},
		"tier of the policy": {func(w *world) { w.p.MinimumTier = 5 },
			[]rollout.Candidate{current}, "", []reason.Reason{reason.TierTooLow}},
		"other hardware": {nil, []rollout.Candidate{candidate("3", 3, revB), current}, "lamp/2", []reason.Reason{reason.HardwareIncompatible}},
		"intermediate first": {nil, []rollout.Candidate{candidate("9", 9, needs(4)), candidate("4", 4, needs(2)), current},
			"lamp/4", []reason.Reason{reason.IntermediateRequired}},
		"intermediate reached": {func(w *world) { w.d.HighCounter = 4 },
			[]rollout.Candidate{candidate("9", 9, needs(4)), candidate("4", 4, needs(2)), current}, "lamp/9", nil},
		"intermediate missing":     {nil, []rollout.Candidate{candidate("9", 9, needs(4))}, "", []reason.Reason{reason.IntermediateRequired}},
		"no recovery without need": {nil, []rollout.Candidate{candidate("r", 9, recovery), current}, "lamp/2", nil},
		"from recovery to the newest": {func(w *world) { w.d.Proven, w.d.ProvenCounter = "lamp/r", 1 },
			[]rollout.Candidate{candidate("r", 1, recovery), current}, "lamp/2", nil},
		"no policy":       {func(w *world) { w.p = artifacts.Policy{} }, []rollout.Candidate{current}, "", []reason.Reason{reason.PolicyMissing}},
		"counter missing": {func(w *world) { w.d.Counter = nil }, []rollout.Candidate{candidate("3", 3)}, "", []reason.Reason{reason.CounterMissing}},
		"unproven":        {func(w *world) { w.d.Standing = fleet.Unproven }, []rollout.Candidate{current}, "", []reason.Reason{reason.DeviceUnproven}},
		"refused":         {func(w *world) { w.d.Standing = fleet.Refused }, []rollout.Candidate{current}, "", []reason.Reason{reason.DeviceUnproven}},
		"stale":           {func(w *world) { w.d.Standing = fleet.Stale }, []rollout.Candidate{current}, "", []reason.Reason{reason.EvidenceOverdue}},
		"pending":         {func(w *world) { w.d.Lifecycle = fleet.Pending }, []rollout.Candidate{current}, "", []reason.Reason{reason.DevicePending}},
		"retired":         {func(w *world) { w.d.Lifecycle = fleet.Retired }, []rollout.Candidate{current}, "", []reason.Reason{reason.DeviceRetired}},
		"quarantined": {func(w *world) { w.q = &fleet.Quarantine{} },
			[]rollout.Candidate{candidate("3", 3), candidate("r", 1, recovery), current}, "lamp/r", []reason.Reason{reason.DeviceQuarantined}},
		"quarantined, low tier, no counter": {func(w *world) { w.q = &fleet.Quarantine{}; w.d.Counter = nil; w.d.Tier = 0 },
			[]rollout.Candidate{candidate("r", 1, recovery, tier5, needs(7))}, "lamp/r", []reason.Reason{reason.DeviceQuarantined}},
		"quarantined, retired": {func(w *world) { w.q = &fleet.Quarantine{}; w.d.Lifecycle = fleet.Retired },
			[]rollout.Candidate{candidate("r", 1, recovery)}, "", []reason.Reason{reason.DeviceRetired}},
		"quarantined, nothing for recovery": {func(w *world) { w.q = &fleet.Quarantine{} },
			[]rollout.Candidate{candidate("3", 3)}, "", []reason.Reason{reason.DeviceQuarantined}},
		"recovery that the policy does not list": {func(w *world) { w.q = &fleet.Quarantine{}; w.p.Recovery = nil },
			[]rollout.Candidate{candidate("r", 1, recovery)}, "", []reason.Reason{reason.DeviceQuarantined, reason.RecoveryNotListed}},
		"recovery below the offline minimum": {func(w *world) { w.q = &fleet.Quarantine{}; w.p.MinimumCounter = 2 },
			[]rollout.Candidate{candidate("r", 1, recovery)}, "", []reason.Reason{reason.DeviceQuarantined, reason.DowngradeRefused}},
		"held recovery": {func(w *world) { w.q = &fleet.Quarantine{} },
			[]rollout.Candidate{candidate("r", 1, recovery, hold)}, "", []reason.Reason{reason.DeviceQuarantined, reason.ReleaseOnHold}},
		"recovery for other hardware": {func(w *world) { w.q = &fleet.Quarantine{} },
			[]rollout.Candidate{candidate("r", 1, recovery, revB)}, "", []reason.Reason{reason.DeviceQuarantined, reason.HardwareIncompatible}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world{d: device(), p: policy()}
			if test.change != nil {
				test.change(&w)
			}
			got := rollout.Next(w.d, w.q, w.p, test.candidates)
			if got.Release != test.want {
				t.Errorf("got release %q, want %q", got.Release, test.want)
			}
			if diff := cmp.Diff(test.reasons, got.Reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			backwards := slices.Clone(test.candidates)
			slices.Reverse(backwards)
			if again := rollout.Next(w.d, w.q, w.p, backwards); again.Release != got.Release || !slices.Equal(again.Reasons, got.Reasons) {
				t.Errorf("the order of candidates matters: got %q %v", again.Release, again.Reasons)
			}
			if got.Release != "" && w.q != nil != got.Recovery {
				t.Errorf("got recovery %t", got.Recovery)
			}
		})
	}
}

func TestComponentsAreThoseOfTheHardware(t *testing.T) {
	t.Parallel()
	r := candidate("3", 3).Release
	r.Components = append(r.Components, artifacts.Component{Name: "radio", HardwareIDs: []string{"rev-b"}}, artifacts.Component{Name: "boot", HardwareIDs: []string{"rev-b", "rev-a"}})
	var got []string
	for _, c := range rollout.Components(device(), r) {
		got = append(got, c.Name)
	}
	if want := []string{"system", "boot"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
