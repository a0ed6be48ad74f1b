package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxBinary is the budget of design section 9.
const maxBinary = 24 << 20

var buildLine = regexp.MustCompile(`(?m)^ +(CGO_ENABLED=0) go (build .* -ldflags "([^"]*)") -o \S+ ./client/agent$`)

// TestStaticBinaryKeepsItsBudget builds the agent as the recipe build of the justfile does.
func TestStaticBinaryKeepsItsBudget(t *testing.T) {
	t.Parallel()
	recipes, err := os.ReadFile("../../justfile")
	if err != nil {
		t.Fatal(err)
	}
	line := buildLine.FindSubmatch(recipes)
	if line == nil {
		t.Fatal("the justfile does not build the agent as expected")
	}
	out := filepath.Join(t.TempDir(), "cordon-agent")
	args, _, _ := strings.Cut(string(line[2]), " -ldflags")
	args = strings.ReplaceAll(args, "-buildvcs=auto", "-buildvcs=false") // the state of the repository does not change its size
	cmd := exec.CommandContext(t.Context(), "go", append(strings.Fields(args), "-ldflags", string(line[3]), "-o", out, ".")...)
	cmd.Env = append(os.Environ(), string(line[1]))
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("agent: %.1f MiB, budget %d MiB", float64(info.Size())/(1<<20), maxBinary>>20)
	if info.Size() > maxBinary {
		t.Errorf("the agent has %d bytes, at most %d are allowed", info.Size(), maxBinary)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the agent is not static: it names an interpreter")
		}
	}
}
