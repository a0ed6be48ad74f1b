package vectors_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// recording is an Input with its event log and the verdict that a build of the past reached: what 'cordonctl appraise --input'
// reads.
type recording struct {
	Input   *attestation.Input `json:"input"`
	Log     []byte             `json:"log,omitzero"`
	Verdict jsontext.Value     `json:"verdict"`
}

// keptNames are those of the generated vectors that are kept as they were: one for each way a verdict ends.
var keptNames = []string{
	"P1-plain", "P1-secure-boot", "P2-after-an-update", "P2-recovery", "N117-secure-boot-off", "N132-older-release", "N138-withdrawn-program",
	"N139-policy-tightened", "N61-replay", "N85-value-altered", "N103-middle-event",
}

// A verdict is the same bytes for good: what is in the folder recorded was written once and is never made anew. A build
// that fails here calls every stored verdict into question that it did not reach itself.
func TestRecordedVerdictsAreReachedForGood(t *testing.T) {
	t.Parallel()
	if *update {
		keep(t)
	}
	files, err := filepath.Glob("recorded/*.json")
	if err != nil || len(files) < len(keptNames) {
		t.Fatalf("got %d recorded verdicts, %v, want at least %d", len(files), err, len(keptNames))
	}
	outcomes := map[attestation.Outcome]int{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var k recording
		if err := json.Unmarshal(b, &k, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		in := *k.Input
		in.Log = k.Log
		verdict, err := attestation.Appraise(in)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		got, err := verdict.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, k.Verdict) {
			t.Errorf("%s:\nnow      %s\nrecorded %s", file, got, k.Verdict)
		}
		outcomes[verdict.Outcome]++
	}
	if outcomes[attestation.Affirmed] == 0 || outcomes[attestation.Refused] == 0 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// keep writes what is not there yet.
func keep(t *testing.T) {
	t.Helper()
	all, err := vectors.Load(os.DirFS("negative"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("recorded", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		path := filepath.Join("recorded", v.Question.Name+".json")
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || !slices.Contains(keptNames, v.Question.Name) {
			continue
		}
		if err := v.Verdict.Compact(); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(recording{Input: v.Question.Input, Log: v.Question.Log, Verdict: v.Verdict}, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
