// Package eventlogtest gives tests the genuine event logs that the project can reach, each under one name: those that
// Google's go-eventlog, go-tpm-tools and go-attestation ship as test data (Apache-2.0; read from the Go module cache at the
// versions of go.mod, never copied), and the project's own recordings.
//
// It promises that every log is the one whose digest conformance/vectors/logs/corpus.json names. It refuses to run
// without that file and without the modules. Only tests import it; nobody trusts it.
package eventlogtest

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation/digest"
)

const self = "github.com/cordon-ota/cordon"

// sources are the folders that the corpus is made of: everything in them is a log of a TPM, unless it is excluded.
var sources = []struct{ module, pattern string }{
	{self, "conformance/vectors/measured-boot/*/eventlog.bin"},
	{"github.com/google/go-eventlog", "testdata/eventlogs/tpm/*"},
	{"github.com/google/go-eventlog", "testdata/legacydata/*"},
	{"github.com/google/go-tpm-tools", "internal/test/eventlogs/*"},
	{"github.com/google/go-attestation", "attest/testdata/*"},
}

// Log is one genuine log.
type Log struct {
	Name   string // unique: module and file
	Bytes  []byte
	SHA256 digest.SHA256
}

// Expectation is what the project's parser makes of one log: a row of corpus.json.
type Expectation struct {
	Name        string                   `json:"name"`
	SHA256      digest.SHA256            `json:"sha256"`
	Outcome     string                   `json:"outcome"`               // "parsed" or the name of the policy that refuses it
	Events      int                      `json:"events,omitzero"`       // with the header
	Unexplained []string                 `json:"unexplained,omitempty"` // "index type"
	Departures  []string                 `json:"departures,omitempty"`  // rules of Log.Departures that it breaks
	PCRs        map[string]digest.SHA256 `json:"pcrs,omitempty"`        // as replayed
}

// roots finds where the modules lie. Building does not fetch those that no package of ours imports, so they are asked for.
func roots(t testing.TB) map[string]string {
	t.Helper()
	fetch := []string{"mod", "download"}
	args := []string{"list", "-m", "-f", "{{.Path}}\t{{.Dir}}"}
	for _, s := range sources {
		if !slices.Contains(args, s.module) {
			args, fetch = append(args, s.module), append(fetch, s.module)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "go", fetch...).CombinedOutput(); err != nil {
		t.Fatalf("cannot fetch the modules that ship logs: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		t.Fatalf("cannot find the modules that ship logs: %v", err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if dir == "" {
			t.Fatalf("module %s is not in the module cache; run: go mod download %s", path, path)
		}
		found[path] = dir
	}
	return found
}

// All returns every log of the corpus, each content once, in the order of their names.
func All(t testing.TB) []Log {
	t.Helper()
	dirs := roots(t)
	var logs []Log
	for _, s := range sources {
		files, err := filepath.Glob(filepath.Join(dirs[s.module], filepath.FromSlash(s.pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no logs in %s: %v", s.module, s.pattern, err)
		}
		for _, file := range files {
			log, err := load(s.module, file)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(logs, func(l Log) bool { return l.SHA256 == log.SHA256 }) {
				logs = append(logs, log)
			}
		}
	}
	slices.SortFunc(logs, func(a, b Log) int { return cmp.Compare(a.Name, b.Name) })
	return logs
}

// load reads one file: a log, or go-attestation's JSON with a log in it.
func load(module, file string) (Log, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Log{}, err
	}
	name := filepath.Base(module) + "/" + filepath.Base(file)
	if module == self {
		name = "cordon/" + filepath.Base(filepath.Dir(file))
	}
	if strings.HasSuffix(file, ".json") {
		var dump struct {
			Log struct{ Raw string }
		}
		if err := json.Unmarshal(b, &dump, jsontext.AllowDuplicateNames(false)); err != nil {
			return Log{}, fmt.Errorf("cannot read %s: %w", name, err)
		}
		if b, err = base64.StdEncoding.DecodeString(dump.Log.Raw); err != nil {
			return Log{}, fmt.Errorf("cannot read %s: %w", name, err)
		}
	}
	return Log{Name: name, Bytes: b, SHA256: digest.Of(b)}, nil
}

// ExpectationsFile is where corpus.json lies.
func ExpectationsFile(t testing.TB) string {
	t.Helper()
	return filepath.Join(roots(t)[self], "conformance", "vectors", "logs", "corpus.json")
}

// Expectations reads corpus.json; none when the file is not there yet.
func Expectations(t testing.TB) []Expectation {
	t.Helper()
	b, err := os.ReadFile(ExpectationsFile(t))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []Expectation
	if err := json.Unmarshal(b, &list, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("cannot read corpus.json: %v", err)
	}
	return list
}
