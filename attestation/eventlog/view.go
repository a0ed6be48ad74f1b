package eventlog

import (
	"strconv"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// View is the JSON form of a log that `cordonctl eventlog --json` prints.
type View struct {
	Events []ViewEvent `json:"events"`
	PCRs   ViewPCRs    `json:"pcrs"`

	Violations []ViewFinding `json:"violations,omitempty"` // see Log.Violations
	Departures []ViewFinding `json:"departures,omitempty"` // see Log.Departures
}

// ViewFinding is one Violation of a View.
type ViewFinding struct {
	Rule   string `json:"rule"`
	PCR    int    `json:"pcr"`
	Event  *int   `json:"event,omitzero"` // absent when no single event can be named
	Detail string `json:"detail"`
}

// ViewEvent is one event of a View.
type ViewEvent struct {
	Index       int         `json:"index"`
	PCR         int         `json:"pcr"`
	Type        string      `json:"type"`
	Digests     ViewDigests `json:"digests"`
	Explanation string      `json:"explanation"`
}

// ViewDigests holds the digests of one event per bank.
type ViewDigests struct {
	SHA256 digest.SHA256 `json:"sha256"`
}

// ViewPCRs holds the replayed PCRs per bank.
type ViewPCRs struct {
	SHA256 Registers `json:"sha256"`
}

// Registers maps PCR index to value. It marshals in rising order of the index, always to the same bytes.
type Registers map[int]digest.SHA256

// MarshalJSON writes the object with its members in rising order; text is digits and hex only.
func (r Registers) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for pcr := range MaxPCR + 1 {
		value, ok := r[pcr]
		if !ok {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(append(out, '"'), int64(pcr), 10)
		out = append(out, `":"`+value.String()+`"`...)
	}
	return append(out, '}'), nil
}

func viewFindings(list []Violation) []ViewFinding {
	var out []ViewFinding
	for _, v := range list {
		f := ViewFinding{Rule: v.Rule, PCR: v.PCR, Detail: v.Detail}
		if v.Event >= 0 {
			f.Event = &v.Event
		}
		out = append(out, f)
	}
	return out
}

// NewView explains and replays l, and says where it breaks a rule.
func NewView(l Log) View {
	v := View{Events: make([]ViewEvent, 0, len(l.Events)), PCRs: ViewPCRs{SHA256: l.Replay()}}
	for _, e := range l.Events {
		v.Events = append(v.Events, ViewEvent{
			Index: e.Index, PCR: e.PCR, Type: e.TypeName(),
			Digests: ViewDigests{SHA256: e.Digest}, Explanation: e.Explain(),
		})
	}
	v.Violations, v.Departures = viewFindings(l.Violations()), viewFindings(l.Departures())
	return v
}
