package vectors_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// recordedPath is what the libraries of others said; the test with the build tag interop writes and holds it.
const recordedPath = "libraries.json"

// libraries are asked beside cordon, in the order of the page's columns.
var libraries = []string{"go-tpm-tools", "go-attestation"}

// said is what a library does with Evidence.
type said string

const (
	saidAccepts said = "accepts"
	saidRefuses said = "refuses"
	saidPanics  said = "panics"
	saidMemory  said = "takes over 2 GiB"
	saidHangs   said = "does not end"
)

// recorded are the answers of every library to every case that it can be asked about.
type recorded struct {
	Versions map[string]string          `json:"versions"` // of each library
	Answers  map[string]map[string]said `json:"answers"`  // vector, library
}

func readRecorded(t *testing.T) recorded {
	t.Helper()
	b, err := os.ReadFile(recordedPath)
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	if err := json.Unmarshal(b, &r, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	return r
}

// versions reads which version of each library is the one that go.sum lets in.
func versions(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range libraries {
		m := regexp.MustCompile(`github\.com/google/`+name+` (v[^\s/]+) h1:`).FindAllSubmatch(b, -1)
		if len(m) != 1 {
			t.Fatalf("go.sum has %d versions of %s, want one", len(m), name)
		}
		out[name] = string(m[0][1])
	}
	return out
}

// notion is why a case is no question to a library: its functions have no place for what decides it.
type notion struct{ word, about string }

var notions = []notion{
	{"document", "both take a quote, a signature, registers and a log; the document around them, its limits and the order of its members are the caller's"},
	{"verifier", "the verifier's own side is incomplete, and neither is told what this case leaves out"},
	{"limit", "the limits to the size of a log and of its events are cordon's own"},
	{"key", "which keys may be registered is a matter of other functions (`VerifyCertifiedAKBlob`, `ActivationParameters`), so a registered key counts as good here"},
	{"hierarchy", "neither has a place for the qualified name of the registered key"},
	{"history", "neither remembers the last accepted quote"},
	{"log digest", "the digest of the log inside the signed transcript is the caller's matter"},
	{"registers", "neither is told which registers must be quoted"},
	{"policy", "neither is told which release, platform or policy is expected"},
}

// noNotion is the word of the notion that a library lacks to be asked about c, or "" when it can be asked. Where in doubt
// it is in the libraries' favour.
func noNotion(c evidencetest.Case) string {
	only := func(r ...reason.Reason) bool {
		return len(c.Reasons) > 0 && !slices.ContainsFunc(c.Reasons, func(x reason.Reason) bool { return !slices.Contains(r, x) })
	}
	switch full := c.ID + " " + c.Name; {
	case c.Stage == evidencetest.StageDocument || full == "N12 unknown version" || full == "N86 values not in order":
		return "document"
	case c.Stage == evidencetest.StageInput && c.ID != "N33":
		return "verifier"
	case only(reason.RequestTooLarge):
		return "limit"
	case c.ID == "N32":
		return "hierarchy"
	case only(reason.AKNotBound):
		return "key"
	case only(reason.NonceReused):
		return "history"
	case full == "N62 log outside of the transcript" || full == "N100 another log":
		return "log digest"
	case c.ID == "N81" || c.ID == "N82" || full == "N84 PCR 1 of zeros that the log explains":
		return "registers"
	case only(reason.PCRMismatch, reason.FirmwareRolledBack, reason.ComponentRevoked, reason.SecureBootOff):
		return "policy"
	}
	return ""
}

// The answers belong to today's cases and to the versions that are built in.
func TestRecordedAnswersAreOfTheseCases(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	for name, want := range versions(t) {
		if got := r.Versions[name]; got != want {
			t.Errorf("the answers are of %s %s, and go.sum has %s; run: go test -tags interop ./conformance/vectors -update", name, got, want)
		}
	}
	asked := map[string]bool{}
	for _, c := range evidencetest.Cases() {
		word := noNotion(c)
		if word != "" {
			if !slices.ContainsFunc(notions, func(n notion) bool { return n.word == word }) {
				t.Errorf("%s %s: the page does not explain %q", c.ID, c.Name, word)
			}
			continue
		}
		name := nameOf(c)
		asked[name] = true
		for _, library := range libraries {
			if r.Answers[name][library] == "" {
				t.Errorf("%s was not asked about %s; run: go test -tags interop ./conformance/vectors -update", library, name)
			}
		}
	}
	for name := range r.Answers {
		if !asked[name] {
			t.Errorf("%s has answers and is no case to ask about", name)
		}
	}
}

// tally counts what a library, or cordon, does with the cases that it can be asked about.
type tally struct {
	Asked, ToRefuse, WronglyAccepted, WronglyRefused, Broken int
	Accepted                                                 []string // wrongly, by number of the case
}

// count tallies the answers to every case that the libraries can be asked about.
func count(answer func(evidencetest.Case) said) (n tally) {
	for _, c := range evidencetest.Cases() {
		if noNotion(c) != "" {
			continue
		}
		good := c.Stage == evidencetest.StageAffirmed
		n.Asked++
		if !good {
			n.ToRefuse++
		}
		switch said := answer(c); {
		case said == saidAccepts && !good:
			n.WronglyAccepted++
			n.Accepted = append(n.Accepted, c.ID)
		case said == saidRefuses && good:
			n.WronglyRefused++
		case said != saidAccepts && said != saidRefuses:
			n.Broken++
		}
	}
	slices.Sort(n.Accepted)
	n.Accepted = slices.Compact(n.Accepted)
	return n
}

// ours tallies cordon's own answers, asked now; undecidable is a refusal here, because nobody passes.
func ours(t *testing.T) tally {
	t.Helper()
	return count(func(c evidencetest.Case) said {
		a, err := vectors.Ours(vector(t, c).Question)
		if err != nil {
			t.Fatal(err)
		}
		if a.Outcome == vectors.Affirmed {
			return saidAccepts
		}
		return saidRefuses
	})
}

func TestWeAcceptNothingWrongly(t *testing.T) {
	t.Parallel()
	if n := ours(t); n.Asked < 150 || n.WronglyAccepted != 0 || n.WronglyRefused != 0 {
		t.Errorf("got %+v, want nothing wrong", n)
	}
}

// cells are the columns of a case.
func (r recorded) cells(c evidencetest.Case) string {
	if word := noNotion(c); word != "" {
		return " | – (" + word + ") | – (" + word + ")"
	}
	var b strings.Builder
	for _, library := range libraries {
		right := saidRefuses
		if c.Stage == evidencetest.StageAffirmed {
			right = saidAccepts
		}
		answer := r.Answers[nameOf(c)][library]
		if answer != right {
			answer = "**" + answer + "**"
		}
		b.WriteString(" | " + string(answer))
	}
	return b.String()
}

const chapterHead = `
## What two libraries say to the same Evidence

The last two columns are what %s say. They are asked in a process of their own with at
most 2 GiB of address space and a deadline (` + "`just test-interop`" + `); their answers are kept in
` + "`conformance/vectors/libraries.json`" + `, and a later run that differs fails.

| | what was called | accepts |
|---|---|---|
| go-tpm-tools | ` + "`server.VerifyAttestation`" + ` with the registered key as the only trusted one, SHA-256 alone, no SHA-1, no boot loader named | it returned a machine state and no error |
| go-attestation | ` + "`ParseAKPublic`, `AKPublic.VerifyAll`, `ParseEventLog`, `EventLog.Verify`, `ParseSecurebootState`" + `, one after the other | none of them returned an error |

As nonce both get the transcript that cordon expects, so the device, purpose, connection and claims in it count as checked
by them. What is accepted is not yet trusted by a careful program: it can look at the registers, events and state that it
gets back, and these libraries leave that to it. The columns tell whether the library itself noticed. Not each acceptance
is an attack by itself: bytes that the TPM signed behind its quote need a wrong TPM, and a log that names a register beyond
23 harms only who reads it. Others are attacks: a log without the events of a register, or with programs that are called
actions, hides what was started.

Bold is what differs from the right outcome. A library that panics or takes more than 2 GiB stops the program around it,
unless that is guarded, and a device can send what does it. A dash is no question to the library, because its functions
have no place for what decides the case; where in doubt it is a dash:

`

// chapter tells what was asked, and counts.
func (r recorded) chapter(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	var who []string
	for _, name := range libraries {
		who = append(who, name+" "+r.Versions[name])
	}
	fmt.Fprintf(&b, chapterHead, strings.Join(who, " and "))
	for _, n := range notions {
		fmt.Fprintf(&b, "- %s: %s.\n", n.word, n.about)
	}
	b.WriteString("\n| verifier | asked | of these to be refused | wrongly accepted | wrongly refused | panics, exhausts or hangs | numbers of the wrongly accepted |\n|---|---|---|---|---|---|---|\n")
	row := func(name string, n tally) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %s |\n", name, n.Asked, n.ToRefuse, n.WronglyAccepted, n.WronglyRefused, n.Broken, strings.Join(n.Accepted, " "))
	}
	row("cordon", ours(t))
	for _, name := range libraries {
		row(name, count(func(c evidencetest.Case) said { return r.Answers[nameOf(c)][name] }))
	}
	b.WriteString("\nBoth refuse P1 Secure Boot because the pretended log names no authority of the program that was started.\n")
	return b.String()
}
