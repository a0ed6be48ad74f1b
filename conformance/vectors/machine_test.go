package vectors_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// What a virtual PC said about its genuine and its tampered boots is judged as it was on the day, byte for byte.
func TestEvidenceOfTheMachineIsJudgedAsRecorded(t *testing.T) {
	t.Parallel()
	all, err := vectors.Load(os.DirFS("machine"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("machine/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var seen []reason.Reason
	genuine := 0
	for _, v := range all {
		a, verdict, err := vectors.Ask(v.Question)
		if err != nil {
			t.Fatal(err)
		}
		want := v.Verdict.Clone()
		if err := want.Compact(); err != nil {
			t.Fatal(err)
		}
		if v.Judge(a) != vectors.Right || !bytes.Equal(verdict, want) {
			t.Errorf("%s: now %v\n%s, recorded %v\n%s", v.Question.Name, a, verdict, v.Answer, want)
		}
		if !strings.Contains(string(page), "`"+v.Question.Name+"`") {
			t.Errorf("README.md does not say how %s was made", v.Question.Name)
		}
		seen = append(seen, a.Reasons...)
		if a.Outcome == vectors.Affirmed {
			genuine++
		}
	}
	for _, want := range []reason.Reason{reason.PCRMismatch, reason.EventlogMismatch} {
		if !slices.Contains(seen, want) {
			t.Errorf("no tampered boot is refused with %s", want)
		}
	}
	if genuine == 0 {
		t.Error("no genuine boot is among them")
	}
}
