package retention

import (
	"cmp"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/rollout"
)

// Why is one reason to keep the images of a release.
type Why string

// The reasons. A release that has one is never pruned.
const (
	Staged       Why = "staged"         // waits for approvals
	Held         Why = "held"           // somebody stopped it and may let it go on
	Recovery     Why = "recovery"       // the offline policy lists an image of it for recovery
	Newest       Why = "newest"         // for a hardware id
	Intermediate Why = "intermediate"   // the newest for a device of a lower tier, or for one that has proven too little for a newer one
	Offered      Why = "offered"        // to a device
	Proven       Why = "proven"         // the last proof of a device
	Expected     Why = "expected"       // a device may have installed it from an offer that is closed
	MayBeOffered Why = "may_be_offered" // it fits a device, and is not older than what the device has proven
	Recent       Why = "recent"         // among the newest that the configuration keeps; for automatic pruning only
)

// Need is a reason to keep a release, and for how many devices; 0 where no device is the reason.
type Need struct {
	Why     Why
	Devices int
}

// Release is a release of the product as the decision sees it.
type Release struct {
	Name      string
	Release   artifacts.Release
	Published bool // else staged
	Hold      bool
	Pruned    bool
}

// Decision collects who needs which release of one product. It is pure: the devices are shown to it one by one.
type Decision struct {
	policy   artifacts.Policy
	releases []Release // highest counter first
	needs    map[string][]Need
}

// NewDecision begins a decision with what is needed whatever devices there are: the next one may come from a shelf.
func NewDecision(policy artifacts.Policy, releases []Release) *Decision {
	d := &Decision{policy: policy, releases: slices.Clone(releases), needs: map[string][]Need{}}
	slices.SortFunc(d.releases, func(a, b Release) int {
		return cmp.Or(cmp.Compare(b.Release.Counter, a.Release.Counter), cmp.Compare(a.Name, b.Name))
	})
	for _, r := range d.releases {
		if !r.Published {
			d.add(r.Name, Staged, 0)
		}
		if r.Hold {
			d.add(r.Name, Held, 0)
		}
		if d.listed(r.Release) {
			d.add(r.Name, Recovery, 0)
		}
	}
	d.newest()
	return d
}

func (d *Decision) add(name string, why Why, devices int) {
	needs := d.needs[name]
	if i := slices.IndexFunc(needs, func(n Need) bool { return n.Why == why }); i >= 0 {
		needs[i].Devices += devices
		return
	}
	d.needs[name] = append(needs, Need{Why: why, Devices: devices})
}

func (d *Decision) listed(r artifacts.Release) bool {
	return slices.ContainsFunc(r.Components, func(c artifacts.Component) bool { return slices.Contains(d.policy.Recovery, c.SHA256) })
}

// open reports whether the release could be offered to some device at all.
func (d *Decision) open(r Release) bool {
	return r.Published && !r.Pruned && !r.Release.Recovery && len(artifacts.CheckRelease(d.policy, r.Release)) == 0
}

// newest keeps what a device would be offered, whatever its hardware, its tier and what it has proven: a release goes only
// if a newer one is for the same hardware, asks for no higher tier and requires no later release to be proven before. So
// an update that goes step by step stays possible.
func (d *Decision) newest() {
	front := map[string][]Release{} // by hardware id
	for _, r := range d.releases {
		if !d.open(r) || r.Hold {
			continue
		}
		for _, hardware := range hardwareOf(r.Release) {
			why := Intermediate
			if len(front[hardware]) == 0 {
				why = Newest
			}
			if !slices.ContainsFunc(front[hardware], func(newer Release) bool { return d.replaces(newer, r) }) {
				front[hardware] = append(front[hardware], r)
				d.add(r.Name, why, 0)
			}
		}
	}
}

func (d *Decision) replaces(newer, r Release) bool {
	return newer.Release.Requires <= r.Release.Requires && artifacts.EffectiveTier(d.policy, newer.Release) <= artifacts.EffectiveTier(d.policy, r.Release)
}

func hardwareOf(r artifacts.Release) []string {
	var out []string
	for _, c := range r.Components {
		out = append(out, c.HardwareIDs...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Device shows one device of the product to the decision. A retired one needs nothing.
func (d *Decision) Device(device fleet.Device) {
	if device.Lifecycle == fleet.Retired {
		return
	}
	for _, r := range d.releases {
		switch {
		case r.Name == device.Offered:
			d.add(r.Name, Offered, 1)
		case r.Name == device.Proven:
			d.add(r.Name, Proven, 1)
		case r.Release.Recovery:
		case device.MayBoot(r.Release.Counter):
			d.add(r.Name, Expected, 1)
		case r.Release.Counter >= device.HighCounter && d.open(r) && len(rollout.Components(device, r.Release)) > 0:
			d.add(r.Name, MayBeOffered, 1)
		}
	}
}

// KeepRecent keeps the n newest published releases, recovery releases not counted.
func (d *Decision) KeepRecent(n int) {
	for _, r := range d.releases {
		if n <= 0 {
			return
		}
		if r.Published && !r.Pruned && !r.Release.Recovery {
			d.add(r.Name, Recent, 0)
			n--
		}
	}
}

// Needs returns why releases are kept, by name. A release without an entry may be pruned. It is called after the last
// device.
func (d *Decision) Needs() map[string][]Need { return d.needs }
