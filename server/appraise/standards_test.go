package appraise_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/server/appraise"
)

func heldTo(release string) attestation.Input {
	return evidencetest.NewScenario("device", release).Input()
}

// The name only finds a Standard; what it is of decides whether it is taken.
func TestStandardsAreMadeAgainWhenSomethingChanged(t *testing.T) {
	t.Parallel()
	var s appraise.Standards
	of := func(in attestation.Input) *attestation.Standard {
		got, err := s.Of("name", in)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Of(in) {
			t.Error("a Standard of something else")
		}
		return got
	}
	first := of(heldTo("lamp/1"))
	if of(heldTo("lamp/1")) != first {
		t.Error("the same was made twice")
	}
	if of(heldTo("lamp/2")) == first {
		t.Error("another release is held to the same")
	}
	if n, size := s.Kept(); n != 1 || size != of(heldTo("lamp/2")).Size() {
		t.Errorf("got %d of %d bytes", n, size)
	}
}

func TestStandardsAreBounded(t *testing.T) {
	t.Parallel()
	var s appraise.Standards
	small, large := heldTo("lamp/1"), heldTo("lamp/1")
	large.Expected[0].Values.PCRs[0].Events[0].What = strings.Repeat("x", appraise.MaxStandardBytes/3)
	for n := range appraise.MaxStandards + 20 {
		in := small
		if n%300 == 0 {
			in = large
		}
		if _, err := s.Of(fmt.Sprint(n), in); err != nil {
			t.Fatal(err)
		}
		if n, size := s.Kept(); n > appraise.MaxStandards || size > appraise.MaxStandardBytes {
			t.Fatalf("%d of %d bytes", n, size)
		}
	}
}
