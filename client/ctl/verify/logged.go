package verify

import (
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

// The log fixes what a server wrote down when it happened. A server that wants to hide a verdict or a quarantine
// afterwards cannot take its event out, so it would leave it out of the lists of the report: both are compared here. It
// could also show fewer events than there are, at either end, which no proof of those that are left can notice.

// unsettled is how long before the report was made an event must lie to be held against its lists: what was committed while
// the report was being put together may be in one part of it and not in the other.
const unsettled = time.Minute

// logged checks that the report has the verdicts and quarantines that its own events tell about.
func (v *verification) logged() {
	if v.r.Coverage.Truncated {
		return // coverage says so
	}
	quarantines := map[string]bool{}
	for _, q := range v.r.Quarantines {
		quarantines[q.ID] = true
	}
	for _, e := range v.r.Events {
		if !v.inPeriod(e.At) || e.At.Add(unsettled).After(v.r.CreatedAt) {
			continue
		}
		switch e.Type {
		case "verdict.affirmed", "verdict.refused", "appraisal.repeated":
			v.loggedVerdict(e)
		case "quarantine.opened":
			if id := told(e).Quarantine; id != "" && !quarantines[id] {
				v.leftOut(e, "quarantine "+id)
			}
		}
	}
}

// loggedVerdict: an appraisal is named by its Evidence, so a server that drops the event log from the report could show
// another verdict on it.
func (v *verification) loggedVerdict(e api.Event) {
	data := told(e)
	var id digest.SHA256
	if err := id.UnmarshalText([]byte(data.Appraisal)); err != nil {
		return
	}
	number, there := v.ids[id]
	if !there {
		v.leftOut(e, "appraisal "+id.String())
		return
	}
	v.count()
	d := v.verdicts[number]
	wants := attestation.Refused
	if e.Type == "verdict.affirmed" || e.Type == "appraisal.repeated" && data.Outcome == attestation.Affirmed {
		wants = attestation.Affirmed
	}
	reasons := d.verdict.Reasons()
	if d.appraisal.Device != e.Subject || d.verdict.Outcome != wants || len(reasons) > 0 && len(data.Reasons) > 0 && !slices.Equal(reasons, data.Reasons) {
		v.fail("event %d (%s) of %s gives the reasons %v for appraisal %d, and the report says %s of %s with %v", e.Number, e.Type, e.Subject,
			data.Reasons, number, d.verdict.Outcome, d.appraisal.Device, reasons)
	}
}

// leftOut: a report of one product rightly leaves out the devices of others, and has no record of them.
func (v *verification) leftOut(e api.Event, what string) {
	v.count()
	record, there := v.records[e.Subject]
	switch {
	case v.r.Product == "" || there && record.Device.Product == v.r.Product:
		v.fail("event %d (%s) of %s tells about %s, which is not in the report", e.Number, e.Type, e.Subject, clip(what))
	case !there:
		v.believe("devices of other products: events tell about devices that are not in this report of product %q, and that they are not of it is the server's word", v.r.Product)
	}
}

// telling is what the data of an event can say about a verdict or a quarantine.
type telling struct {
	Appraisal  string              `json:"appraisal"`
	Quarantine string              `json:"quarantine"`
	Reasons    []reason.Reason     `json:"reasons"`
	Outcome    attestation.Outcome `json:"outcome"`
}

// told reads it; of other data nothing is left.
func told(e api.Event) telling {
	var t telling
	if json.Unmarshal(e.Data, &t) != nil {
		return telling{}
	}
	return t
}

// shown says which leaves of the log the report does not show: their times are not known.
func (v *verification) shown(cp tlog.Checkpoint) {
	const all = "'cordonctl log check --mirror DIR' copies all of them"
	if len(v.r.Events) == 0 {
		if cp.Size > 0 {
			v.believe("completeness: the report shows none of the %d events of the log; that none is of its period is the server's word; %s", cp.Size, all)
		}
		return
	}
	first, last := v.r.Events[0], v.r.Events[len(v.r.Events)-1]
	if first.Number > 1 || last.Number < int64(cp.Size) {
		v.believe("completeness: the report shows events %d to %d of the log's %d; that none before or behind them is of its period is the server's word; %s", first.Number, last.Number, cp.Size, all)
	}
}
