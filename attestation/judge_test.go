package attestation_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

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

// Genuine firmware writes notes that this build does not know: TCG PFP 1.06 has "NvIndexInstance" for devices that are
// measured into an NV index. They extend nothing and prove nothing, so the device is held and not quarantined. An event
// with a digest that is called a note is a lie.
func TestUnknownNotesHoldAndDoNotQuarantine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		pcr    int
		digest digest.SHA256
		data   string
		want   reason.Reason
	}{
		{"a new signature", 0, digest.SHA256{}, "NvIndexInstance\x00\x01\x00", reason.EventlogUnexplained},
		{"a known one for another register", 6, digest.SHA256{}, "SP800-155 Event3" + strings.Repeat("x", 20), reason.EventlogUnexplained},
		{"an NV index in the place of a register", 0x01C40200, digest.Of([]byte("device")), "NvIndexInstance\x00\x01\x00", reason.EventlogUnexplained},
		{"no register at all", 0xFFFFFFFF, digest.SHA256{}, "WBCL", reason.EventlogUnexplained},
		{"a digest", 0, digest.Of([]byte("hidden")), "SP800-155 Event3" + strings.Repeat("x", 20), reason.EventlogMismatch},
	} {
		s := scenario()
		s.Log.Add(c.pcr, eventlog.TypeNoAction, c.digest, []byte(c.data))
		v := appraise(t, s.Input())
		if v.Outcome != attestation.Refused || !slices.Equal(v.Reasons(), []reason.Reason{c.want}) {
			t.Errorf("%s: got %s %v, want %s", c.name, v.Outcome, v.Findings, c.want)
		}
	}
}
