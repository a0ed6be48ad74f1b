package attestation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

const (
	lastFirmwarePCR = 7
	secureBootPCR   = 7
	imaPCR          = 10 // extended while the system runs
	lastStaticPCR   = 15 // the registers above it can be reset by software
)

// bootPCR reports whether pcr is filled while the machine boots and is constant afterwards.
func bootPCR(pcr int) bool { return pcr >= 0 && pcr <= 13 && pcr != imaPCR }

// closedPCR reports whether the firmware's log must explain pcr.
func closedPCR(pcr int) bool { return pcr >= 0 && pcr <= lastStaticPCR && pcr != imaPCR }

func bootPCRs(pcrs []PCR) []PCR {
	out := make([]PCR, 0, len(DefaultRequiredPCRs)+1)
	for _, p := range pcrs {
		if bootPCR(p.Index) {
			out = append(out, p)
		}
	}
	return out
}

// The rules of this file ask what the device booted. They run on authentic, fresh Evidence only, so their findings may
// quarantine.

// bootConstant is V-48: a TPM that was reset behind the firmware's back, or a value that something extended after the
// fact.
func (a *appraisal) bootConstant() bool {
	last := a.in.Last
	if last == nil || !a.quote.Clock.SameBoot(last.Clock) {
		return true
	}
	for _, before := range last.PCRs {
		i := slices.IndexFunc(a.in.Evidence.PCRs, func(p PCR) bool { return p.Index == before.Index })
		if i < 0 || !bootPCR(before.Index) || a.in.Evidence.PCRs[i].Value == before.Value {
			continue
		}
		pcr := before.Index
		a.add(Finding{Reason: reason.PCRMismatch, Detail: fmt.Sprintf("PCR %d changed without a reboot", pcr),
			Expected: before.Value.String(), Seen: a.in.Evidence.PCRs[i].Value.String(), PCR: &pcr})
	}
	return true
}

func (a *appraisal) logPresent() bool {
	if a.in.Log != nil {
		return true
	}
	a.add(Finding{Reason: reason.EventlogMissing, Detail: "the event log is not known to the verifier", Expected: a.in.Evidence.LogDigest.String()})
	return false
}

func (a *appraisal) logSize() bool {
	if len(a.in.Log) <= MaxLogBytes {
		return true
	}
	a.refuse(reason.RequestTooLarge, "the event log has %d bytes, at most %d", len(a.in.Log), MaxLogBytes)
	return false
}

// logDigest: the transcript commits to the log's digest, so bytes with that digest are what the device signed.
func (a *appraisal) logDigest() bool {
	want, seen := a.in.Evidence.LogDigest, digest.Of(a.in.Log)
	if seen == want {
		return true
	}
	a.add(Finding{Reason: reason.EventlogMissing, Detail: "the event log that is at hand is not the one that the quote commits to",
		Expected: want.String(), Seen: seen.String()})
	return false
}

func (a *appraisal) prepareLog() bool {
	a.log, a.logErr = eventlog.Parse(a.in.Log)
	reading := a.log.Read()
	a.reading = &reading
	a.quoted = make(map[int]digest.SHA256, len(a.in.Evidence.PCRs))
	for _, p := range a.in.Evidence.PCRs {
		a.quoted[p.Index] = p.Value
	}
	return true
}

// logForm is V-60 and V-61.
func (a *appraisal) logForm() bool {
	switch {
	case a.logErr == nil:
		return true
	case errors.Is(a.logErr, eventlog.ErrTooLarge):
		a.refuse(reason.RequestTooLarge, "the event log is beyond the limits: %v", a.logErr)
	case errors.Is(a.logErr, eventlog.ErrFormat):
		a.refuse(reason.PCRBankWeak, "the event log has no SHA-256 digests: %v", a.logErr)
	case errors.Is(a.logErr, eventlog.ErrNote):
		a.refuse(reason.EventlogUnexplained, "the event log cannot be judged: %v", a.logErr)
	default:
		a.refuse(reason.EventlogMismatch, "the event log cannot be parsed: %v", a.logErr)
	}
	return false
}

// logReplay is the first half of closure (V-62): a PCR with events has the replayed value.
func (a *appraisal) logReplay() bool {
	for _, p := range a.in.Evidence.PCRs {
		want, hasEvents := a.reading.Replayed.Value(p.Index)
		if hasEvents && closedPCR(p.Index) && p.Value != want {
			a.unexplained(p.Index, want, p.Value, "the events of PCR %d do not lead to the quoted value")
		}
	}
	return true
}

// logClosure is the other half: a PCR without events has its reset value.
func (a *appraisal) logClosure() bool {
	for _, p := range a.in.Evidence.PCRs {
		_, hasEvents := a.reading.Replayed.Value(p.Index)
		if want := eventlog.ResetValue(p.Index); !hasEvents && closedPCR(p.Index) && p.Value != want {
			a.unexplained(p.Index, want, p.Value, "the log has no event for PCR %d, but something was measured into it")
		}
	}
	return true
}

func (a *appraisal) unexplained(pcr int, want, seen digest.SHA256, detail string) {
	a.unclear = true
	a.add(Finding{Reason: reason.EventlogMismatch, Detail: fmt.Sprintf(detail, pcr), Expected: want.String(), Seen: seen.String(), PCR: &pcr})
}

// logGrammar refuses a log that contradicts itself or the specification (V-64, V-66, V-68). The TPM hashes neither types
// nor the order between registers, so such a log can lead to the quoted values.
func (a *appraisal) logGrammar() bool {
	for _, v := range a.reading.Violations {
		if a.vouched(v.PCR) {
			a.unclear = true
			a.departure(reason.EventlogMismatch, v)
		}
	}
	return true
}

// logProfile refuses a log that firmware of a PC Client does not write (V-65, V-66). It is no proof of an attack, so it
// holds and does not quarantine.
func (a *appraisal) logProfile() bool {
	for _, v := range a.reading.Departures {
		if a.vouched(v.PCR) {
			a.departure(reason.EventlogUnexplained, v)
		}
	}
	return true
}

func (a *appraisal) departure(r reason.Reason, v eventlog.Violation) {
	f := Finding{Reason: r, Detail: v.Rule + ": " + v.Detail, PCR: &v.PCR}
	if v.Event >= 0 && v.Event < len(a.log.Events) {
		f.Event, f.Seen = &v.Event, a.log.Events[v.Event].Digest.String()
	}
	a.add(f)
}

// onlyExplained ends the stage when the log does not explain the quote: nothing can be said about events then.
func (a *appraisal) onlyExplained() bool { return !a.unclear }

// proven reports whether the quote vouches for e: it was extended into a quoted PCR that the log explains.
func (a *appraisal) proven(e *eventlog.Event) bool {
	return a.vouched(e.PCR) && e.Extends()
}

// vouched reports whether the quote covers pcr and the log must explain it.
func (a *appraisal) vouched(pcr int) bool {
	_, quoted := a.quoted[pcr]
	return quoted && closedPCR(pcr)
}

func (a *appraisal) secureBoot() bool {
	if !a.in.Policy.SecureBoot {
		return true
	}
	pcr := secureBootPCR
	switch on, known := a.log.SecureBoot(); {
	case !known:
		a.add(Finding{Reason: reason.SecureBootOff, Detail: "the firmware did not measure that Secure Boot is on", Expected: "on", Seen: "unknown", PCR: &pcr})
	case !on:
		a.add(Finding{Reason: reason.SecureBootOff, Detail: "the device booted with Secure Boot off", Expected: "on", Seen: "off", PCR: &pcr})
	}
	return true
}

func (a *appraisal) revoked() bool {
	if len(a.in.Policy.RevokedBoot) == 0 {
		return true
	}
	for i := range a.log.Events {
		e := &a.log.Events[i]
		if slices.Contains(a.in.Policy.RevokedBoot, e.Digest) && a.proven(e) {
			a.add(Finding{Reason: reason.ComponentRevoked, Detail: "the device booted a component that was withdrawn: " + e.Explain(),
				Seen: e.Digest.String(), PCR: new(e.PCR), Event: new(e.Index)})
		}
	}
	return true
}

func (a *appraisal) baseline() bool {
	for _, d := range a.in.Baseline.Match(a.log, a.quoted) {
		a.difference(fmt.Sprintf("the firmware is not that of platform %q: ", a.in.Baseline.Profile), d)
	}
	return true
}

// prepareMatch finds the first Expectation that matches, or the one that is nearest.
func (a *appraisal) prepareMatch() bool {
	for i := range a.in.Expected {
		e := &a.in.Expected[i]
		differences := e.Values.Match(a.log, a.quoted)
		if len(differences) == 0 {
			a.matched, a.matchedAt = e, i
			return true
		}
		if i == 0 || len(differences) < len(a.nearest) {
			a.nearest, a.nearestTo = differences, e.Release
		}
	}
	return true
}

// rolledBack: a match with a release that the device has left is a rollback and is said to be one.
func (a *appraisal) rolledBack() bool {
	if a.matched != nil {
		return true
	}
	for _, e := range a.in.Superseded {
		if len(e.Values.Match(a.log, a.quoted)) > 0 {
			continue
		}
		var names []string
		for _, x := range a.in.Expected {
			names = append(names, x.Release)
		}
		a.add(Finding{Reason: reason.FirmwareRolledBack, Detail: fmt.Sprintf("the device booted release %s, which it had left", e.Release),
			Expected: strings.Join(names, ", "), Seen: e.Release})
		return false
	}
	return true
}

// expected names what differs from the nearest release; without a match nothing is affirmed, whatever is found.
func (a *appraisal) expected() bool {
	if a.matched != nil {
		return true
	}
	for _, d := range a.nearest {
		a.difference(fmt.Sprintf("this is not release %s: ", a.nearestTo), d)
	}
	return true
}

func (a *appraisal) difference(prefix string, d reference.Difference) {
	a.add(Finding{Reason: reason.PCRMismatch, Detail: prefix + d.Detail, Expected: d.Expected, Seen: d.Seen, PCR: &d.PCR, Event: d.Event})
}
