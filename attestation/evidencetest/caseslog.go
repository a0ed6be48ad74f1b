package evidencetest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func digits(n int) string { return strconv.Itoa(n) }

func quoting(change func([]int) []int) func(*Scenario) {
	return func(s *Scenario) { s.Quoted = change(s.Quoted) }
}

func quotingWithout(pcr int) func(*Scenario) {
	return quoting(func(pcrs []int) []int {
		return slices.DeleteFunc(slices.Clone(pcrs), func(p int) bool { return p == pcr })
	})
}

// Rewrite copies a log event by event without its header; change returns what to write instead.
func Rewrite(l *LogBuilder, change func(eventlog.Event) []eventlog.Event) *LogBuilder {
	log, err := eventlog.Parse(l.Bytes())
	must(err)
	out := NewLog()
	for _, e := range log.Events[1:] {
		for _, e := range change(e) {
			out.Add(e.PCR, e.Type, e.Digest, e.Data)
		}
	}
	return out
}

func unless(drop bool, e eventlog.Event) []eventlog.Event {
	if drop {
		return nil
	}
	return []eventlog.Event{e}
}

// lying gives the device another log than the one that its registers come from, as an attacker does.
func lying(change func(eventlog.Event) []eventlog.Event) func(*Scenario) {
	return func(s *Scenario) { s.Log = Rewrite(s.Log, change) }
}

// booting gives the device another log and the registers that it leads to: it really measured that.
func booting(change func(eventlog.Event) []eventlog.Event) func(*Scenario) {
	return func(s *Scenario) {
		s.Log = Rewrite(s.Log, change)
		s.Registers = s.Log.PCRs()
	}
}

// more measures more, just before the firmware is left.
func more(pcr int, typ uint32, d digest.SHA256, data []byte) func(*Scenario) {
	added := eventlog.Event{PCR: pcr, Type: typ, Digest: d, Data: data}
	return booting(func(e eventlog.Event) []eventlog.Event {
		if string(e.Data) == exitCalled {
			return []eventlog.Event{added, e}
		}
		return []eventlog.Event{e}
	})
}

// rawLog puts bytes in the place of the log. The quote commits to them, as an enrolled attacker's would.
func rawLog(change func(good []byte) []byte) func(*attestation.Input) {
	return func(in *attestation.Input) {
		in.Log = change(slices.Clone(in.Log))
		in.Evidence.LogDigest = digest.Of(in.Log)
		in.Binding.LogDigests = []digest.SHA256{in.Evidence.LogDigest}
		Requote(in, func(*QuoteSpec) {})
	}
}

// retyping gives every event of one register and type another type.
func retyping(pcr int, from, to uint32) func(eventlog.Event) []eventlog.Event {
	return func(e eventlog.Event) []eventlog.Event {
		if e.PCR == pcr && e.Type == from {
			e.Type = to
		}
		return []eventlog.Event{e}
	}
}

// rawEvent is TCG_PCR_EVENT2 with whatever counts and sizes it is told.
func rawEvent(pcr, typ, count uint32, digests []byte, size uint32, data []byte) []byte {
	var b []byte
	for _, v := range []uint32{pcr, typ, count} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint32(append(b, digests...), size)
	return append(b, data...)
}

// sha256Value is one TPMT_HA of the SHA-256 bank.
func sha256Value(d digest.SHA256) []byte { return append([]byte{0x0B, 0}, d[:]...) }

// logFormCases are logs that no firmware writes: each must be refused in bounded time and memory.
func logFormCases() []Case {
	mismatch, large := only(reason.EventlogMismatch), only(reason.RequestTooLarge)
	note := []byte("note")
	one := sha256Value(digest.Of(note))
	appended := func(event []byte) func(*attestation.Input) {
		return rawLog(func(good []byte) []byte { return append(good, event...) })
	}
	locality := func(text string) []byte {
		return rawEvent(0, eventlog.TypeNoAction, 1, sha256Value(digest.SHA256{}), uint32(len(text)), []byte(text))
	}
	return staged(StageState, []Case{
		{ID: "N05", Name: "log cut", About: "the log ends in the middle of an event", Change: rawLog(func(good []byte) []byte { return good[:len(good)-7] }), Reasons: mismatch, Note: "a test cuts at every offset"},
		{ID: "N07", Name: "log of 256 KiB and a byte", About: "a log that is one byte longer than its limit", Change: rawLog(func([]byte) []byte { return make([]byte, attestation.MaxLogBytes+1) }), Reasons: large, Large: true},
		{ID: "N07", Name: "4097 events", About: "one event more than the limit", Change: rawLog(func([]byte) []byte {
			l := NewLog()
			for range eventlog.MaxEvents {
				l.Add(14, eventlog.TypeIPL, digest.SHA256{}, nil)
			}
			return l.Bytes()
		}), Reasons: large, Large: true},
		{ID: "N07", Name: "event of 64 KiB and a byte", About: "one event with more data than the limit", Change: appended(rawEvent(5, eventlog.TypeAction, 1, one, eventlog.MaxDataBytes+1, make([]byte, eventlog.MaxDataBytes+1))), Reasons: large, Large: true},
		{ID: "N08", Name: "compressed log", About: "the log is compressed: 4 MiB of zeros in a few kilobytes", Change: rawLog(func([]byte) []byte { return compressed(make([]byte, 4<<20)) }), Reasons: mismatch, Note: "nothing is ever unpacked"},
		{ID: "N09", Name: "2^32-1 digests", About: "an event says that it has 4,294,967,295 digests", Change: appended(rawEvent(5, eventlog.TypeAction, 0xFFFFFFFF, one, 4, note)), Reasons: mismatch},
		{ID: "N09", Name: "no digest", About: "an event has no digest", Change: appended(rawEvent(5, eventlog.TypeAction, 0, nil, 4, note)), Reasons: mismatch},
		{ID: "N09", Name: "2^32-1 banks", About: "the header says that it lists 4,294,967,295 banks", Change: rawLog(func(good []byte) []byte { copy(good[56:], "\xFF\xFF\xFF\xFF"); return good }), Reasons: mismatch},
		{ID: "N10", Name: "data beyond the log", About: "an event says that it has one byte more than there is", Change: appended(rawEvent(5, eventlog.TypeAction, 1, one, 5, note)), Reasons: mismatch},
		{ID: "N10", Name: "data of 2^32-1", About: "an event says that it has 4,294,967,295 bytes", Change: appended(rawEvent(5, eventlog.TypeAction, 1, one, 0xFFFFFFFF, note)), Reasons: mismatch},
		{ID: "N11", Name: "PCR 24", About: "an event for PCR 24", Change: appended(rawEvent(24, eventlog.TypeAction, 1, one, 4, note)), Reasons: mismatch},
		{ID: "N11", Name: "PCR 255", About: "an event for PCR 255", Change: appended(rawEvent(255, eventlog.TypeAction, 1, one, 4, note)), Reasons: mismatch},
		{ID: "N11", Name: "PCR 2^32-1", About: "an event for PCR 4,294,967,295", Change: appended(rawEvent(0xFFFFFFFF, eventlog.TypeAction, 1, one, 4, note)), Reasons: mismatch},
		{ID: "N15", Name: "zeros after the log", About: "the log is padded with zeros", Change: appended(make([]byte, 64)), Reasons: mismatch},
		{ID: "N15", Name: "ones after the log", About: "the log is padded with 0xff", Change: appended(bytes.Repeat([]byte{0xff}, 64)), Reasons: mismatch},
		{ID: "N88", Name: "bank that the header does not list", About: "an event has a digest of another bank", Change: appended(rawEvent(5, eventlog.TypeAction, 1, append([]byte{4, 0}, make([]byte, 20)...), 4, note)), Reasons: mismatch},
		{ID: "N88", Name: "two digests of one bank", About: "an event has two SHA-256 digests", Change: appended(rawEvent(5, eventlog.TypeAction, 2, slices.Repeat(one, 2), 4, note)), Reasons: mismatch},
		{ID: "N113", Name: "long locality", About: "the startup locality has two bytes", Change: rawLog(func(good []byte) []byte {
			return slices.Insert(good, NewLog().len(), locality("StartupLocality\x00\x03\x00")...)
		}), Reasons: mismatch},
		{ID: "N113", Name: "locality 1", About: "a startup locality that no TPM has", Change: rawLog(func(good []byte) []byte {
			return slices.Insert(good, NewLog().len(), locality("StartupLocality\x00\x01")...)
		}), Reasons: mismatch},
		{ID: "N113", Name: "locality twice", About: "the startup locality is told twice", Change: rawLog(func(good []byte) []byte {
			return slices.Insert(good, NewLog().len(), slices.Repeat(locality("StartupLocality\x00\x00"), 2)...)
		}), Reasons: mismatch},
		{ID: "N113", Name: "late locality", About: "the startup locality follows the first measurement", Change: appended(locality("StartupLocality\x00\x00")), Reasons: mismatch},
		{ID: "N113", Name: "false locality", About: "the log says locality 3 and the TPM was started at 0", Change: rawLog(func(good []byte) []byte {
			return slices.Insert(good, NewLog().len(), locality("StartupLocality\x00\x03")...)
		}), Reasons: mismatch},
		{ID: "N116", Name: "TPM 1.2 log", About: "the log has SHA-1 digests only", Change: rawLog(func([]byte) []byte { return oldLog() }), Reasons: only(reason.PCRBankWeak)},
		{ID: "N100", Name: "nothing", About: "the log has no byte", Change: rawLog(func([]byte) []byte { return []byte{} }), Reasons: mismatch},
	})
}

func (l *LogBuilder) len() int { return len(l.b) }

// oldLog is a log of TCG_PCR_EVENT structures.
func oldLog() []byte {
	var b []byte
	for _, data := range []string{"first", "second"} {
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, eventlog.TypeAction)
		b = append(b, make([]byte, 20)...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
		b = append(b, data...)
	}
	return b
}
