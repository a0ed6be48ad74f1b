package evidencetest

import (
	"bytes"
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// logStoryCases are well-formed logs that tell another story than the registers, or one that firmware does not tell.
func logStoryCases() []Case {
	mismatch, missing, odd := only(reason.EventlogMismatch), only(reason.EventlogMissing), only(reason.EventlogUnexplained)
	drop := func(index int) func(eventlog.Event) []eventlog.Event {
		return func(e eventlog.Event) []eventlog.Event { return unless(e.Index == index, e) }
	}
	separator := digest.Of(make([]byte, 4))
	cases := []Case{
		{ID: "N100", Name: "not sent", About: "the verifier does not have the log", Change: func(in *attestation.Input) { in.Log = nil }, Reasons: missing},
		{ID: "N100", Name: "another log", About: "the log at hand is not the one that the quote commits to, and leads to the same values", Change: func(in *attestation.Input) {
			in.Log = movedToEnd(NewScenario("device", Current).Log, 11).Bytes()
		}, Reasons: missing},
		{ID: "N101", Name: "header only", About: "a log without any event", Device: func(s *Scenario) { s.Log = NewLog() }, Reasons: mismatch},
		{ID: "N103", Name: "first event", About: "the first event is left out", Device: lying(drop(1)), Reasons: mismatch},
		{ID: "N103", Name: "middle event", About: "an event in the middle is left out", Device: lying(drop(12)), Reasons: mismatch},
		{ID: "N103", Name: "last event", About: "the last event is left out", Device: func(s *Scenario) {
			last := len(parsedLog(s.Log).Events) - 1
			s.Log = Rewrite(s.Log, drop(last))
		}, Reasons: mismatch, Note: "a test leaves each event of the genuine logs out in turn"},
		{ID: "N104", Name: "PCR 0 backwards", About: "the events of PCR 0 in another order", Device: func(s *Scenario) { s.Log = backwards(s.Log, 0) }, Reasons: mismatch},
		{ID: "N106", Name: "program to action", About: "programs are called actions", Device: lying(retyping(4, eventlog.TypeEFIApplication, eventlog.TypeEFIAction)), Reasons: mismatch},
		{ID: "N107", Name: "PCR 7 to EV_NO_ACTION", About: "the Secure Boot events are called comments", Device: lying(retyping(7, eventlog.TypeEFIVariableConfig, eventlog.TypeNoAction)), Reasons: mismatch},
		{ID: "N108", Name: "version to action", About: "the S-CRTM version is called POST code", Device: lying(retyping(0, eventlog.TypeSCRTMVersion, eventlog.TypePostCode)), Reasons: odd},
		{ID: "N109", Name: "variable swapped", About: "the log says Secure Boot on where the digest says off", Device: lying(func(e eventlog.Event) []eventlog.Event {
			if e.PCR == 7 && bytes.Contains(e.Data, UTF16("SecureBoot")[:20]) {
				e.Data = bytes.Clone(e.Data)
				e.Data[len(e.Data)-1] = 1
			}
			return []eventlog.Event{e}
		}), Reasons: mismatch},
		{ID: "N110", Name: "Secure Boot after the separator", About: "the operating system measures SecureBoot = 1 into PCR 7", Device: func(s *Scenario) {
			s.Policy.SecureBoot = true
			v := Variable("SecureBoot", []byte{1})
			more(7, eventlog.TypeEFIVariableConfig, digest.Of(v), v)(s)
		}, Reasons: mismatch},
		{ID: "N110", Name: "Secure Boot added to the log", About: "the log alone gets a SecureBoot = 1", Device: func(s *Scenario) {
			v := Variable("SecureBoot", []byte{1})
			s.Log.AddHashed(7, eventlog.TypeEFIVariableConfig, v)
		}, Reasons: mismatch},
		{ID: "N112", Name: "error separator retyped", About: "the firmware's error separator is called an action", Device: more(6, eventlog.TypeEFIAction, digest.Of(bytes.Repeat([]byte{0xff}, 4)), []byte("fine")), Reasons: mismatch},
		{ID: "N112", Name: "separator retyped", About: "the separator of PCR 4 is called something else", Device: lying(retyping(4, eventlog.TypeSeparator, eventlog.TypeIPL)), Reasons: mismatch},
		{ID: "N114", Name: "H-CRTM in the middle", About: "the H-CRTM event is not the first of PCR 0", Device: more(0, eventlog.TypeEFIHCRTM, digest.Of([]byte("HCRTM")), []byte("HCRTM")), Reasons: mismatch},
		{ID: "N115", Name: "ExitBootServices not logged", About: "the log lacks the events of ExitBootServices", Device: lying(func(e eventlog.Event) []eventlog.Event {
			return unless(e.PCR == 5 && e.Type == eventlog.TypeEFIAction, e)
		}), Reasons: mismatch, Note: "no workaround event is ever made up, so there is no quirk to name"},
		{ID: "N14", Name: "unknown type in PCR 5", About: "an event of a type that no specification lists", Device: more(5, 0x12345678, digest.Of([]byte("x")), []byte("x")), Reasons: odd},
		{ID: "N14", Name: "program of an unknown type", About: "programs get a type that no specification lists", Device: lying(retyping(4, eventlog.TypeEFIApplication, 0x12345678)), Reasons: odd},
		{ID: "N118", Name: "command line not logged", About: "the command line got init=/bin/sh and the log is silent", Device: func(s *Scenario) {
			s.Registers[12] = eventlog.Extend(digest.SHA256{}, digest.Of([]byte("init=/bin/sh")))
		}, Reasons: mismatch},
		{ID: "N102", Name: "PCR 8 extended without a log", About: "something was measured into PCR 8 and the log has no event for it", Device: func(s *Scenario) {
			s.Quoted = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13}
			s.Registers[8] = digest.Of([]byte("x"))
		}, Reasons: mismatch},
	}
	for _, pcr := range []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11} {
		cases = append(cases, Case{ID: "N102", Name: "PCR " + digits(pcr), About: "every event of PCR " + digits(pcr) + " is left out",
			Device: lying(func(e eventlog.Event) []eventlog.Event { return unless(e.PCR == pcr, e) }), Reasons: mismatch})
	}
	for _, pcr := range []int{0, 1, 4, 5, 6, 7} {
		cases = append(cases, Case{ID: "N111", Name: "PCR " + digits(pcr), About: "a second separator in PCR " + digits(pcr),
			Device: more(pcr, eventlog.TypeSeparator, separator, make([]byte, 4)), Reasons: mismatch})
	}
	for _, pcr := range []int{1, 5, 6} {
		cases = append(cases, Case{ID: "N111", Name: "no separator in PCR " + digits(pcr), About: "the firmware never ended PCR " + digits(pcr),
			Device: booting(func(e eventlog.Event) []eventlog.Event {
				if e.PCR == pcr && e.Type == eventlog.TypeSeparator {
					e.Type, e.Digest, e.Data = eventlog.TypeEFIAction, digest.Of([]byte("other")), []byte("other")
				}
				return []eventlog.Event{e}
			}), Reasons: odd})
	}
	for _, typ := range []uint32{eventlog.TypeIPL, eventlog.TypeEventTag, eventlog.TypePostCode} {
		name := eventlog.Event{Type: typ}.TypeName()
		cases = append(cases,
			Case{ID: "N106", Name: "program to " + name, About: "programs are logged as " + name, Device: lying(retyping(4, eventlog.TypeEFIApplication, typ)), Reasons: mismatch},
			Case{ID: "N107", Name: "PCR 7 to " + name, About: "the Secure Boot events are logged as " + name, Device: lying(retyping(7, eventlog.TypeEFIVariableConfig, typ)), Reasons: mismatch})
	}
	for _, size := range []uint16{0, 3, 65535} {
		cases = append(cases, Case{ID: "N16", Name: "node of " + digits(int(size)), About: "a device path node says that it has " + digits(int(size)) + " bytes",
			Device: lying(func(e eventlog.Event) []eventlog.Event {
				if e.Type == eventlog.TypeEFIApplication {
					e.Data = bytes.Clone(e.Data)
					binary.LittleEndian.PutUint16(e.Data[32+2:], size)
				}
				return []eventlog.Event{e}
			}), Reasons: mismatch})
	}
	return staged(StageState, cases)
}

func parsedLog(l *LogBuilder) eventlog.Log {
	log, err := eventlog.Parse(l.Bytes())
	must(err)
	return log
}

// backwards writes the events of one register in the opposite order.
func backwards(l *LogBuilder, pcr int) *LogBuilder {
	var events []eventlog.Event
	for _, e := range parsedLog(l).Events[1:] {
		if e.PCR == pcr {
			events = append(events, e)
		}
	}
	return Rewrite(l, func(e eventlog.Event) []eventlog.Event {
		if e.PCR != pcr {
			return []eventlog.Event{e}
		}
		last := events[len(events)-1]
		events = events[:len(events)-1]
		return []eventlog.Event{last}
	})
}

// movedToEnd writes the events of one register after all others.
func movedToEnd(l *LogBuilder, pcr int) *LogBuilder {
	out := Rewrite(l, func(e eventlog.Event) []eventlog.Event { return unless(e.PCR == pcr, e) })
	for _, e := range parsedLog(l).Events[1:] {
		if e.PCR == pcr {
			out.Add(e.PCR, e.Type, e.Digest, e.Data)
		}
	}
	return out
}
