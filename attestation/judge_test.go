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
