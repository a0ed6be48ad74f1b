package eventlog_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// tell writes a change as PCR, what was, what is.
func tell(c eventlog.Change) string {
	text := func(e *eventlog.Event) string {
		if e == nil {
			return "-"
		}
		return string(e.Data)
	}
	return fmt.Sprintf("%d %s %s", c.PCR, text(c.Before), text(c.After))
}

func TestChangesBetweenTwoBoots(t *testing.T) {
	t.Parallel()
	boot := func(measured ...string) eventlog.Log {
		var l eventlog.Log
		for i, m := range measured {
			pcr, data, _ := strings.Cut(m, " ")
			e := eventlog.Event{Index: i, PCR: len(pcr), Type: eventlog.TypeIPL, Data: []byte(data), Digest: digest.Of([]byte(data))}
			if data == "nothing" {
				e.Type = eventlog.TypeNoAction
			}
			l.Events = append(l.Events, e)
		}
		return l
	}
	before := boot("x a", "x b", "x c", "xx k", "x d")
	for _, tt := range []struct {
		name  string
		after eventlog.Log
		want  []string
	}{
		{"the same", boot("xx k", "x a", "x b", "x nothing", "x c", "x d"), nil},
		{"another one", boot("x a", "x B", "x c", "x d", "xx k"), []string{"1 b B"}},
		{"one more", boot("x a", "x b", "x new", "x c", "x d", "xx k"), []string{"1 - new"}},
		{"one less", boot("x a", "x c", "x d", "xx k"), []string{"1 b -"}},
		{"once more the same", boot("x a", "x b", "x b", "x c", "x d", "xx k"), []string{"1 - b"}},
		{"two for one, in two registers", boot("x a", "x B", "x C", "x D", "x d"), []string{"1 b B", "1 c C", "1 - D", "2 k -"}},
		{"one changed, the last one gone", boot("x a", "x B", "x c", "xx k"), []string{"1 b B", "1 d -"}},
		{"one more, another one changed", boot("x a", "x new", "x b", "x C", "x d", "xx k"), []string{"1 - new", "1 c C"}},
		{"another order", boot("x b", "x a", "x c", "x d", "xx k"), []string{"1 a -", "1 - a"}},
		{"nothing at all", boot(), []string{"1 a -", "1 b -", "1 c -", "1 d -", "2 k -"}},
	} {
		var got []string
		for _, c := range eventlog.Changes(before, tt.after, 10) {
			got = append(got, tell(c))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	long := make([]string, 600) // more than is aligned
	for i := range long {
		long[i] = fmt.Sprint("x ", i)
	}
	if got := eventlog.Changes(boot(long...), boot(append([]string{"x first"}, slices.Concat(long[1:], []string{"x last"})...)...), 5000); len(got) != 601 {
		t.Errorf("two long sequences: got %d changes", len(got))
	}
	if got := eventlog.Changes(before, boot(), 2); len(got) != 2 {
		t.Errorf("a limit of 2: got %d changes", len(got))
	}
}

// What an update changes is what the image brought, and nothing that the firmware measured.
func TestChangesOfARecordedUpdate(t *testing.T) {
	t.Parallel()
	found := map[int]bool{}
	for _, c := range eventlog.Changes(genuine(t, "sdboot-ab-1-v1"), genuine(t, "sdboot-ab-2-v2-after-update"), 64) {
		found[c.PCR] = true
		if c.After != nil {
			t.Logf("PCR %d: %s", c.PCR, c.After.Explain())
		}
	}
	for pcr, want := range map[int]bool{0: false, 2: false, 3: false, 7: false, 4: true, 11: true} {
		if found[pcr] != want {
			t.Errorf("PCR %d changed: %v, want %v", pcr, found[pcr], want)
		}
	}
}

// Two logs of strangers, as long as logs may be and different in the most expensive way, cost no more than one log does.
func TestChangesOfHostileLogsAreBounded(t *testing.T) {
	long := func(pcrs, each int, label string) eventlog.Log {
		l := evidencetest.NewLog()
		for pcr := range pcrs {
			for i := range each {
				l.AddHashed(pcr, eventlog.TypeIPL, fmt.Append(nil, label, i))
			}
		}
		log, err := eventlog.Parse(l.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	for name, shape := range map[string][2]int{"one register": {1, 4095}, "at the bound of what is aligned": {7, 512}, "every register": {23, 170}} {
		was, is := long(shape[0], shape[1], "a"), long(shape[0], shape[1], "b")
		evidencetest.Bounded(t, 2*len(name), func() {
			if got := eventlog.Changes(was, is, 64); len(got) != 64 {
				t.Errorf("%s: %d changes", name, len(got))
			}
		})
	}
}
