package eventlog_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// attack is a change of a genuine log that breaks one rule and no other: with the rule taken out the log is accepted.
type attack struct {
	name string
	rule string
	edit func([]eventlog.Event) []eventlog.Event
}

// hashed is an event that measures its own data.
func hashed(pcr int, typ uint32, data []byte) eventlog.Event {
	return eventlog.Event{PCR: pcr, Type: typ, Data: data, Digest: digest.Of(data)}
}

// at is the index of the first event that matches.
func at(events []eventlog.Event, pcr int, typ uint32, text string) int {
	return slices.IndexFunc(events, func(e eventlog.Event) bool {
		return e.PCR == pcr && e.Type == typ && (text == "" || strings.Contains(strings.ReplaceAll(string(e.Data), "\x00", ""), text))
	})
}

func insertBefore(pcr int, typ uint32, text string, e eventlog.Event) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event {
		return slices.Insert(events, at(events, pcr, typ, text), e)
	}
}

func appended(e eventlog.Event) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event { return append(events, e) }
}

func without(pcr int, typ uint32, text string) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event {
		i := at(events, pcr, typ, text)
		return slices.Delete(events, i, i+1)
	}
}

// changed edits the first event that matches.
func changed(pcr int, typ uint32, text string, edit func(*eventlog.Event)) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event {
		edit(&events[at(events, pcr, typ, text)])
		return events
	}
}

func retyped(pcr int, typ uint32, text string, to uint32) func([]eventlog.Event) []eventlog.Event {
	return changed(pcr, typ, text, func(e *eventlog.Event) { e.Type = to })
}

func remeasured(e *eventlog.Event, data []byte) { e.Data, e.Digest = data, digest.Of(data) }

const (
	separator = eventlog.TypeSeparator
	program   = eventlog.TypeEFIApplication
	config    = eventlog.TypeEFIVariableConfig
	efiAction = eventlog.TypeEFIAction
)

var zeros = make([]byte, 4)

// attacks change the log of a boot with Secure Boot on (sdboot-secureboot-snakeoil-v1).
func attacks() []attack {
	return slices.Concat(attacksOnPlaces(), attacksOnForm(), attacksOnAgreement(), attacksOnProfile())
}

// attacksOnPlaces put events where they may not stand, or twice.
func attacksOnPlaces() []attack {
	on := evidencetest.Variable("SecureBoot", []byte{1})
	foreign := slices.Clone(on)
	foreign[0]++
	action := []byte("Calling EFI Application from Boot Option")
	return []attack{
		{"a second separator", "separator-once", appendedAfter(5, separator, hashed(5, separator, zeros))},
		{"a second separator, of an error", "separator-once", appendedAfter(1, separator, hashed(1, separator, []byte{0xFF, 0xFF, 0xFF, 0xFF}))},
		{"firmware after the separator of PCR 0", "after-separator", appendedAfter(0, separator, hashed(0, eventlog.TypePostCode, []byte("ACPI DATA")))},
		{"another variable after the separator of PCR 7", "after-separator", appendedAfter(7, separator, hashed(7, config, evidencetest.Variable("AuditMode", []byte{0})))},
		{"an action in PCR 7 after its separator", "after-separator", appendedAfter(7, separator, hashed(7, efiAction, []byte("DMA Protection Disabled")))},
		{"a program as EV_IPL", "type-in-pcr", retypedBefore(4, program, eventlog.TypeIPL)},
		{"a program as EV_EVENT_TAG", "type-in-pcr", retypedBefore(4, program, eventlog.TypeEventTag)},
		{"a program as EV_POST_CODE", "type-in-pcr", retypedBefore(4, program, eventlog.TypePostCode)},
		{"an authority in PCR 4", "type-in-pcr", insertBefore(4, separator, "", hashed(4, eventlog.TypeEFIAuthority, evidencetest.Variable("db", nil)))},
		{"a section of the kernel image as an authority", "type-in-pcr", retyped(11, eventlog.TypeIPL, "", eventlog.TypeEFIAuthority+0x4)},
		{"db twice", "key-variable-once", insertBefore(7, separator, "", hashed(7, config, evidencetest.Variable("db", nil)))},
		{"SecureBoot twice", "key-variable-once", insertBefore(7, separator, "", hashed(7, config, on))},
		{"SecureBoot in PCR 1", "key-variable-pcr", insertBefore(1, separator, "", hashed(1, config, on))},
		{"another vendor's SecureBoot", "key-variable-pcr", insertBefore(7, separator, "", hashed(7, config, foreign))},
		{"H-CRTM after the version", "hcrtm-first", insertBefore(0, separator, "", hashed(0, eventlog.TypeEFIHCRTM, []byte("HCRTM")))},
		{"ExitBootServices returns but was not called", "exit-order", without(5, efiAction, "Exit Boot Services Invocation")},
		{"ExitBootServices in PCR 4", "exit-order", insertBefore(4, program, "", hashed(4, efiAction, []byte("Exit Boot Services Invocation")))},
		{"a program after ExitBootServices", "after-exit", appended(hashed(4, efiAction, action))},
	}
}

// attacksOnForm give data sizes that do not fit.
func attacksOnForm() []attack {
	list := func(size, header, entry uint32) []byte {
		b := append(make([]byte, 16), binary.LittleEndian.AppendUint32(nil, size)...)
		b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, header), entry)
		return append(b, make([]byte, 20)...)
	}
	dbx := func(value []byte) func([]eventlog.Event) []eventlog.Event {
		return changed(7, config, "dbx", func(e *eventlog.Event) { remeasured(e, evidencetest.Variable("dbx", value)) })
	}
	path := func(node ...byte) func([]eventlog.Event) []eventlog.Event {
		return changed(4, program, "", func(e *eventlog.Event) {
			data := slices.Clone(e.Data[:32])
			binary.LittleEndian.PutUint64(data[24:], uint64(len(node)))
			e.Data = append(data, node...)
		})
	}
	return []attack{
		{"a variable that is shorter than it says", "variable-form", insertBefore(1, separator, "", hashed(1, config, evidencetest.Variable("Setup", make([]byte, 9))[:40]))},
		{"bytes behind a variable", "variable-form", insertBefore(1, separator, "", hashed(1, config, append(evidencetest.Variable("Setup", zeros), 0)))},
		{"a list below its header", "signature-list-form", dbx(list(27, 0, 20))},
		{"a list beyond the variable", "signature-list-form", dbx(list(0xFFFFFFFF, 0, 20))},
		{"entries below their owner", "signature-list-form", dbx(list(48, 0, 15))},
		{"entries of 2^32-1 bytes", "signature-list-form", dbx(list(48, 0, 0xFFFFFFFF))},
		{"entries of no bytes", "signature-list-form", dbx(list(48, 0, 0))},
		{"a list with a header of its own", "signature-list-form", dbx(list(48, 4, 16))},
		{"entries that do not fill the list", "signature-list-form", dbx(list(48, 0, 19))},
		{"a node of no bytes", "image-form", path(4, 4, 0, 0)},
		{"a node of three bytes", "image-form", path(4, 4, 3, 0)},
		{"a node of 65535 bytes", "image-form", path(4, 4, 0xFF, 0xFF)},
		{"a path without an end", "image-form", path(4, 4, 6, 0, 0, 0)},
		{"two paths", "image-form", path(0x7F, 0xFF, 4, 0, 0x7F, 0xFF, 4, 0)},
		{"a path beyond the data", "image-form", changed(4, program, "", func(e *eventlog.Event) {
			e.Data = slices.Clone(e.Data)
			binary.LittleEndian.PutUint64(e.Data[24:], 1<<63)
		})},
		{"a table of 2^63 partitions", "partition-table-form", changed(5, eventlog.TypeEFIGPT, "", func(e *eventlog.Event) {
			data := slices.Clone(e.Data)
			binary.LittleEndian.PutUint64(data[92:], 1<<63)
			remeasured(e, data)
		})},
	}
}

// attacksOnAgreement keep the digests and change what the log says was measured.
func attacksOnAgreement() []attack {
	return []attack{
		{"a separator over other data", "separator-digest", changed(6, separator, "", func(e *eventlog.Event) { remeasured(e, []byte("WBCL")) })},
		{"a separator whose data is another's", "separator-digest", changed(6, separator, "", func(e *eventlog.Event) { e.Data = []byte{0xFF, 0xFF, 0xFF, 0xFF} })},
		{"a separator under the name of a program", "separator-hidden", changed(4, program, "", func(e *eventlog.Event) { e.Digest = digest.Of(zeros) })},
		{"an error under the name of a program", "separator-hidden", changed(4, program, "", func(e *eventlog.Event) { e.Digest = digest.Of([]byte{0xFF, 0xFF, 0xFF, 0xFF}) })},
		{"another action than the measured one", "action-digest", changed(4, efiAction, "", func(e *eventlog.Event) { e.Data = []byte("Returning from EFI Application from Boot Option") })},
		{"another db than the measured one", "configuration-digest", changed(7, config, "dbx", func(e *eventlog.Event) { e.Data = evidencetest.Variable("dbx", nil) })},
		{"another disk than the measured one", "partition-table-digest", changed(5, eventlog.TypeEFIGPT, "", func(e *eventlog.Event) {
			e.Data = slices.Clone(e.Data)
			e.Data[56]++
		})},
		{"another boot order than the measured one", "boot-variable-digest", changed(1, eventlog.TypeEFIVariableBoot, "BootOrder", func(e *eventlog.Event) {
			e.Data = evidencetest.Variable("BootOrder", []byte{9, 0})
		})},
		{"another authority than the measured one", "authority-digest", changed(7, eventlog.TypeEFIAuthority, "", func(e *eventlog.Event) { e.Data = evidencetest.Variable("db", nil) })},
		{"another command than the measured one", "grub-text-digest", appended(eventlog.Event{PCR: 8, Type: eventlog.TypeIPL,
			Data: []byte("grub_cmd: set default=0\x00"), Digest: digest.Of([]byte("linux /vmlinuz init=/bin/sh"))})},
	}
}

// attacksOnProfile leave out what PC Client firmware measures, or hide it under a type that nobody knows.
func attacksOnProfile() []attack {
	return []attack{
		{"a program of an unknown type", "unknown-type", retypedBefore(4, program, 0xDEADBEEF)},
		{"an unknown type after the separator of PCR 5", "unknown-type", appendedAfter(5, separator, hashed(5, 0x12345678, []byte("x")))},
		{"the root of trust as EV_POST_CODE", "scrtm-first", func(events []eventlog.Event) []eventlog.Event {
			i := at(events, 0, eventlog.TypeSCRTMVersion, "")
			e := events[i]
			e.Type = eventlog.TypePostCode
			return slices.Insert(events, i, e)
		}},
		{"no version of the root of trust", "scrtm-missing", retyped(0, eventlog.TypeSCRTMVersion, "", eventlog.TypeSCRTMContents)},
		{"no separator in PCR 1", "separator-missing", without(1, separator, "")},
		{"no separator in PCR 5", "separator-missing", without(5, separator, "")},
		{"no separator in PCR 6", "separator-missing", without(6, separator, "")},
		{"no dbx", "key-variable-missing", without(7, config, "dbx")},
	}
}

// appendedAfter puts e behind the first event that matches.
func appendedAfter(pcr int, typ uint32, e eventlog.Event) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event {
		return slices.Insert(events, at(events, pcr, typ, "")+1, e)
	}
}

// retypedBefore hides an event that is measured like the one that matches and stands before the separator, so that only
// its type gives it away.
func retypedBefore(pcr int, typ, to uint32) func([]eventlog.Event) []eventlog.Event {
	return func(events []eventlog.Event) []eventlog.Event {
		e := events[at(events, pcr, typ, "")]
		e.Type = to
		return slices.Insert(events, at(events, pcr, separator, ""), e)
	}
}

// encode writes events into a log again.
func encode(events []eventlog.Event) []byte {
	l := evidencetest.NewLog()
	for _, e := range events[1:] {
		l.Add(e.PCR, e.Type, e.Digest, e.Data)
	}
	return l.Bytes()
}

// attacked is the log after the attack.
func attacked(t *testing.T, a attack) eventlog.Log {
	t.Helper()
	l, err := eventlog.Parse(encode(a.edit(slices.Clone(genuine(t, "sdboot-secureboot-snakeoil-v1").Events))))
	if err != nil {
		t.Fatalf("%s: %v", a.name, err)
	}
	return l
}

func names(violations []eventlog.Violation) []string {
	var out []string
	for _, v := range violations {
		if !slices.Contains(out, v.Rule) {
			out = append(out, v.Rule)
		}
	}
	return out
}

func TestEachAttackBreaksItsRuleAndNoOther(t *testing.T) {
	t.Parallel()
	for _, a := range attacks() {
		l := attacked(t, a)
		found := append(l.Violations(), l.Departures()...)
		if got := names(found); !slices.Equal(got, []string{a.rule}) {
			t.Errorf("%s: got %v, want [%s]", a.name, got, a.rule)
		}
		for _, v := range found {
			if v.Detail == "" || v.Event >= len(l.Events) || v.Event < -1 || v.Event >= 0 && l.Events[v.Event].PCR != v.PCR {
				t.Errorf("%s: %+v", a.name, v)
			}
		}
	}
}

// What loaders are known to measure breaks no rule, though no recorded boot has it: a genuine device would be quarantined.
func TestLoadersMayMeasureWhatTheyDocument(t *testing.T) {
	t.Parallel()
	tagged := func(pcr int, tag uint32, text, measured string) eventlog.Event {
		var data []byte
		for _, c := range []byte(text + "\x00") {
			data = append(data, c, 0)
		}
		head := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, tag), uint32(len(data)))
		return eventlog.Event{PCR: pcr, Type: eventlog.TypeEventTag, Data: append(head, data...), Digest: digest.Of([]byte(measured))}
	}
	for _, c := range []struct {
		name  string
		event eventlog.Event
		says  string
	}{
		{"systemd-boot 255: its configuration", tagged(5, 0xF5BC582A, "loader.conf", "timeout 0\neditor no\n"), "loader.conf"},
		{"systemd-stub: OEM strings", tagged(1, 0xC0B3BD23, "smbios:type11", "OEM"), ""},
		{"systemd-stub: a device tree", tagged(12, 0x6C46F751, "board.dtb", "dtb"), ""},
	} {
		l := attacked(t, attack{c.name, "", insertBefore(5, efiAction, "Exit Boot Services Invocation", c.event)})
		if got := names(append(l.Violations(), l.Departures()...)); len(got) > 0 {
			t.Errorf("%s: breaks %v", c.name, got)
		}
		i := slices.IndexFunc(l.Events, func(e eventlog.Event) bool { return e.Digest == c.event.Digest })
		if text := l.Events[i].Explain(); !strings.Contains(text, c.says) {
			t.Errorf("%s: explained as %q", c.name, text)
		}
	}
}

// wantOnePass compares what one pass shows with what the questions show that are asked one by one.
func wantOnePass(t *testing.T, l eventlog.Log) {
	t.Helper()
	got, replay := l.Read(), l.Replay()
	if diff := cmp.Diff(l.Violations(), got.Violations); diff != "" {
		t.Errorf("violations: %s", diff)
	}
	if diff := cmp.Diff(l.Departures(), got.Departures); diff != "" {
		t.Errorf("departures: %s", diff)
	}
	for pcr := -1; pcr <= eventlog.MaxPCR+1; pcr++ {
		want, measured := replay[pcr]
		if value, ok := got.Replayed.Value(pcr); ok != measured || value != want {
			t.Errorf("PCR %d: got %s, %t, want %s, %t", pcr, value, ok, want, measured)
		}
	}
}

func TestOnePassShowsEverything(t *testing.T) {
	t.Parallel()
	for _, a := range attacks() {
		wantOnePass(t, attacked(t, a))
	}
	for _, raw := range eventlogtest.All(t) {
		if l, err := eventlog.Parse(raw.Bytes); err == nil {
			wantOnePass(t, l)
		}
	}
}

// A rule without an attack that gets through when the rule is gone is no rule.
func TestEveryRuleHasAKiller(t *testing.T) {
	t.Parallel()
	_, violations, departures := eventlog.Rules()
	for _, rule := range append(violations, departures...) {
		killed := false
		for _, a := range attacks() {
			if a.rule != rule.Name {
				continue
			}
			l := attacked(t, a)
			if len(eventlog.ViolationsWithout(l, rule.Name)) == 0 && len(eventlog.DeparturesWithout(l, rule.Name)) == 0 {
				killed = true
			}
		}
		if !killed || rule.Demands == "" {
			t.Errorf("no attack needs rule %s", rule.Name)
		}
	}
}

// noteAttacks are EV_NO_ACTION events, each against one rule of Parse; the first event of the log is its header.
func noteAttacks() map[string][]eventlog.Event {
	note := func(pcr int, data string) eventlog.Event {
		return eventlog.Event{PCR: pcr, Type: eventlog.TypeNoAction, Data: []byte(data)}
	}
	reference := "SP800-155 Event3" + strings.Repeat("x", 20)
	withDigest := note(0, reference)
	withDigest.Digest = digest.Of([]byte("x"))
	version := hashed(0, eventlog.TypeSCRTMVersion, []byte{0, 0})
	return map[string][]eventlog.Event{
		"note-digest":      {withDigest},
		"note-signature":   {note(0, "Exit Boot Services Returned with Success")},
		"note-pcr":         {note(7, reference)},
		"reference-length": {note(0, reference[:35])},
		"locality-length":  {note(0, "StartupLocality\x00\x00\x03")},
		"locality-value":   {note(0, "StartupLocality\x00\x01")},
		"locality-once":    {note(0, "StartupLocality\x00\x03"), note(0, "StartupLocality\x00\x00")},
		"locality-first":   {version, note(0, "StartupLocality\x00\x03")},
	}
}

func TestEveryRuleOfParseHasAKiller(t *testing.T) {
	t.Parallel()
	rules, _, _ := eventlog.Rules()
	tried := noteAttacks()
	for _, rule := range rules {
		b := encode(append(make([]eventlog.Event, 1), tried[rule.Name]...))
		if _, err := eventlog.Parse(b); !errors.Is(err, eventlog.ErrMalformed) || !strings.Contains(err.Error(), rule.Name) {
			t.Errorf("%s: got %v, want ErrMalformed", rule.Name, err)
		}
		if _, err := eventlog.ParseWithout(b, rule.Name); err != nil {
			t.Errorf("%s: refused without the rule as well: %v", rule.Name, err)
		}
	}
	if len(rules) != len(tried) {
		t.Errorf("%d rules, %d attacks", len(rules), len(tried))
	}
}
