package reference

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Difference is one PCR that does not hold what it should, traced to the first event that tells why.
type Difference struct {
	PCR            int
	Event          *int // index in the event log; nil when no single event can be named
	Expected, Seen string
	Detail         string // one sentence in plain words
}

// Match compares the quoted PCRs with v and returns a Difference per PCR that is not as expected; none means that v
// matches. Only quoted decides, except that a Shape is believed only with the state of Secure Boot that the log tells.
// The log names the reason; whether it belongs to the quote is for the caller to check (replay against the quote, V-62).
// Values that name no PCR never match. Of several Shapes one must match as a whole; if none does, the Differences are
// those of the nearest.
func (v Values) Match(log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	if len(v.PCRs) == 0 {
		return []Difference{{Detail: "the reference values name no PCR"}}
	}
	if len(v.Shapes) == 0 { // version 1, or a Chain: one way to boot, whatever the state of Secure Boot
		if v.count(nil, quoted) == 0 {
			return nil
		}
		return explainAll(v.PCRs, "", log, quoted)
	}
	on, known := log.SecureBoot()
	on = on && known
	nearest, fewest := 0, -1
	for i := range v.Shapes {
		n := v.count(&v.Shapes[i], quoted)
		if v.Shapes[i].SecureBoot != on {
			n += wrongState
		}
		if n == 0 {
			return nil
		}
		if fewest < 0 || n < fewest {
			nearest, fewest = i, n
		}
	}
	s := v.Shapes[nearest]
	out := explainAll(v.with(s), s.What, log, quoted)
	if s.SecureBoot != on {
		out = append(out, Difference{PCR: pcrSecureBoot, Expected: "Secure Boot " + onOff(s.SecureBoot), Seen: "Secure Boot " + onOff(on),
			Detail: fmt.Sprintf("the release is %s, and the log tells that Secure Boot is %s", s.What, onOff(on))})
	}
	return out
}

// wrongState counts as more differences than there are PCRs: a Shape with the right state of Secure Boot is nearer.
const wrongState = eventlog.MaxPCR + 2

// count returns how many quoted registers are not those of the shape; nil is PCRs as they stand.
func (v Values) count(s *Shape, quoted map[int]digest.SHA256) int {
	n := 0
	for i := range v.PCRs {
		p := &v.PCRs[i]
		if s != nil {
			if j := slices.IndexFunc(s.PCRs, func(q PCR) bool { return q.Index == p.Index }); j >= 0 {
				p = &s.PCRs[j]
			}
		}
		if value, ok := quoted[p.Index]; !ok || value != p.Value {
			n++
		}
	}
	return n
}

// Seen returns v with the registers of the one Shape that log tells of: its state of Secure Boot, and the first program
// that the firmware started. Without such a Shape it is the first one of that state; Values without Shapes stay as they
// are.
func (v Values) Seen(log eventlog.Log) Values {
	if len(v.Shapes) == 0 {
		return v
	}
	on, known := log.SecureBoot()
	started := eventsOf(log, pcrPrograms)
	best, found := 0, false
	for i, s := range v.Shapes {
		if s.SecureBoot != (on && known) {
			continue
		}
		if !found {
			best, found = i, true
		}
		if len(started) > loaderEvent && v.starts(s, started[loaderEvent].Digest) {
			best = i
			break
		}
	}
	v.PCRs, v.Shapes = v.with(v.Shapes[best]), nil
	return v
}

// with puts the registers of a Shape in the place of those that it changes.
func (v Values) with(s Shape) []PCR {
	out := slices.Clone(v.PCRs)
	for _, p := range s.PCRs {
		if i := slices.IndexFunc(out, func(q PCR) bool { return q.Index == p.Index }); i >= 0 {
			out[i] = p
		}
	}
	return out
}

// pcrSecureBoot is where the firmware measures the state of Secure Boot.
const pcrSecureBoot = 7

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// explainAll lists the differences; shape names the Shape that pcrs are of, if there are several.
func explainAll(pcrs []PCR, shape string, log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	var out []Difference
	replayed := log.Replay()
	for _, p := range pcrs {
		value, ok := quoted[p.Index]
		if !ok {
			out = append(out, notQuoted(p.Index, p.Value))
			continue
		}
		if value == p.Value {
			continue
		}
		d := p.explain(eventsOf(log, p.Index), value)
		if end, ok := replayed[p.Index]; ok && end != value {
			d.Detail += "; besides, the log does not lead to the quoted value"
		}
		if shape != "" {
			d.Detail += " (nearest: " + shape + ")"
		}
		out = append(out, d)
	}
	return out
}

// explain finds the first event of the log that is not the expected one.
func (p PCR) explain(events []eventlog.Event, value digest.SHA256) Difference {
	d := Difference{PCR: p.Index, Expected: p.Value.String(), Seen: value.String()}
	if len(events) == 0 && len(p.Events) > 0 {
		d.Detail = fmt.Sprintf("PCR %d differs, and the log has no event for it; expected first is sha256 %s (%s)",
			p.Index, p.Events[0].Digest, p.Events[0].What)
		return d
	}
	for i, e := range events {
		if i == len(p.Events) {
			d.Event, d.Expected, d.Seen = &e.Index, "no further measurement", e.Digest.String()
			d.Detail = fmt.Sprintf("event %d in PCR %d: %s; nothing is expected here, seen sha256 %s",
				e.Index, p.Index, e.Explain(), e.Digest)
			return d
		}
		if want := p.Events[i]; e.Digest != want.Digest {
			d.Event, d.Expected, d.Seen = &e.Index, want.Digest.String(), e.Digest.String()
			d.Detail = fmt.Sprintf("event %d in PCR %d: %s; expected sha256 %s (%s), seen sha256 %s",
				e.Index, p.Index, e.Explain(), want.Digest, want.What, e.Digest)
			return d
		}
	}
	if len(events) < len(p.Events) {
		want := p.Events[len(events)]
		d.Expected, d.Seen = want.Digest.String(), "no further measurement"
		d.Detail = fmt.Sprintf("PCR %d lacks a measurement after event %d: expected sha256 %s (%s)",
			p.Index, events[len(events)-1].Index, want.Digest, want.What)
		return d
	}
	d.Detail = fmt.Sprintf("PCR %d holds something else than the log says: the log lists what is expected", p.Index)
	return d
}

// eventsOf lists the events that were extended into one PCR.
func eventsOf(log eventlog.Log, pcr int) []eventlog.Event {
	var out []eventlog.Event
	for _, e := range log.Events {
		if e.PCR == pcr && e.Extends() {
			out = append(out, e)
		}
	}
	return out
}

func notQuoted(pcr int, want digest.SHA256) Difference {
	return Difference{PCR: pcr, Expected: want.String(), Seen: "not quoted",
		Detail: fmt.Sprintf("PCR %d is not in the quote", pcr)}
}

// maxSummary bounds how many events one Difference lists.
const maxSummary = 12

// summary names events in one line.
func summary(events []eventlog.Event) string {
	if len(events) == 0 {
		return "nothing, says the log"
	}
	var parts []string
	for i, e := range events {
		if i == maxSummary {
			parts = append(parts, fmt.Sprintf("and %d more", len(events)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("event %d %s", e.Index, e.Explain()))
	}
	return strings.Join(parts, "; ")
}
