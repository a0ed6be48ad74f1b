//go:build interop

package vectors_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// patience ends a library that does not come back. It is a guard and measures nothing.
const patience = 2 * time.Minute

// library is a process that answers as one library, started again when a question ended it.
type library struct {
	name     string
	patience time.Duration
	ask      vectors.Verifier
	stop     func()
	log      *bytes.Buffer // standard error; read only after stop
}

func (l *library) start(t *testing.T) {
	t.Helper()
	l.log = &bytes.Buffer{}
	var err error
	if l.ask, l.stop, err = vectors.Start(t.Context(), l.log, os.Args[0]); err != nil {
		t.Fatal(err)
	}
}

// says puts one question and tells what came of it.
func (l *library) says(t *testing.T, q vectors.Question) said {
	t.Helper()
	type answer struct {
		vectors.Answer
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		a, err := l.ask(q)
		answers <- answer{a, err}
	}()
	guard := time.NewTimer(l.patience)
	defer guard.Stop()
	select {
	case <-guard.C:
		l.stop()
		<-answers
		l.start(t)
		return saidHangs
	case a := <-answers:
		if a.err == nil {
			return map[string]said{vectors.Affirmed: saidAccepts, vectors.Refused: saidRefuses, vectors.Undecidable: saidPanics}[a.Outcome]
		}
		l.stop()
		why := l.log.String()
		if !strings.Contains(why, "out of memory") {
			t.Fatalf("%s about %s: %v\n%s", l.name, q.Name, a.err, why)
		}
		l.start(t)
		return saidMemory
	}
}

// What two libraries say to the same Evidence: held against the recorded answers, which the page shows.
func TestLibrariesAnswerAsRecorded(t *testing.T) {
	got := recorded{Versions: versions(t), Answers: map[string]map[string]said{}}
	for _, name := range libraries {
		t.Setenv("VECTORS_VERIFIER", name)
		l := &library{name: name, patience: patience}
		l.start(t)
		for _, c := range evidencetest.Cases() {
			if noNotion(c) != "" {
				continue
			}
			q := vector(t, c).Question
			if got.Answers[q.Name] == nil {
				got.Answers[q.Name] = map[string]said{}
			}
			got.Answers[q.Name][name] = l.says(t, q)
		}
		l.stop()
	}
	if *update {
		got.write(t)
		return
	}
	if diff := cmp.Diff(got, readRecorded(t)); diff != "" {
		t.Errorf("%s is not current (-now +file); run: go test -tags interop ./conformance/vectors -update\n%s", recordedPath, diff)
	}
}

func (r recorded) write(t *testing.T) {
	t.Helper()
	b, err := json.Marshal(r, json.Deterministic(true), jsontext.WithIndent(" "))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordedPath, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A library that does not answer is ended, and told apart.
func TestLibraryThatHangsIsEnded(t *testing.T) {
	t.Setenv("VECTORS_VERIFIER", "silent")
	l := &library{name: "silent", patience: time.Millisecond}
	l.start(t)
	defer func() { l.stop() }()
	if got := l.says(t, vector(t, evidencetest.CasesOf(evidencetest.StageAffirmed)[0]).Question); got != saidHangs {
		t.Errorf("got %q, want %q", got, saidHangs)
	}
}

// A device that is in order is accepted by both: what they refuse they refuse for what was done to it. The pretended
// device with Secure Boot is left out, because its log names no authority of the program, which both ask for.
func TestLibrariesAcceptWhatIsInOrder(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.CasesOf(evidencetest.StageAffirmed) {
		if !strings.HasPrefix(c.ID, "P") || c.Name == "Secure Boot" {
			continue
		}
		q := vector(t, c).Question
		if err := askTPMTools(*q.Input, q.Log); err != nil {
			t.Errorf("%s: go-tpm-tools: %v", q.Name, err)
		}
		if err := askGoAttestation(*q.Input, q.Log); err != nil {
			t.Errorf("%s: go-attestation: %v", q.Name, err)
		}
	}
}
