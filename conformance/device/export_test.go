package device

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Parse reads a transcript that arrives in two pieces.
func Parse(first, second []byte) []Line {
	var p parser
	p.add(first)
	p.add(second)
	return p.lines
}

// AgentArguments are those of the agent on every machine.
func AgentArguments() []string { return agentArguments() }

// Begin clears half a machine away.
func Begin(dir string) error {
	b, err := NewBench(dir, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	return b.begin()
}

// Listens reports whether a machine that said so much takes commands.
func Listens(t *testing.T, said string) bool {
	t.Helper()
	file := filepath.Join(t.TempDir(), serialFile)
	if err := os.WriteFile(file, []byte(said), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := (&transcript{file: file}).listens()
	if err != nil {
		t.Fatal(err)
	}
	return got
}
