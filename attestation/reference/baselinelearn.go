package reference

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Observation is what one device of a platform proved about its firmware: authentic values of the platform's PCRs, and
// the log that leads to them.
type Observation struct {
	Device string
	Quoted map[int]digest.SHA256
	Log    eventlog.Log
}

// Learned is what the devices of a platform agree about.
type Learned struct {
	PCRs     []LearnedPCR  `json:"pcrs"`     // how the devices divide, PCR by PCR
	Agreeing []string      `json:"agreeing"` // the largest group whose platform PCRs are all equal, sorted
	Others   []Disagreeing `json:"others,omitempty"`
	Values   []Platform    `json:"values,omitempty"`   // of the Agreeing; empty when Refusals is not
	Refusals []string      `json:"refusals,omitempty"` // why nothing was learned, in plain words
}

// LearnedPCR lists the values of one PCR, the most frequent first.
type LearnedPCR struct {
	Index  int     `json:"index"`
	Groups []Group `json:"groups"`
}

// Group is the devices that quoted one value.
type Group struct {
	Value   digest.SHA256 `json:"sha256"`
	Devices []string      `json:"devices"` // sorted
}

// Disagreeing is a device outside the largest group, and what its firmware measured otherwise.
type Disagreeing struct {
	Device string   `json:"device"`
	Detail []string `json:"detail"` // one sentence per difference
}

// maxEventDifferences bounds how many events are told per PCR.
const maxEventDifferences = 6

// Learn finds what the devices agree about. It refuses when fewer than need devices agree, and when any device differs:
// who differs is looked at and left out by name, never outvoted, because one compromised device must neither become the
// norm nor go unseen beside it. The order of the observations does not matter.
func Learn(observations []Observation, need int) Learned {
	all := slices.Clone(observations)
	slices.SortFunc(all, func(a, b Observation) int { return strings.Compare(a.Device, b.Device) })
	out := Learned{PCRs: []LearnedPCR{}, Agreeing: []string{}}
	for i, o := range all {
		if i > 0 && all[i-1].Device == o.Device {
			out.Refusals = append(out.Refusals, fmt.Sprintf("device %s is there twice", o.Device))
		}
		if missing := missingPCRs(o); missing != "" {
			out.Refusals = append(out.Refusals, fmt.Sprintf("device %s did not quote %s", o.Device, missing))
		}
	}
	if len(out.Refusals) > 0 {
		return out
	}
	out.PCRs = divide(all)
	norm, rest := largest(all)
	for _, o := range norm {
		out.Agreeing = append(out.Agreeing, o.Device)
	}
	for _, o := range rest {
		out.Others = append(out.Others, Disagreeing{Device: o.Device, Detail: differ(norm[0], o)})
	}
	if len(norm) < need || need < 1 {
		out.Refusals = append(out.Refusals, fmt.Sprintf("%d devices agree, and %d are asked for", len(norm), max(need, 1)))
	}
	for _, o := range out.Others {
		out.Refusals = append(out.Refusals, fmt.Sprintf("device %s differs from the %d that agree: look at it, and leave it out by name if it is not to count", o.Device, len(norm)))
	}
	if len(out.Refusals) == 0 {
		out.Values = PlatformOf(norm[0].Quoted)
	}
	return out
}

func missingPCRs(o Observation) string {
	var out []string
	for _, index := range platformPCRs {
		if v, ok := o.Quoted[index]; !ok || v.IsZero() {
			out = append(out, fmt.Sprintf("PCR %d", index))
		}
	}
	return strings.Join(out, ", ")
}

// divide groups the devices by each PCR alone.
func divide(all []Observation) []LearnedPCR {
	var out []LearnedPCR
	for _, index := range platformPCRs {
		devices := map[digest.SHA256][]string{}
		for _, o := range all {
			devices[o.Quoted[index]] = append(devices[o.Quoted[index]], o.Device)
		}
		p := LearnedPCR{Index: index, Groups: []Group{}}
		for _, value := range slices.SortedFunc(maps.Keys(devices), func(a, b digest.SHA256) int { return strings.Compare(a.String(), b.String()) }) {
			p.Groups = append(p.Groups, Group{Value: value, Devices: devices[value]})
		}
		slices.SortStableFunc(p.Groups, func(a, b Group) int { return len(b.Devices) - len(a.Devices) })
		out = append(out, p)
	}
	return out
}

// largest splits off the largest group whose platform PCRs are all equal; of groups of the same size, the one with the
// first device by name.
func largest(all []Observation) (norm, rest []Observation) {
	groups := map[string][]Observation{}
	var order []string
	for _, o := range all {
		key := fmt.Sprint(PlatformOf(o.Quoted))
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], o)
	}
	best := ""
	for i, key := range order {
		if i == 0 || len(groups[key]) > len(groups[best]) {
			best = key
		}
	}
	for _, o := range all {
		if fmt.Sprint(PlatformOf(o.Quoted)) != best {
			rest = append(rest, o)
		}
	}
	return groups[best], rest
}

// differ says in plain words where the firmware of b measured something else than that of a.
func differ(a, b Observation) []string {
	var out []string
	for _, index := range platformPCRs {
		if a.Quoted[index] == b.Quoted[index] {
			continue
		}
		lines := DiffEvents(a.Log, b.Log, index)
		if len(lines) == 0 {
			lines = []string{fmt.Sprintf("PCR %d: the same events in another order, or begun in another locality", index)}
		}
		out = append(out, lines...)
	}
	return out
}

// DiffEvents says in plain words which events of one PCR only one of two logs has.
func DiffEvents(from, to eventlog.Log, pcr int) []string {
	var out []string
	tell := func(verb string, events []eventlog.Event) {
		for i, e := range events {
			if i == maxEventDifferences {
				out = append(out, fmt.Sprintf("PCR %d: and %d more", pcr, len(events)-i))
				return
			}
			out = append(out, fmt.Sprintf("PCR %d: %s event %d, %s (sha256 %s)", pcr, verb, e.Index, e.Explain(), e.Digest))
		}
	}
	have, want := eventsOf(to, pcr), eventsOf(from, pcr)
	tell("it lacks the others'", without(want, have))
	tell("only it has", without(have, want))
	return out
}

// without lists the events of a that b does not have as often.
func without(a, b []eventlog.Event) []eventlog.Event {
	left := map[digest.SHA256]int{}
	for _, e := range b {
		left[e.Digest]++
	}
	var out []eventlog.Event
	for _, e := range a {
		if left[e.Digest] > 0 {
			left[e.Digest]--
			continue
		}
		out = append(out, e)
	}
	return out
}
