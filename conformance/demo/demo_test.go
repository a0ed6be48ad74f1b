package demo_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// The whole story, on both databases.
func TestStoryEndsWell(t *testing.T) {
	t.Parallel()
	for name, parts := range map[string]demo.Options{"SQLite and a directory": {}, "PostgreSQL and S3": {Postgres: true, S3: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			dir := filepath.Join(t.TempDir(), "work")
			summary, err := demo.Run(t.Context(), demo.Options{Dir: dir, Bin: programs.Dir(t), Postgres: parts.Postgres, S3: parts.S3, Out: &out, Log: t.Output()})
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			if len(summary.Rows) != demo.Chapters {
				t.Errorf("got %d rows, want %d", len(summary.Rows), demo.Chapters)
			}
			for _, r := range summary.Rows {
				if !r.OK {
					t.Errorf("%s: %s", r.Step, r.Got)
				}
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, " 0 failed") || !strings.HasPrefix(lines[0], "This demo uses the packages ") {
				t.Errorf("the story begins with %q and ends with %q", lines[0], last)
			}
			flippedBytesAreNoticed(t, dir)
		})
	}
}

// flippedBytesAreNoticed flips a bit at places all over the report of the story.
func flippedBytesAreNoticed(t *testing.T, dir string) {
	t.Helper()
	report, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := verify.Report(report, trust, verify.Options{}); got.Outcome != verify.Verified {
		t.Fatalf("the report does not verify: %+v", got)
	}
	const places = 40
	for i := range places {
		at := i * (len(report) - 1) / (places - 1)
		report[at] ^= 1
		if got := verify.Report(report, trust, verify.Options{}); got.Outcome != verify.Failed {
			t.Errorf("byte %d of %d flipped: outcome %s", at, len(report), got.Outcome)
		}
		report[at] ^= 1
	}
}

// A program that does not do its work ends the story, with the step in the table.
func TestFailedStepEndsTheStory(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	for _, name := range []string{"cordond", "cordon-sign", "cordon-agent"} {
		if err := os.Symlink(filepath.Join(programs.Dir(t), name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "cordonctl"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	summary, err := demo.Run(t.Context(), demo.Options{Dir: filepath.Join(t.TempDir(), "work"), Bin: bin, Out: &out, Log: t.Output()})
	if !errors.Is(err, demo.ErrFailed) {
		t.Fatalf("got %v, want ErrFailed", err)
	}
	if n := len(summary.Rows); n == 0 || n == demo.Chapters || summary.Rows[n-1].OK {
		t.Errorf("got rows %+v", summary.Rows)
	}
	if !strings.Contains(out.String(), "FAILED: ") || !strings.Contains(out.String(), " 1 failed") {
		t.Errorf("the table does not show the failure:\n%s", out.String())
	}
}

// An interrupt in the middle leaves nothing behind. Not parallel: the temporary folder is this test's own.
func TestInterruptLeavesNothingBehind(t *testing.T) {
	temp := t.TempDir()
	bin := programs.Dir(t)
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &trigger{on: "bob lists A", call: cancel}
	_, err := demo.Run(ctx, demo.Options{Bin: bin, Out: out, Log: t.Output()})
	if !errors.Is(err, demo.ErrFailed) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want a failed step that was cancelled", err)
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s", e.Name())
	}
}

// trigger calls once a text was written.
type trigger struct {
	on   string
	call func()
}

func (w *trigger) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.on) {
		w.call()
	}
	return len(b), nil
}

func TestFolderInUseIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := demo.Run(t.Context(), demo.Options{Dir: dir, Bin: programs.Dir(t), Out: t.Output(), Log: t.Output()})
	if !errors.Is(err, demo.ErrSetup) {
		t.Errorf("got %v, want ErrSetup", err)
	}
}
