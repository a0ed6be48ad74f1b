package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// raw is one event before it is written, so that a test can lie in each field.
type raw struct {
	pcr, typ, count uint32
	digests         []byte
	size            uint32
	data            []byte
}

func (r raw) append(b []byte) []byte {
	for _, v := range []uint32{r.pcr, r.typ, r.count} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, r.digests...)
	b = binary.LittleEndian.AppendUint32(b, r.size)
	return append(b, r.data...)
}

// sha256Digest is one TPMT_HA of the SHA-256 bank.
func sha256Digest(d digest.SHA256) []byte { return append([]byte{0x0B, 0}, d[:]...) }

// action is a well-formed event.
func action() raw {
	data := []byte("Calling EFI Application from Boot Option")
	return raw{pcr: 4, typ: eventlog.TypeEFIAction, count: 1, digests: sha256Digest(digest.Of(data)),
		size: uint32(len(data)), data: data}
}

func TestRefusesEventsThatLie(t *testing.T) {
	t.Parallel()
	sha1Digest := append([]byte{4, 0}, make([]byte, 20)...)
	note := func(pcr uint32, data string) raw {
		return raw{pcr: pcr, typ: eventlog.TypeNoAction, count: 1, digests: sha256Digest(digest.SHA256{}),
			size: uint32(len(data)), data: []byte(data)}
	}
	rows := []struct {
		name string
		edit func(*raw)
		want error
	}{
		{"PCR 24", func(r *raw) { r.pcr = 24 }, eventlog.ErrMalformed},
		{"PCR 2^32-1", func(r *raw) { r.pcr = 0xFFFFFFFF }, eventlog.ErrMalformed},
		{"no digest", func(r *raw) { r.count, r.digests = 0, nil }, eventlog.ErrMalformed},
		{"2^32-1 digests", func(r *raw) { r.count = 0xFFFFFFFF }, eventlog.ErrMalformed},
		{"two digests of one bank", func(r *raw) { r.count, r.digests = 2, slices.Repeat(r.digests, 2) }, eventlog.ErrMalformed},
		{"a bank that the header does not list", func(r *raw) { r.digests = sha1Digest }, eventlog.ErrMalformed},
		{"data size 2^32-1", func(r *raw) { r.size = 0xFFFFFFFF }, eventlog.ErrMalformed},
		{"data one byte too long", func(r *raw) { r.size++ }, eventlog.ErrMalformed},
		{"data one byte too short", func(r *raw) { r.size-- }, eventlog.ErrMalformed},
		{"data beyond 64 KiB", func(r *raw) {
			r.data = make([]byte, eventlog.MaxDataBytes+1)
			r.size = uint32(len(r.data))
		}, eventlog.ErrTooLarge},
		{"retyped as EV_NO_ACTION", func(r *raw) { r.typ = eventlog.TypeNoAction }, eventlog.ErrMalformed},
		{"EV_NO_ACTION with a digest", func(r *raw) {
			d := r.digests
			*r = note(0, "SP800-155 Event3")
			r.digests = d
		}, eventlog.ErrMalformed},
		{"a second Spec ID", func(r *raw) { *r = note(0, "Spec ID Event03\x00") }, eventlog.ErrMalformed},
		{"locality too long", func(r *raw) { *r = note(0, "StartupLocality\x00\x03\x00") }, eventlog.ErrMalformed},
		{"locality too short", func(r *raw) { *r = note(0, "StartupLocality\x00") }, eventlog.ErrMalformed},
		{"locality 1", func(r *raw) { *r = note(0, "StartupLocality\x00\x01") }, eventlog.ErrMalformed},
		{"locality for PCR 1", func(r *raw) { *r = note(1, "StartupLocality\x00\x03") }, eventlog.ErrMalformed},
	}
	for _, row := range rows {
		e := action()
		row.edit(&e)
		_, err := eventlog.Parse(e.append(evidencetest.NewLog().Bytes()))
		if !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, err, row.want)
		}
	}
	if _, err := eventlog.Parse(action().append(evidencetest.NewLog().Bytes())); err != nil {
		t.Errorf("the event that all rows lie about: %v", err)
	}
}

func TestStartupLocalityCountsOnceAndBeforePCR0(t *testing.T) {
	t.Parallel()
	note := []byte("StartupLocality\x00\x03")
	l := evidencetest.NewLog()
	l.Add(0, eventlog.TypeNoAction, digest.SHA256{}, note)
	l.AddHashed(0, eventlog.TypeSCRTMVersion, []byte{0, 0})
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	start := digest.SHA256{digest.Size - 1: 3}
	want := eventlog.Extend(start, digest.Of([]byte{0, 0}))
	if got := log.Replay()[0]; log.Locality != 3 || got != want || got != l.PCRs()[0] {
		t.Errorf("got locality %d, PCR 0 %s; want 3, %s", log.Locality, got, want)
	}
	l.Add(0, eventlog.TypeNoAction, digest.SHA256{}, note)
	if _, err := eventlog.Parse(l.Bytes()); !errors.Is(err, eventlog.ErrMalformed) {
		t.Errorf("twice: got %v, want ErrMalformed", err)
	}
	late := evidencetest.NewLog()
	late.AddHashed(0, eventlog.TypeSCRTMVersion, []byte{0, 0})
	late.Add(0, eventlog.TypeNoAction, digest.SHA256{}, note)
	if _, err := eventlog.Parse(late.Bytes()); !errors.Is(err, eventlog.ErrMalformed) {
		t.Errorf("after the first measurement: got %v, want ErrMalformed", err)
	}
}

func TestRefusesHeadersThatLie(t *testing.T) {
	t.Parallel()
	const table = 32 + 24 // offset of the number of algorithms
	rows := []struct {
		name string
		edit func([]byte) []byte
		want error
	}{
		{"empty", func([]byte) []byte { return nil }, eventlog.ErrMalformed},
		{"PCR 1", func(b []byte) []byte { b[0] = 1; return b }, eventlog.ErrMalformed},
		{"a digest", func(b []byte) []byte { b[8] = 1; return b }, eventlog.ErrMalformed},
		{"size 2^32-1", func(b []byte) []byte { copy(b[28:], "\xFF\xFF\xFF\xFF"); return b }, eventlog.ErrMalformed},
		{"no algorithm", func(b []byte) []byte { b[table] = 0; return b }, eventlog.ErrMalformed},
		{"2^32-1 algorithms", func(b []byte) []byte { copy(b[table:], "\xFF\xFF\xFF\xFF"); return b }, eventlog.ErrMalformed},
		{"unknown algorithm", func(b []byte) []byte { b[table+4] = 0x77; return b }, eventlog.ErrMalformed},
		{"SHA-1 only, crypto-agile", func(b []byte) []byte { b[table+4], b[table+6] = 4, 20; return b }, eventlog.ErrMalformed},
		{"digest size 20 for SHA-256", func(b []byte) []byte { b[table+6] = 20; return b }, eventlog.ErrMalformed},
		{"vendor information beyond the header", func(b []byte) []byte { b[len(b)-1] = 9; return b }, eventlog.ErrMalformed},
		{"trailing zeros", func(b []byte) []byte { return append(b, make([]byte, 64)...) }, eventlog.ErrMalformed},
		{"trailing ones", func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xFF}, 64)...) }, eventlog.ErrMalformed},
		{"one trailing byte", func(b []byte) []byte { return append(b, 0) }, eventlog.ErrMalformed},
		{"too large", func(b []byte) []byte { return append(b, make([]byte, eventlog.MaxBytes)...) }, eventlog.ErrTooLarge},
	}
	for _, row := range rows {
		if _, err := eventlog.Parse(row.edit(evidencetest.NewLog().Bytes())); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, err, row.want)
		}
	}
}

func TestRecognisesLogsOfTPM12(t *testing.T) {
	t.Parallel()
	var old []byte
	for _, data := range []string{"first", "second", ""} {
		old = binary.LittleEndian.AppendUint32(old, 0)
		old = binary.LittleEndian.AppendUint32(old, eventlog.TypeAction)
		old = append(old, make([]byte, 20)...)
		old = binary.LittleEndian.AppendUint32(old, uint32(len(data)))
		old = append(old, data...)
	}
	spec := evidencetest.NewLog().Bytes()
	copy(spec[32:], "Spec ID Event00")
	for _, b := range [][]byte{old, spec} {
		if _, err := eventlog.Parse(b); !errors.Is(err, eventlog.ErrFormat) {
			t.Errorf("got %v, want ErrFormat", err)
		}
	}
	if _, err := eventlog.Parse(old[:len(old)-1]); !errors.Is(err, eventlog.ErrMalformed) {
		t.Errorf("cut short: got %v, want ErrMalformed", err)
	}
}

// Other banks are skipped by the sizes in the header, whatever their order.
func TestReadsSHA256BesideOtherBanks(t *testing.T) {
	t.Parallel()
	b := evidencetest.NewLog().Bytes()
	const table = 32 + 24
	b = slices.Concat(b[:table], []byte{3, 0, 0, 0, 4, 0, 20, 0, 0x0B, 0, 32, 0, 0x0C, 0, 48, 0}, []byte{0})
	binary.LittleEndian.PutUint32(b[28:], uint32(len(b)-32))
	sha1Digest, sha384Digest := append([]byte{4, 0}, make([]byte, 20)...), append([]byte{0x0C, 0}, make([]byte, 48)...)
	e := action()
	e.count, e.digests = 3, slices.Concat(sha384Digest, e.digests, sha1Digest)
	l, err := eventlog.Parse(e.append(b))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := l.Events[1].Digest, digest.Of(e.data); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	e.count, e.digests = 2, slices.Concat(sha384Digest, sha1Digest)
	if _, err := eventlog.Parse(e.append(b)); !errors.Is(err, eventlog.ErrMalformed) {
		t.Errorf("without SHA-256: got %v, want ErrMalformed", err)
	}
}

func TestTooManyEvents(t *testing.T) {
	t.Parallel()
	l := evidencetest.NewLog()
	for range eventlog.MaxEvents - 1 {
		l.Add(14, eventlog.TypeIPL, digest.SHA256{}, nil)
	}
	if log, err := eventlog.Parse(l.Bytes()); err != nil || len(log.Events) != eventlog.MaxEvents {
		t.Errorf("%d events: %v", len(log.Events), err)
	}
	l.Add(14, eventlog.TypeIPL, digest.SHA256{}, nil)
	if _, err := eventlog.Parse(l.Bytes()); !errors.Is(err, eventlog.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

// A log cut anywhere is refused, or is a whole shorter log whose replay shows the loss.
func TestCutLogsNeverReplayToTheRegisters(t *testing.T) {
	t.Parallel()
	b := read(t, "direct-uki-v1-no-secureboot", "eventlog.bin")
	whole := genuine(t, "direct-uki-v1-no-secureboot").Replay()
	shorter := 0
	for n := range len(b) {
		l, err := eventlog.Parse(b[:n])
		if err != nil {
			if !errors.Is(err, eventlog.ErrMalformed) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			continue
		}
		shorter++
		if same(l.Replay(), whole) {
			t.Fatalf("cut at %d: replays to the same registers", n)
		}
	}
	if want := len(genuine(t, "direct-uki-v1-no-secureboot").Events) - 1; shorter != want {
		t.Errorf("%d cuts gave a whole log, want %d", shorter, want)
	}
}

func same(a, b map[int]digest.SHA256) bool {
	for pcr := range eventlog.MaxPCR + 1 {
		if a[pcr] != b[pcr] {
			return false
		}
	}
	return true
}

// Stripping, dropping and retyping leave a trace: in the replay, in the parse, or in Disagreements.
func TestStrippedAndRetypedEventsAreSeen(t *testing.T) {
	t.Parallel()
	l := genuine(t, "sdboot-secureboot-snakeoil-v1")
	whole := l.Replay()
	for pcr := range whole {
		without := eventlog.Log{Events: slices.DeleteFunc(slices.Clone(l.Events), func(e eventlog.Event) bool {
			return e.PCR == pcr && e.Extends()
		})}
		if _, ok := without.Replay()[pcr]; ok || same(without.Replay(), whole) {
			t.Errorf("stripping PCR %d is not seen", pcr)
		}
	}
	for i, e := range l.Events {
		if !e.Extends() || e.Type == eventlog.TypeEFIAction {
			continue
		}
		retyped := eventlog.Log{Events: slices.Clone(l.Events)}
		retyped.Events[i].Type = eventlog.TypeEFIAction
		seen := slices.Contains(retyped.Disagreements(), i)
		hidden := e.Type == eventlog.TypeSeparator // its digest gives a separator away under any type
		if measured := digest.Of(e.Data) == e.Digest; seen != (hidden || !measured) {
			t.Errorf("event %d (%s) retyped as an action: seen %t", i, e.TypeName(), seen)
		}
	}
}

func TestSeparatorConstantsUnderAnotherTypeDisagree(t *testing.T) {
	t.Parallel()
	for _, constant := range [][]byte{{0, 0, 0, 0}, {0xFF, 0xFF, 0xFF, 0xFF}} {
		for _, typ := range []uint32{eventlog.TypeEFIAction, eventlog.TypeIPL, eventlog.TypePostCode, 0x12345} {
			l := evidencetest.NewLog()
			l.AddHashed(4, eventlog.TypeSeparator, constant)
			l.Add(4, typ, digest.Of(constant), []byte("some other text"))
			log, err := eventlog.Parse(l.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if got := log.Disagreements(); !slices.Equal(got, []int{2}) {
				t.Errorf("constant %x under type 0x%x: got %v, want [2]", constant, typ, got)
			}
		}
	}
	l := evidencetest.NewLog()
	l.AddHashed(4, eventlog.TypeSeparator, []byte("longer than a separator"))
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := log.Disagreements(); !slices.Equal(got, []int{1}) {
		t.Errorf("a separator over other data: got %v, want [1]", got)
	}
}

func TestSecureBootBelievesOnlyTheFirmware(t *testing.T) {
	t.Parallel()
	on, off := evidencetest.Variable("SecureBoot", []byte{1}), evidencetest.Variable("SecureBoot", []byte{0})
	config, zeros := eventlog.TypeEFIVariableConfig, make([]byte, 4)
	foreign := slices.Clone(on)
	foreign[0]++
	rows := []struct {
		name  string
		build func(*evidencetest.LogBuilder)
	}{
		{"nothing", func(*evidencetest.LogBuilder) {}},
		{"no separator", func(l *evidencetest.LogBuilder) { l.AddHashed(7, config, on) }},
		{"after the separator", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
			l.AddHashed(7, config, on)
		}},
		{"twice", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, on)
			l.AddHashed(7, config, on)
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"digest of off, data of on", func(l *evidencetest.LogBuilder) {
			l.Add(7, config, digest.Of(off), on)
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"another PCR", func(l *evidencetest.LogBuilder) {
			l.AddHashed(6, config, on)
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"another type", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, eventlog.TypeEFIAuthority, on)
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"another vendor's variable", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, foreign)
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"a state that does not exist", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, evidencetest.Variable("SecureBoot", []byte{2}))
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"two bytes", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, evidencetest.Variable("SecureBoot", []byte{1, 1}))
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"bytes behind the variable", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, append(slices.Clone(on), 0))
			l.AddHashed(7, eventlog.TypeSeparator, zeros)
		}},
		{"error separator", func(l *evidencetest.LogBuilder) {
			l.AddHashed(7, config, on)
			l.AddHashed(7, eventlog.TypeSeparator, []byte{0xFF, 0xFF, 0xFF, 0xFF})
		}},
	}
	for _, row := range rows {
		l := evidencetest.NewLog()
		row.build(l)
		log, err := eventlog.Parse(l.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if on, known := log.SecureBoot(); on || known {
			t.Errorf("%s: got on=%t known=%t, want unknown", row.name, on, known)
		}
	}
}

func TestAnAbsentSecureBootVariableMeansOff(t *testing.T) {
	t.Parallel()
	l := evidencetest.NewLog()
	l.AddHashed(7, eventlog.TypeEFIVariableConfig, evidencetest.Variable("SecureBoot", nil))
	l.AddHashed(7, eventlog.TypeSeparator, make([]byte, 4))
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if on, known := log.SecureBoot(); on || !known {
		t.Errorf("got on=%t known=%t, want off", on, known)
	}
	if got, want := log.Events[1].Explain(), "Secure Boot is off: the firmware has no such variable"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUnknownEventTypesAreKeptAndSaid(t *testing.T) {
	t.Parallel()
	l := evidencetest.NewLog()
	l.AddHashed(14, 0xDEADBEEF, []byte("x"))
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	e := log.Events[1]
	if got, want := e.TypeName(), "unknown 0xdeadbeef"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := e.Explain(); !strings.HasPrefix(got, eventlog.Unexplained) {
		t.Errorf("got %q, want %q...", got, eventlog.Unexplained)
	}
	if got := log.Replay()[14]; got != l.PCRs()[14] {
		t.Errorf("PCR 14: got %s, want %s", got, l.PCRs()[14])
	}
}

func TestExplainNeverRepeatsControlCharacters(t *testing.T) {
	t.Parallel()
	evil := "\x1b[2J\x00\r\n\u202e" + strings.Repeat("A", 5000)
	for typ := range uint32(0x14) {
		for _, data := range [][]byte{[]byte(evil), evidencetest.UTF16(evil), evidencetest.Variable(evil, []byte(evil))} {
			for _, base := range []uint32{0, 0x80000000, 0x800000D0} {
				text := eventlog.Event{PCR: 12, Type: base + typ, Data: data}.Explain()
				if strings.ContainsAny(text, "\x1b\r\n\x00\u202e") || len(text) > 2000 {
					t.Errorf("type 0x%x: %q", base+typ, text)
				}
			}
		}
	}
}
