package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// audit pulls a report, stops the server, and checks the report without it.
func (w *world) audit(ctx context.Context) (string, error) {
	w.say("dave, the auditor, pulls a report of today. Then the server is stopped: what follows needs no network.")
	from := time.Now().UTC().Add(-24 * time.Hour).Format(time.RFC3339)
	err := w.provable(ctx, func() error {
		_, err := w.must(ctx, "cordonctl", w.by("dave", "report", "--from", from, "--out", "report.json")...)
		return err
	})
	if err != nil {
		return "", err
	}
	w.stopServer()
	if err := w.forked(ctx); err != nil {
		return "", err
	}
	if err := w.verifies(ctx); err != nil {
		return "", err
	}
	if err := w.flipped(ctx); err != nil {
		return "", err
	}
	r, err := w.run(ctx, "cordonctl", "verify", "report.json")
	if err != nil {
		return "", err
	}
	if r.code != 3 {
		return "", fmt.Errorf("without a trust bundle nothing can be decided, want exit 3, got %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.ok("without a trust bundle from elsewhere nothing is decided: exit 3")
	return "verified; flipped: refused", w.startServer(ctx)
}

// verifies checks the report and writes the page for people.
func (w *world) verifies(ctx context.Context) error {
	out, err := w.must(ctx, "cordonctl", "verify", "report.json", "--trust", w.trustFile(), "--ek-roots", "ek-roots.pem", "--html", "report.html")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "coverage") {
			fmt.Fprintf(w.out, "     | %s\n", line)
		}
	}
	page, err := os.ReadFile(w.path("report.html"))
	if err != nil {
		return err
	}
	for _, want := range []string{w.a.id, w.b.id, product + "/1.2"} {
		if !bytes.Contains(page, []byte(want)) {
			return fmt.Errorf("the page for people does not speak of %s", want)
		}
	}
	w.ok("every verdict is reached again from the raw evidence; the page for people is written; exit 0")
	return nil
}

// flipped changes one bit in the middle of the report.
func (w *world) flipped(ctx context.Context) error {
	b, err := os.ReadFile(w.path("report.json"))
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(w.path("flipped.json"), b, 0o644); err != nil {
		return err
	}
	r, err := w.run(ctx, "cordonctl", "verify", "flipped.json", "--trust", w.trustFile())
	if err != nil {
		return err
	}
	if r.code != 1 {
		return fmt.Errorf("a report with one flipped bit should be refused with exit 1, got %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.ok("one bit is flipped: exit 1, %s", firstLine(strings.TrimSpace(r.stderr)))
	return nil
}
