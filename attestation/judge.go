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
	return slices.DeleteFunc(slices.Clone(pcrs), func(p PCR) bool { return !bootPCR(p.Index) })
}

// judge is the second stage of Appraise: what did the device boot? It runs on authentic, fresh Evidence only, so its
// findings may quarantine. It returns the Expectation that matched, if one did.
func (a *appraisal) judge() *Expectation {
	a.checkSameBoot()
	if !a.readLog() || !a.checkClosure() {
		return nil // without a log that explains the PCRs nothing can be said about events
	}
	a.checkSecureBoot()
	a.checkRevoked()
	a.checkBaseline()
	return a.checkExpected()
}

// checkSameBoot checks that no boot PCR changed within one boot (V-48): a TPM that was reset behind the firmware's
// back, or a value that something extended after the fact.
func (a *appraisal) checkSameBoot() {
	last := a.in.Last
	if last == nil || !a.quote.Clock.SameBoot(last.Clock) {
		return
	}
	for _, before := range last.PCRs {
		now, ok := a.quoted[before.Index]
		if ok && bootPCR(before.Index) && now != before.Value {
			a.add(Finding{Reason: reason.PCRMismatch, Detail: fmt.Sprintf("PCR %d changed without a reboot", before.Index),
				Expected: before.Value.String(), Seen: now.String(), PCR: &before.Index})
		}
	}
}

// readLog sets log. The transcript commits to the log's digest, so bytes with that digest are what the device signed.
func (a *appraisal) readLog() bool {
	bytes, want := a.in.Log, a.in.Evidence.LogDigest
	switch {
	case bytes == nil:
		a.add(Finding{Reason: reason.EventlogMissing, Detail: "the event log is not known to the verifier", Expected: want.String()})
		return false
	case len(bytes) > MaxLogBytes:
		a.refuse(reason.RequestTooLarge, "the event log has %d bytes, at most %d", len(bytes), MaxLogBytes)
		return false
	}
	if seen := digest.Of(bytes); seen != want {
		a.add(Finding{Reason: reason.EventlogMissing, Detail: "the event log that is at hand is not the one that the quote commits to",
			Expected: want.String(), Seen: seen.String()})
		return false
	}
	log, err := eventlog.Parse(bytes)
	switch {
	case err == nil:
		a.log = log
		return true
	case errors.Is(err, eventlog.ErrTooLarge):
		a.refuse(reason.RequestTooLarge, "the event log is beyond the limits: %v", err)
	case errors.Is(err, eventlog.ErrFormat):
		a.refuse(reason.PCRBankWeak, "the event log has no SHA-256 digests: %v", err)
	default:
		a.refuse(reason.EventlogMismatch, "the event log cannot be parsed: %v", err)
	}
	return false
}

// checkClosure checks that the log explains every quoted PCR (V-62): a PCR with events has the replayed value, one
// without has its reset value. It also checks that events say what they hash (V-64), as far as the log's own rules
// tell.
func (a *appraisal) checkClosure() bool {
	before := len(a.findings)
	replayed := a.log.Replay()
	for pcr := range highestPCR + 1 {
		seen, ok := a.quoted[pcr]
		if !ok || !closedPCR(pcr) {
			continue
		}
		want, hasEvents := replayed[pcr]
		detail := fmt.Sprintf("the events of PCR %d do not lead to the quoted value", pcr)
		if !hasEvents {
			want = eventlog.ResetValue(pcr)
			detail = fmt.Sprintf("the log has no event for PCR %d, but something was measured into it", pcr)
		}
		if seen != want {
			a.add(Finding{Reason: reason.EventlogMismatch, Detail: detail, Expected: want.String(), Seen: seen.String(), PCR: &pcr})
		}
	}
	wrong := a.log.Disagreements()
	for _, e := range a.log.Events {
		if _, found := slices.BinarySearch(wrong, e.Index); !found || !a.proven(e) {
			continue
		}
		a.add(Finding{Reason: reason.EventlogMismatch, Detail: fmt.Sprintf("the data of event %d (%s) is not what was measured", e.Index, e.TypeName()),
			Expected: e.Digest.String(), Seen: digest.Of(e.Data).String(), PCR: &e.PCR, Event: &e.Index})
	}
	return len(a.findings) == before
}

// proven reports whether the quote vouches for e: it was extended into a quoted PCR that the log explains.
func (a *appraisal) proven(e eventlog.Event) bool {
	_, quoted := a.quoted[e.PCR]
	return quoted && closedPCR(e.PCR) && e.Extends()
}

func (a *appraisal) checkSecureBoot() {
	if !a.in.Policy.SecureBoot {
		return
	}
	pcr := secureBootPCR
	switch on, known := a.log.SecureBoot(); {
	case !known:
		a.add(Finding{Reason: reason.SecureBootOff, Detail: "the firmware did not measure that Secure Boot is on", Expected: "on", Seen: "unknown", PCR: &pcr})
	case !on:
		a.add(Finding{Reason: reason.SecureBootOff, Detail: "the device booted with Secure Boot off", Expected: "on", Seen: "off", PCR: &pcr})
	}
}

func (a *appraisal) checkRevoked() {
	if len(a.in.Policy.RevokedBoot) == 0 {
		return
	}
	for _, e := range a.log.Events {
		if a.proven(e) && slices.Contains(a.in.Policy.RevokedBoot, e.Digest) {
			a.add(Finding{Reason: reason.ComponentRevoked, Detail: "the device booted a component that was withdrawn: " + e.Explain(),
				Seen: e.Digest.String(), PCR: &e.PCR, Event: &e.Index})
		}
	}
}

func (a *appraisal) checkBaseline() {
	for _, d := range a.in.Baseline.Match(a.log, a.quoted) {
		a.difference(fmt.Sprintf("the firmware is not that of platform %q: ", a.in.Baseline.Profile), d)
	}
}

// checkExpected returns the first Expectation that matches. If none does, the findings are those of the one that is
// nearest; a match with a release that the device has left is a rollback and is said to be one.
func (a *appraisal) checkExpected() *Expectation {
	var nearest []reference.Difference
	var names []string
	var release string
	for i, e := range a.in.Expected {
		differences := e.Values.Match(a.log, a.quoted)
		if len(differences) == 0 {
			return &a.in.Expected[i]
		}
		if i == 0 || len(differences) < len(nearest) {
			nearest, release = differences, e.Release
		}
		names = append(names, e.Release)
	}
	for _, e := range a.in.Superseded {
		if len(e.Values.Match(a.log, a.quoted)) == 0 {
			a.add(Finding{Reason: reason.FirmwareRolledBack, Detail: fmt.Sprintf("the device booted release %s, which it had left", e.Release),
				Expected: strings.Join(names, ", "), Seen: e.Release})
			return nil
		}
	}
	for _, d := range nearest {
		a.difference(fmt.Sprintf("this is not release %s: ", release), d)
	}
	return nil
}

func (a *appraisal) difference(prefix string, d reference.Difference) {
	a.add(Finding{Reason: reason.PCRMismatch, Detail: prefix + d.Detail, Expected: d.Expected, Seen: d.Seen, PCR: &d.PCR, Event: d.Event})
}
