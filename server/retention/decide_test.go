package retention_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
)

func image(version string) digest.SHA256 { return digest.Of([]byte(version)) }

// published is a release with counter, for hardware rev-a unless changed.
func published(counter uint64, change ...func(*retention.Release)) retention.Release {
	version := fmt.Sprint(counter)
	r := retention.Release{Name: "lamp/" + version, Published: true, Release: artifacts.Release{
		Product: "lamp", Version: version, Counter: counter,
		Components: []artifacts.Component{{Name: "system", HardwareIDs: []string{"rev-a"}, SHA256: image(version), Length: 1, Installer: "uki"}},
	}}
	for _, c := range change {
		c(&r)
	}
	return r
}

func held(r *retention.Release)     { r.Hold = true }
func staged(r *retention.Release)   { r.Published = false }
func pruned(r *retention.Release)   { r.Pruned = true }
func recovery(r *retention.Release) { r.Release.Recovery = true }

func requires(n uint64) func(*retention.Release) {
	return func(r *retention.Release) { r.Release.Requires = n }
}

func tier(n int) func(*retention.Release) {
	return func(r *retention.Release) { r.Release.MinimumTier = n }
}

func hardware(ids ...string) func(*retention.Release) {
	return func(r *retention.Release) { r.Release.Components[0].HardwareIDs = ids }
}

// proven is an active device that has proven a release.
func proven(counter uint64, change ...func(*fleet.Device)) fleet.Device {
	d := fleet.Device{Product: "lamp", HardwareID: "rev-a", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Proven: fmt.Sprintf("lamp/%d", counter), HighCounter: counter}
	for _, c := range change {
		c(&d)
	}
	return d
}

func offered(counter uint64) func(*fleet.Device) {
	return func(d *fleet.Device) { d.Offered, d.OfferedCounter = fmt.Sprintf("lamp/%d", counter), counter }
}

func wasOffered(counter uint64) func(*fleet.Device) {
	return func(d *fleet.Device) { d.OfferedCounter = counter }
}

func of(id string) func(*fleet.Device) { return func(d *fleet.Device) { d.HardwareID = id } }
func lifecycle(l fleet.Lifecycle) func(*fleet.Device) {
	return func(d *fleet.Device) { d.Lifecycle = l }
}

func text(needs map[string][]retention.Need) string {
	var out []string
	for name, list := range needs {
		for _, n := range list {
			out = append(out, fmt.Sprintf("%s:%s:%d", strings.TrimPrefix(name, "lamp/"), n.Why, n.Devices))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestKeepsWhatADeviceMayNeed(t *testing.T) {
	t.Parallel()
	w := repositorytest.Holding(t, repository.Keys{}, repositorytest.Noon)
	plain := w.Policy("lamp")
	listing := plain
	listing.Recovery = []digest.SHA256{image("2")}
	minimum := plain
	minimum.MinimumCounter = 3
	withdrawing := plain
	withdrawing.Withdrawn = []digest.SHA256{image("3")}
	all := func(change ...func(*retention.Release)) []retention.Release {
		return []retention.Release{published(1), published(2, change...), published(3)}
	}
	for name, test := range map[string]struct {
		policy   artifacts.Policy
		releases []retention.Release
		devices  []fleet.Device
		recent   int
		want     string
	}{
		"the newest alone, without devices":           {plain, all(), nil, 0, "3:newest:0"},
		"a held one":                                  {plain, all(held), nil, 0, "2:held:0 3:newest:0"},
		"a held newest, and the one before":           {plain, []retention.Release{published(1), published(2), published(3, held)}, nil, 0, "2:newest:0 3:held:0"},
		"a staged one":                                {plain, []retention.Release{published(1), published(2), published(3, staged)}, nil, 0, "2:newest:0 3:staged:0"},
		"not a pruned one":                            {plain, []retention.Release{published(1), published(2), published(3, pruned)}, nil, 0, "2:newest:0"},
		"a recovery release that is listed":           {listing, all(recovery), nil, 0, "2:recovery:0 3:newest:0"},
		"not a recovery release that is not":          {plain, all(recovery), nil, 0, "3:newest:0"},
		"an image that is listed for recovery":        {listing, all(), nil, 0, "2:recovery:0 3:newest:0"},
		"the newest of each hardware":                 {plain, []retention.Release{published(1, hardware("rev-b", "rev-a")), published(2, hardware("rev-a")), published(3)}, nil, 0, "1:newest:0 3:newest:0"},
		"the newest for lower tiers":                  {plain, []retention.Release{published(1), published(2), published(3, tier(2)), published(4, tier(3))}, nil, 0, "2:intermediate:0 3:intermediate:0 4:newest:0"},
		"not what was withdrawn":                      {withdrawing, all(), nil, 0, "2:newest:0"},
		"what is proven":                              {plain, all(), []fleet.Device{proven(3), proven(3)}, 0, "3:newest:0 3:proven:2"},
		"all that a slow device could get":            {plain, all(), []fleet.Device{proven(1)}, 0, "1:proven:1 2:may_be_offered:1 3:may_be_offered:1 3:newest:0"},
		"nothing below the offline minimum":           {minimum, all(), []fleet.Device{proven(3, func(d *fleet.Device) { d.Proven, d.HighCounter = "", 0 })}, 0, "3:may_be_offered:1 3:newest:0"},
		"what is proven below the offline minimum":    {minimum, all(), []fleet.Device{proven(2)}, 0, "2:proven:1 3:may_be_offered:1 3:newest:0"},
		"what is proven though it was withdrawn":      {withdrawing, all(), []fleet.Device{proven(3)}, 0, "2:newest:0 3:proven:1"},
		"what is offered":                             {plain, all(), []fleet.Device{proven(1, offered(2))}, 0, "1:proven:1 2:offered:1 3:may_be_offered:1 3:newest:0"},
		"what a closed offer may have left in a slot": {withdrawing, all(), []fleet.Device{proven(2, wasOffered(3))}, 0, "2:newest:0 2:proven:1 3:expected:1"},
		"nothing for other hardware":                  {plain, all(hardware("rev-b")), []fleet.Device{proven(1)}, 0, "1:proven:1 2:newest:0 3:may_be_offered:1 3:newest:0"},
		"nothing for retired devices":                 {plain, all(), []fleet.Device{proven(1, lifecycle(fleet.Retired))}, 0, "3:newest:0"},
		"all for pending devices":                     {plain, all(), []fleet.Device{proven(1, lifecycle(fleet.Pending))}, 0, "1:proven:1 2:may_be_offered:1 3:may_be_offered:1 3:newest:0"},
		"a device of hardware that nothing is for":    {plain, all(), []fleet.Device{proven(1, of("rev-z"))}, 0, "1:proven:1 3:newest:0"},
		"the recovery release that a device runs":     {plain, all(recovery), []fleet.Device{proven(2)}, 0, "2:proven:1 3:may_be_offered:1 3:newest:0"},
		"the newest ones":                             {plain, all(), nil, 2, "2:recent:0 3:newest:0 3:recent:0"},
		"a release that a kept one requires":          {plain, []retention.Release{published(1), published(2), published(3), published(4, requires(2))}, nil, 0, "3:intermediate:0 4:newest:0"},
		"a chain of them":                             {plain, []retention.Release{published(1), published(2), published(3, requires(2)), published(4, requires(3))}, nil, 0, "2:intermediate:0 3:intermediate:0 4:newest:0"},
		"not one that requires as much itself":        {plain, []retention.Release{published(2), published(3, requires(2)), published(4, requires(2))}, nil, 0, "2:intermediate:0 4:newest:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := retention.NewDecision(test.policy, test.releases)
			for _, device := range test.devices {
				d.Device(device)
			}
			d.KeepRecent(test.recent)
			if got := text(d.Needs()); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// Whatever a device could be offered next, under every hold that people may set, is kept.
func TestNothingThatRolloutWouldOfferIsUnneeded(t *testing.T) {
	t.Parallel()
	checkRollout(t)
}
