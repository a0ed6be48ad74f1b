package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestRotateNeedsAnEnrolledDevice(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	bundle := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(bundle, trustBundle(t), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	code := run(t.Context(), []string{"rotate-ak", "--trust", bundle, "--tpm", tpm.Addr(), "--state", t.TempDir()}, t.Output(), &log)
	if code != exitUndecided || !strings.Contains(log.String(), "not enrolled") || !strings.Contains(log.String(), "hint: ") {
		t.Errorf("exit %d, want %d: %s", code, exitUndecided, log.String())
	}
}

func TestRotatedSaysWhatHappened(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rotated{Device: "d", Rotated: true}.text(&out)
	rotated{Device: "d", Refusals: []client.Refusal{{Reason: "ak_not_bound", Remedy: "ask"}}}.text(&out)
	want := "device d\nthe attestation key was replaced; quotes of the old one count for nothing\ndevice d\nrefused by the server: ak_not_bound\n  next: \"ask\"\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
