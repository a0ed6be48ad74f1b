// Package rollout decides which release a device may have now.
//
// It is pure: no clock, no I/O. It only chooses among releases that publishers signed and that are published; it cannot
// let anything else through, because the client checks all of it again.
package rollout

import (
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
)

// Candidate is a published release of the device's product.
type Candidate struct {
	Name    string // product/version
	Release artifacts.Release
	Hold    bool
}

// Decision is what the device may have. Beside a Release, the reasons say why it is not a newer one; without one, why
// there is none, and nothing fits and nothing is wrong when there are no reasons either.
type Decision struct {
	Release  string // product/version
	Recovery bool
	Reasons  []reason.Reason
	Details  []string // beside Reasons, for operators
}

// Next chooses the release for a device: the newest that fits, or the recovery release for a quarantined device.
// q is the open quarantine, nil if there is none. The order of candidates does not matter.
func Next(d fleet.Device, q *fleet.Quarantine, policy artifacts.Policy, candidates []Candidate) Decision {
	if d.Lifecycle == fleet.Pending {
		return refusal(reason.DevicePending, "nobody has claimed this TPM")
	}
	if d.Lifecycle != fleet.Active {
		return refusal(reason.DeviceRetired, "the device was retired")
	}
	if q != nil {
		return recovery(d, policy, candidates)
	}
	switch d.Standing {
	case fleet.Affirmed:
	case fleet.Stale:
		return refusal(reason.EvidenceOverdue, "the lease has ended and no fresh proof came")
	default:
		return refusal(reason.DeviceUnproven, "the device has not proven its boot state")
	}
	if d.Counter == nil {
		return refusal(reason.CounterMissing, "the release counter is gone from the device's TPM: it could not refuse an older release")
	}
	return newest(d, policy, candidates)
}

func newest(d fleet.Device, policy artifacts.Policy, candidates []Candidate) Decision {
	sorted := byCounter(candidates)
	var out Decision
	for _, c := range sorted {
		if c.Release.Recovery {
			continue
		}
		if c.Release.Counter < d.HighCounter {
			break // nothing below what the device has proven
		}
		why, detail := unfit(d, policy, c)
		if why == "" {
			out.Release = c.Name
			return out
		}
		out.add(why, detail)
	}
	return out
}

func recovery(d fleet.Device, policy artifacts.Policy, candidates []Candidate) Decision {
	out := refusal(reason.DeviceQuarantined, "only a recovery release is open to a quarantined device")
	for _, c := range byCounter(candidates) {
		if !c.Release.Recovery {
			continue
		}
		if why, detail := unfitRecovery(d, policy, c); why != "" {
			out.add(why, detail)
			continue
		}
		out.Release, out.Recovery = c.Name, true
		return out
	}
	return out
}

// Fits returns why the release is not for the device at all, whatever its standing; "" if it is.
func Fits(d fleet.Device, policy artifacts.Policy, c Candidate) reason.Reason {
	why, _ := unfit(d, policy, c)
	return why
}

// FitsRecovery is Fits for a recovery release: tier and intermediate releases do not matter.
func FitsRecovery(d fleet.Device, policy artifacts.Policy, c Candidate) reason.Reason {
	why, _ := unfitRecovery(d, policy, c)
	return why
}

// unfit returns the first reason why the candidate is not for the device, "" if it is.
func unfit(d fleet.Device, policy artifacts.Policy, c Candidate) (reason.Reason, string) {
	if c.Hold {
		return reason.ReleaseOnHold, c.Name + " is on hold"
	}
	if why, detail := general(d, policy, c); why != "" {
		return why, detail
	}
	if tier := artifacts.EffectiveTier(policy, c.Release); d.Tier < tier {
		return reason.TierTooLow, fmt.Sprintf("%s asks for tier %d, the device has tier %d", c.Name, tier, d.Tier)
	}
	if c.Release.Requires > d.HighCounter && c.Release.Counter != d.HighCounter {
		return reason.IntermediateRequired, fmt.Sprintf("%s requires counter %d, the device has proven %d", c.Name, c.Release.Requires, d.HighCounter)
	}
	return "", ""
}

func unfitRecovery(d fleet.Device, policy artifacts.Policy, c Candidate) (reason.Reason, string) {
	if c.Hold {
		return reason.ReleaseOnHold, c.Name + " is on hold"
	}
	return general(d, policy, c)
}

func general(d fleet.Device, policy artifacts.Policy, c Candidate) (reason.Reason, string) {
	for _, refused := range artifacts.CheckRelease(policy, c.Release) {
		return refused.Reason, c.Name + ": " + refused.Detail
	}
	if len(Components(d, c.Release)) == 0 {
		return reason.HardwareIncompatible, fmt.Sprintf("%s has no component for hardware %q", c.Name, d.HardwareID)
	}
	return "", ""
}

// Components returns those components of the release that are meant for the device's hardware.
func Components(d fleet.Device, r artifacts.Release) []artifacts.Component {
	var out []artifacts.Component
	for _, c := range r.Components {
		if slices.Contains(c.HardwareIDs, d.HardwareID) {
			out = append(out, c)
		}
	}
	return out
}

func byCounter(candidates []Candidate) []Candidate {
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b Candidate) int {
		switch {
		case a.Release.Counter > b.Release.Counter:
			return -1
		case a.Release.Counter < b.Release.Counter:
			return 1
		}
		return 0
	})
	return sorted
}

func refusal(r reason.Reason, detail string) Decision {
	return Decision{Reasons: []reason.Reason{r}, Details: []string{detail}}
}

func (d *Decision) add(r reason.Reason, detail string) {
	d.Details = append(d.Details, detail)
	if !slices.Contains(d.Reasons, r) {
		d.Reasons = append(d.Reasons, r)
	}
}
