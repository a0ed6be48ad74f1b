package retention_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/rollout"
)

// checkRollout holds the decision against rollout.Next in many small fleets: every release that is offered to one of the
// devices, now or after any one hold, has a need; and a device that is new after the pruning is offered what it would have
// been offered before.
func checkRollout(t *testing.T) {
	t.Helper()
	w := repositorytest.Holding(t, repository.Keys{}, repositorytest.Noon)
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		policy := w.Policy("lamp")
		policy.MinimumCounter = rnd.Uint64N(3)
		releases := someReleases(rnd, &policy)
		d := retention.NewDecision(policy, releases)
		var devices []fleet.Device
		for range rnd.IntN(3) {
			device := someDevice(rnd)
			devices = append(devices, device)
			d.Device(device)
		}
		needs := d.Needs()
		for _, device := range devices {
			for held := -1; held < len(releases); held++ {
				got := rollout.Next(device, nil, policy, candidates(releases, held, nil))
				if got.Release != "" && len(needs[got.Release]) == 0 {
					t.Fatalf("seed %d: %s would be offered to %+v with release %d held, and nothing keeps it: %v", seed, got.Release, device, held, needs)
				}
			}
		}
		fresh := someDevice(rnd)
		before := rollout.Next(fresh, nil, policy, candidates(releases, -1, nil))
		after := rollout.Next(fresh, nil, policy, candidates(releases, -1, needs))
		if before.Release != after.Release {
			t.Fatalf("seed %d: a new device of %s, tier %d, counter %d would have got %q, and gets %q: %v",
				seed, fresh.HardwareID, fresh.Tier, fresh.HighCounter, before.Release, after.Release, needs)
		}
	}
}

func someReleases(rnd *rand.Rand, policy *artifacts.Policy) []retention.Release {
	var out []retention.Release
	for counter := uint64(1); counter <= 2+rnd.Uint64N(6); counter++ {
		r := published(counter, tier(rnd.IntN(3)), hardware([][]string{{"rev-a"}, {"rev-b"}, {"rev-a", "rev-b"}}[rnd.IntN(3)]...))
		if rnd.IntN(3) == 0 {
			r.Release.Requires = rnd.Uint64N(counter)
		}
		r.Hold = rnd.IntN(6) == 0
		if r.Release.Recovery = rnd.IntN(6) == 0; r.Release.Recovery && rnd.IntN(2) == 0 {
			policy.Recovery = append(policy.Recovery, r.Release.Components[0].SHA256)
		}
		if rnd.IntN(8) == 0 {
			policy.Withdrawn = append(policy.Withdrawn, digest.SHA256(r.Release.Components[0].SHA256))
		}
		out = append(out, r)
	}
	return out
}

func someDevice(rnd *rand.Rand) fleet.Device {
	counter := uint64(0)
	d := fleet.Device{Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Tier: rnd.IntN(3), Counter: &counter,
		HardwareID: []string{"rev-a", "rev-b"}[rnd.IntN(2)], HighCounter: rnd.Uint64N(5)}
	if d.HighCounter > 0 {
		d.Proven = fmt.Sprintf("lamp/%d", d.HighCounter)
	}
	return d
}

// candidates are the releases as rollout sees them, with one more on hold; with needs, those that are kept.
func candidates(releases []retention.Release, held int, needs map[string][]retention.Need) []rollout.Candidate {
	var out []rollout.Candidate
	for i, r := range releases {
		if needs == nil || len(needs[r.Name]) > 0 {
			out = append(out, rollout.Candidate{Name: r.Name, Release: r.Release, Hold: r.Hold || i == held})
		}
	}
	return out
}
