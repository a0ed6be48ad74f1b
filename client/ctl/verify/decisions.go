package verify

import (
	"bytes"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

// leaf is the stored form of an audit event.
type leaf struct {
	V       int            `json:"v"`
	N       int64          `json:"n"`
	At      string         `json:"at"`
	Type    string         `json:"type"`
	Actor   string         `json:"actor"`
	Subject string         `json:"subject"`
	Data    jsontext.Value `json:"data"`
}

const leafTime = "2006-01-02T15:04:05.000000Z"

// events checks that what is shown of each event is what its leaf says, and that no number is missing in between.
func (v *verification) events() {
	v.begin(StepEvents)
	number := int64(0)
	for _, e := range v.r.Events {
		v.count()
		switch {
		case number == 0 || e.Number == number+1:
		case e.Number <= number:
			v.fail("event %d follows %d", e.Number, number)
		default:
			v.fail("events %d to %d are missing", number+1, e.Number-1)
		}
		number = max(number, e.Number)
		if err := checkLeaf(e); err != nil {
			v.fail("event %d: %v", e.Number, err)
		}
	}
}

func checkLeaf(e api.Event) error {
	var l leaf
	if err := json.Unmarshal(e.Leaf, &l, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("its stored bytes are not an event: %w", err)
	}
	shown := e.Data
	if len(shown) == 0 {
		shown = jsontext.Value(`{}`) // a report leaves empty data out
	}
	switch {
	case l.V != 1:
		return fmt.Errorf("its stored bytes are of version %d", l.V)
	case l.N != e.Number, l.At != e.At.UTC().Format(leafTime), l.Type != e.Type, l.Actor != e.Actor, l.Subject != e.Subject, !bytes.Equal(l.Data, shown):
		return fmt.Errorf("it is shown otherwise than its stored bytes say: %s", e.Leaf)
	}
	return nil
}

// decisions checks that what was done follows from what was proven.
func (v *verification) decisions() {
	v.begin(StepDecisions)
	for _, q := range v.r.Quarantines {
		v.count()
		for _, err := range v.quarantine(q) {
			v.fail("quarantine %s of %s: %v", q.ID, q.Device, err)
		}
	}
	for _, u := range v.r.Updates {
		v.count()
		if err := v.update(u); err != nil {
			v.fail("update of %s to %s: %v", u.Device, u.To, err)
		}
	}
	for _, p := range v.r.Appraisals {
		d, ok := v.verdicts[p.Number]
		if !ok || !v.inPeriod(p.At) || v.followed(d) {
			continue
		}
		if !p.Repeats.IsZero() {
			v.believe("silent devices: stored Evidence of %s proves a wrong state by a newer policy, and its lease had ended by then, so it was restricted and not quarantined; the lease is the server's word", p.Device)
			continue
		}
		if v.r.Coverage.Truncated {
			v.cannot("appraisal %d proves a wrong state of %s, and its quarantine may have been cut from the report", p.Number, p.Device)
		} else {
			v.fail("appraisal %d proves a wrong state of %s, and no quarantine followed", p.Number, p.Device)
		}
	}
	v.logged()
	v.coverage()
}

const approvalsToLoosen = 2

func (v *verification) quarantine(q api.Quarantine) []error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if q.By == "verifier" {
		if err := v.cites(q.Device, q.Evidence, attestation.Refused); err != nil {
			errs = append(errs, err)
		}
	} else if q.By == "" {
		say("neither a verdict nor a person is behind it")
	}
	if q.EndedAt == nil {
		return errs
	}
	if q.RecoveredAt == nil || q.RecoveredAt.Before(q.Since) || q.EndedAt.Before(*q.RecoveredAt) {
		say("it ended without a fresh proof of the device before")
	}
	people := map[string]bool{}
	for _, a := range q.Approvals {
		if a.Person != q.By {
			people[a.Person] = true
		}
	}
	if len(people) < approvalsToLoosen {
		say("%d people let it end, it takes %d besides the one who asked for it", len(people), approvalsToLoosen)
	}
	return errs
}

// cites checks that the report has the appraisal, of that device, with that outcome.
func (v *verification) cites(device string, id digest.SHA256, want attestation.Outcome) error {
	number, ok := v.ids[id]
	if !ok {
		if v.r.Coverage.Truncated {
			v.cannot("appraisal %s of %s, which a decision cites, was cut from the report", id, device)
			return nil
		}
		return fmt.Errorf("it cites appraisal %s, which was not reached again from the report", id)
	}
	d := v.verdicts[number]
	if d.appraisal.Device != device || d.verdict.Outcome != want {
		return fmt.Errorf("it cites appraisal %d, which is of %s and says %s", number, d.appraisal.Device, d.verdict.Outcome)
	}
	if want == attestation.Refused {
		if effect, _ := reason.Strongest(d.verdict.Reasons()); effect != reason.Quarantine {
			return fmt.Errorf("it cites appraisal %d, whose reasons %v do not quarantine", number, d.verdict.Reasons())
		}
	}
	return nil
}

func (v *verification) update(u api.UpdateRecord) error {
	if u.Result != "proven" {
		return nil
	}
	if u.ProvenAt == nil {
		return fmt.Errorf("it is called proven and has no time")
	}
	if err := v.cites(u.Device, u.Evidence, attestation.Affirmed); err != nil {
		return err
	}
	if number, ok := v.ids[u.Evidence]; ok && v.verdicts[number].verdict.Release != u.To {
		return fmt.Errorf("it cites appraisal %d, which proves %s", number, v.verdicts[number].verdict.Release)
	}
	return nil
}

// followed reports whether a verdict that demands a quarantine led to one, or found the device in one.
func (v *verification) followed(d decided) bool {
	effect, _ := reason.Strongest(d.verdict.Reasons())
	if d.verdict.Outcome != attestation.Refused || effect != reason.Quarantine {
		return true
	}
	for _, q := range v.r.Quarantines {
		started := !q.Since.After(d.appraisal.At.Add(time.Microsecond))
		open := q.EndedAt == nil || !q.EndedAt.Before(d.appraisal.At)
		if q.Device == d.appraisal.Device && started && open {
			return true
		}
	}
	return v.records[d.appraisal.Device].Device.Lifecycle == "retired"
}

// coverage counts again. What a limit cut is not there to be counted.
func (v *verification) coverage() {
	v.count()
	if v.r.Coverage.Truncated {
		v.cannot("the report was cut at its limits: what is in it was checked, its coverage was not; ask for shorter periods or one product")
		return
	}
	affirmed := map[string]bool{}
	for _, d := range v.verdicts {
		if d.verdict.Outcome == attestation.Affirmed && v.inPeriod(d.appraisal.At) && d.appraisal.Repeats.IsZero() {
			affirmed[d.appraisal.Device] = true
		}
	}
	var got api.Coverage
	excluded := map[string]reason.Reason{}
	for _, record := range v.r.Devices {
		d := record.Device
		switch {
		case v.r.Product != "" && d.Product != v.r.Product:
		case d.Lifecycle == "pending":
			excluded[d.ID] = reason.DevicePending
		case d.Lifecycle == "retired":
			excluded[d.ID] = reason.DeviceRetired
		case affirmed[d.ID]:
			got.InScope, got.Proven = got.InScope+1, got.Proven+1
		case d.ProvenAt != nil:
			got.InScope, got.Stale = got.InScope+1, got.Stale+1
		default:
			got.InScope, got.Never = got.InScope+1, got.Never+1
		}
	}
	c := v.r.Coverage
	if c.InScope != got.InScope || c.Proven != got.Proven || c.Stale != got.Stale || c.Never != got.Never {
		v.fail("coverage says %d in scope, %d proven, %d stale, %d never; counted are %d, %d, %d, %d",
			c.InScope, c.Proven, c.Stale, c.Never, got.InScope, got.Proven, got.Stale, got.Never)
	}
	for _, e := range c.Excluded {
		if excluded[e.Device] != e.Reason {
			v.fail("coverage excludes %s as %s, its record says otherwise", e.Device, e.Reason)
		}
		delete(excluded, e.Device)
	}
	if len(excluded) > 0 {
		v.fail("coverage does not mention %d devices that it leaves out", len(excluded))
	}
}
