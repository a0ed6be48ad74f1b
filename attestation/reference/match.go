package reference

import (
	"fmt"
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
// matches. Only quoted decides. The log names the reason; whether it belongs to the quote is for the caller to check
// (replay against the quote, V-62). Values that name no PCR never match.
func (v Values) Match(log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	if len(v.PCRs) == 0 {
		return []Difference{{Detail: "the reference values name no PCR"}}
	}
	var out []Difference
	replayed := log.Replay()
	for _, p := range v.PCRs {
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
		out = append(out, d)
	}
	return out
}

// Match compares the quoted PCRs with b like Values.Match. A platform's own events are known by their total only, so
// the Difference lists what the log says was measured there. A Baseline without PCRs 0, 2, 3 and 7 never matches.
func (b Baseline) Match(log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	var out []Difference
	named := map[int]bool{}
	for _, p := range b.PCRs {
		named[p.Index] = true
		value, ok := quoted[p.Index]
		if !ok {
			out = append(out, notQuoted(p.Index, p.Value))
			continue
		}
		if value == p.Value {
			continue
		}
		out = append(out, Difference{
			PCR: p.Index, Expected: p.Value.String(), Seen: value.String(),
			Detail: fmt.Sprintf("PCR %d is not that of platform %s; measured there: %s",
				p.Index, b.Profile, summary(eventsOf(log, p.Index))),
		})
	}
	for _, index := range platformPCRs {
		if !named[index] {
			out = append(out, Difference{PCR: index, Detail: fmt.Sprintf("the platform baseline does not name PCR %d", index)})
		}
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
		parts = append(parts, fmt.Sprintf("event %d %s (sha256 %s)", e.Index, e.Explain(), e.Digest))
	}
	return strings.Join(parts, "; ")
}
