package attestation_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// relog gives the device another log than the one that its registers come from, as an attacker does.
func relog(log *evidencetest.LogBuilder) func(*evidencetest.Scenario) {
	return func(s *evidencetest.Scenario) { s.Log = log }
}

// rewrite copies a log event by event; change returns what to write instead.
func rewrite(change func(eventlog.Event) []eventlog.Event) *evidencetest.LogBuilder {
	log, err := eventlog.Parse(scenario().Log.Bytes())
	if err != nil {
		panic(err)
	}
	out := evidencetest.NewLog()
	for _, e := range log.Events[1:] { // the first is the header
		for _, e := range change(e) {
			out.Add(e.PCR, e.Type, e.Digest, e.Data)
		}
	}
	return out
}

func strip(pcr int) *evidencetest.LogBuilder {
	return rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.PCR == pcr {
			return nil
		}
		return []eventlog.Event{e}
	})
}

func retype(pcr int, from, to uint32) *evidencetest.LogBuilder {
	return rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.PCR == pcr && e.Type == from {
			e.Type = to
		}
		return []eventlog.Event{e}
	})
}

// wrongStates are authentic, fresh Evidence that proves a wrong state or cannot be judged yet.
func wrongStates() []mutation {
	return slices.Concat(logMutations(), stateMutations())
}

func logMutations() []mutation {
	mismatch, missing := only(reason.EventlogMismatch), only(reason.EventlogMissing)
	out := []mutation{
		{name: "log not sent", in: func(in *attestation.Input) { in.Log = nil }, want: missing},
		{name: "another log", in: func(in *attestation.Input) { in.Log = append(bytes.Clone(in.Log), 0) }, want: missing},
		{name: "N100 empty", in: func(in *attestation.Input) { in.Log = []byte{} }, want: missing},
		{name: "N07 large", in: func(in *attestation.Input) { in.Log = make([]byte, attestation.MaxLogBytes+1) }, want: only(reason.RequestTooLarge)},
		{name: "N101 header only", device: relog(evidencetest.NewLog()), want: mismatch},
		{name: "N103 first event dropped", device: relog(dropOne(1)), want: mismatch},
		{name: "N103 middle event dropped", device: relog(dropOne(12)), want: mismatch},
		{name: "N104 reordered", device: relog(reversed(0)), want: mismatch},
		{name: "N107 PCR 7 to EV_NO_ACTION", device: relog(retype(7, eventlog.TypeEFIVariableConfig, eventlog.TypeNoAction)), want: mismatch},
		{name: "N111 separator retyped", device: relog(retype(4, eventlog.TypeSeparator, eventlog.TypeIPL)), want: mismatch},
		{name: "N109 data swapped, digest kept", device: relog(rewrite(func(e eventlog.Event) []eventlog.Event {
			if e.PCR == 7 && e.Type == eventlog.TypeEFIVariableConfig && bytes.Contains(e.Data, evidencetest.UTF16("SecureBoot")[:20]) {
				e.Data = bytes.Clone(e.Data)
				e.Data[len(e.Data)-1] = 1
			}
			return []eventlog.Event{e}
		})), want: mismatch},
		{name: "PCR 8 extended without a log", device: func(s *evidencetest.Scenario) {
			s.Quoted = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13}
			s.Registers[8] = digest.Of([]byte("x"))
		}, want: mismatch},
		{name: "N118 command line that was not logged", device: func(s *evidencetest.Scenario) {
			s.Registers[12] = eventlog.Extend(digest.SHA256{}, digest.Of([]byte("init=/bin/sh")))
		}, want: mismatch},
	}
	for _, pcr := range []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11} {
		out = append(out, mutation{name: fmt.Sprintf("N102 PCR %d stripped", pcr), device: relog(strip(pcr)), want: mismatch})
	}
	return out
}

func dropOne(index int) *evidencetest.LogBuilder {
	return rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.Index == index {
			return nil
		}
		return []eventlog.Event{e}
	})
}

// reversed writes the events of one PCR backwards.
func reversed(pcr int) *evidencetest.LogBuilder {
	var events []eventlog.Event
	rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.PCR == pcr {
			events = append(events, e)
		}
		return nil
	})
	return rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.PCR != pcr {
			return []eventlog.Event{e}
		}
		last := events[len(events)-1]
		events = events[:len(events)-1]
		return []eventlog.Event{last}
	})
}

func stateMutations() []mutation {
	mismatch := only(reason.PCRMismatch)
	return []mutation{
		{name: "N133 a release that was not offered", device: func(s *evidencetest.Scenario) { s.Boot(next) }, want: mismatch},
		{name: "N118 kernel command line", device: func(s *evidencetest.Scenario) {
			s.Log.Add(12, eventlog.TypeIPL, digest.Of([]byte("init=/bin/sh")), evidencetest.UTF16("init=/bin/sh"))
			s.Registers = s.Log.PCRs()
		}, want: mismatch},
		{name: "a second program", device: func(s *evidencetest.Scenario) {
			s.Log.Add(4, eventlog.TypeEFIApplication, digest.Of([]byte("bootkit")), nil)
			s.Registers = s.Log.PCRs()
		}, want: mismatch},
		{name: "other firmware", device: func(s *evidencetest.Scenario) { s.Boot(current, evidencetest.Firmware("2.0")) }, want: mismatch},
		{name: "N87 boot PCR changes within one boot", device: func(s *evidencetest.Scenario) {
			s.Accept()
			s.Last.PCRs[5].Value[0] ^= 1
			s.Tick()
		}, want: mismatch},
		{name: "N132 older release after the new one", device: func(s *evidencetest.Scenario) { s.Boot(older) }, in: func(in *attestation.Input) {
			in.Superseded = []attestation.Expectation{{Release: older, Values: evidencetest.Release(older)}}
		}, want: only(reason.FirmwareRolledBack)},
		{name: "Secure Boot off", device: func(s *evidencetest.Scenario) { s.Policy.SecureBoot = true }, want: only(reason.SecureBootOff)},
		{name: "revoked program", device: func(s *evidencetest.Scenario) {
			s.Policy.RevokedBoot = []digest.SHA256{s.Expected[0].Values.PCRs[0].Events[2].Digest}
		}, want: only(reason.ComponentRevoked)},
		{name: "everything at once", device: func(s *evidencetest.Scenario) {
			s.Boot("product/evil", evidencetest.Firmware("evil"))
			s.Policy.SecureBoot = true
			s.Policy.RevokedBoot = []digest.SHA256{evidencetest.Release("product/evil").PCRs[0].Events[2].Digest}
		}, want: only(reason.SecureBootOff, reason.ComponentRevoked, reason.PCRMismatch)},
	}
}

func TestRefusesWrongStates(t *testing.T) {
	t.Parallel()
	for _, m := range wrongStates() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			v := appraise(t, m.input())
			if got := v.Reasons(); !slices.Equal(got, m.want) {
				t.Errorf("got %v, want %v: %+v", got, m.want, v.Findings)
			}
			if v.Outcome != attestation.Refused || v.Accepted != nil || v.Release != "" {
				t.Errorf("a refusal carries a result: %+v", v)
			}
		})
	}
}

func TestSecureBootOnIsSeen(t *testing.T) {
	t.Parallel()
	s := evidencetest.NewScenario("device", current, evidencetest.SecureBootOn())
	s.Policy.SecureBoot = true
	if v := appraise(t, s.Input()); v.Outcome != attestation.Affirmed {
		t.Errorf("refused: %+v", v.Findings)
	}
}

// N105: the order between different registers is not evidence.
func TestOrderAcrossPCRsDoesNotMatter(t *testing.T) {
	t.Parallel()
	var last []eventlog.Event
	log := rewrite(func(e eventlog.Event) []eventlog.Event {
		if e.PCR == 11 {
			last = append(last, e)
			return nil
		}
		return []eventlog.Event{e}
	})
	for _, e := range last {
		log.Add(e.PCR, e.Type, e.Digest, e.Data)
	}
	s := scenario()
	s.Log = log
	if v := appraise(t, s.Input()); v.Outcome != attestation.Affirmed {
		t.Errorf("refused: %+v", v.Findings)
	}
}

func TestRevokedDigestInAnUnquotedPCRProvesNothing(t *testing.T) {
	t.Parallel()
	s := scenario()
	bad := digest.Of([]byte("bad"))
	s.Log.Add(14, eventlog.TypeIPL, bad, nil)
	s.Policy.RevokedBoot = []digest.SHA256{bad}
	if v := appraise(t, s.Input()); v.Outcome != attestation.Affirmed {
		t.Errorf("refused: %+v", v.Findings)
	}
}

func TestFindingsAreThoseOfTheNearestRelease(t *testing.T) {
	t.Parallel()
	s := scenario()
	s.Expected = append([]attestation.Expectation{{Release: next, Values: evidencetest.Release(next)}}, s.Expected...)
	s.Log.Add(12, eventlog.TypeIPL, digest.Of([]byte("init=/bin/sh")), evidencetest.UTF16("init=/bin/sh"))
	s.Registers = s.Log.PCRs()
	v := appraise(t, s.Input())
	if len(v.Findings) != 1 {
		t.Fatalf("got %+v, want one finding", v.Findings)
	}
	f := v.Findings[0]
	if f.PCR == nil || *f.PCR != 12 || f.Event == nil || !strings.Contains(f.Detail, current) {
		t.Errorf("got %+v, want the added event of PCR 12 against %s", f, current)
	}
}

func TestFindingsAreBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	s := scenario()
	for range 200 {
		d := digest.Of([]byte("revoked"))
		s.Log.Add(12, eventlog.TypeIPL, d, bytes.Repeat([]byte{0xff, 0xfe, 0xd8}, 300))
		s.Policy.RevokedBoot = []digest.SHA256{d}
	}
	s.Registers = s.Log.PCRs()
	v := appraise(t, s.Input())
	if len(v.Findings) > 66 {
		t.Errorf("got %d findings", len(v.Findings))
	}
	if want := only(reason.ComponentRevoked, reason.PCRMismatch); !slices.Equal(v.Reasons(), want) {
		t.Errorf("got %v, want %v", v.Reasons(), want)
	}
	if _, err := v.Marshal(); err != nil {
		t.Error(err)
	}
}
