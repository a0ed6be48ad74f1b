package device_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/conformance/demo"
)

// The tool of the scenario about harvested quotes does what it promises, on a machine without firmware: its polls are
// genuine, so what refuses them later is not a fault of theirs.
func TestHarvestedPollsAreGenuine(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("harvested")
	tool := buildHarvest(t, t.Context())
	flag := func(name string) string { return d.Args()[slices.Index(d.Args(), name)+1] }
	run := func(more ...string) string {
		args := append([]string{"--trust", flag("--trust"), "--tpm", flag("--tpm"), "--event-log", flag("--event-log"), "--dir", filepath.Join(d.StateDir(), "harvest")}, more...)
		out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := run(); out != "harvest: taken\n" {
		t.Fatalf("got %s", out)
	}
	before := d.Seen()
	out := run("--submit")
	t.Log(out)
	for _, want := range []string{
		`unsent verdict="refused" reasons="nonce_unknown"`, `accepted verdict="affirmed" reasons=""`, `transplanted verdict="refused" reasons="nonce_unknown"`,
	} {
		if !strings.Contains(out, "harvest: "+want) {
			t.Errorf("no answer is %s", want)
		}
	}
	if after := d.Seen(); !after.LeaseUntil.Equal(*before.LeaseUntil) || !after.ProvenAt.Equal(*before.ProvenAt) || after.Quarantine != nil {
		t.Errorf("the replay changed %+v to %+v", before, after)
	}
	if step := d.Agent(); len(step.Refusals) > 0 {
		t.Errorf("after it the device is refused: %s", step)
	}
}

// buildHarvest builds the tool for the machine.
func buildHarvest(t *testing.T, ctx context.Context) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "harvest")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, "./harvest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the tool: %v\n%s", err, text)
	}
	return out
}
