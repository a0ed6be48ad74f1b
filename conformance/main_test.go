package main

import (
	"testing"
)

func TestMistakesAreUsageErrors(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"unknown command": {"nonsense"}, "unknown flag": {"demo", "--nonsense"}, "argument": {"demo", "twice"},
		"no trust bundle": {"device", "up", "--dir", t.TempDir()}, "no file with a trust bundle": {"device", "up", "--dir", t.TempDir(), "--trust", "nowhere"}, "unknown break": {"device", "break", "the law", "--dir", t.TempDir()},
	} {
		if got := run(t.Context(), args); got != exitUsage {
			t.Errorf("%s: exit %d, want %d", name, got, exitUsage)
		}
	}
}

func TestFolderInUseIsNotTaken(t *testing.T) {
	t.Parallel()
	if got := run(t.Context(), []string{"demo", "--dir", "."}); got != exitUndecided {
		t.Errorf("exit %d, want %d", got, exitUndecided)
	}
}

func TestHelpIsNoMistake(t *testing.T) {
	t.Parallel()
	if got := run(t.Context(), []string{"demo", "--help"}); got != exitOK {
		t.Errorf("exit %d, want %d", got, exitOK)
	}
}
