package crash_test

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the server's database, while the server is away

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// logCrashes kills the server at every step between an event and the checkpoint that covers it.
func logCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	w.signValve()
	for i, point := range []string{"server.log.grown", "server.log.signed", "server.log.stored"} {
		r := w.newRelease(i + 1)
		if !w.serverDies(point, r.all) {
			continue
		}
		r.complete()
		w.covered()
		book.add(row{point: point, process: "server", cycle: "an event becomes a leaf of the log", after: "the log covers every event"})
	}
	w.s.Report()
}

// covered waits until the signed checkpoint has a leaf for every event of now.
func (w *world) covered() {
	w.t.Helper()
	events := len(w.seen)
	w.s.WaitFor("the log to cover the events", func() error {
		note, err := w.as("dave").LogCheckpoint(w.t.Context())
		if err != nil {
			return err
		}
		lines := strings.SplitN(string(note), "\n", 3)
		var size int
		if _, err := fmt.Sscan(lines[1], &size); err != nil || size < events {
			return fmt.Errorf("the checkpoint has %q leaves, there are %d events", lines[1], events)
		}
		return nil
	})
}

// keepingCrashes kills the server while it removes blobs that nobody needs.
func keepingCrashes(t *testing.T, book *ledger) {
	w := newWorld(t, book, demo.StageConfig{})
	for i, point := range []string{"server.retention.condemned", "server.retention.collected"} {
		blob, sum := w.strayBlob(i)
		if !w.serverDies(point, func() {}) { // the server looks by itself when it starts
			continue
		}
		if out := w.s.Ctl("bob", "release", "gc", "--apply"); out == "" {
			t.Errorf("%s: gc says nothing", point)
		}
		if _, err := os.Stat(blob); err == nil {
			t.Errorf("%s: the blob is still there", point)
		}
		for _, version := range []string{demo.Recovery, "1.0"} { // what releases need stays
			if _, err := os.Stat(w.blobPath(w.s.Image(version))); err != nil {
				t.Errorf("%s: %v", point, err)
			}
		}
		w.check()
		if n := w.removals(sum); n != 1 {
			t.Errorf("%s: the log has %d removals of the blob, want 1", point, n)
		}
		book.add(row{point: point, process: "server", cycle: "a blob that nobody needs is removed", after: "removed, images of releases stay"})
	}
	d := w.s.NewDevice("kept", true)
	(&life{w: w, d: d}).until("gateway/1.0", nil)
	w.s.Report()
}

func (w *world) blobPath(d digest.SHA256) string {
	text := d.String()
	return w.s.Path("cordon-data", "artifacts", "blobs", text[:2], text)
}

// strayBlob uploads a blob for a release that never came, two days ago. The server is stopped after it.
func (w *world) strayBlob(n int) (path string, sum digest.SHA256) {
	w.t.Helper()
	file := w.file(fmt.Sprintf("stray-%d.bin", n), 5000)
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	sum = digest.Of(b)
	if err := w.as("ci-builder").Send(w.t.Context(), sum, int64(len(b)), strings.NewReader(string(b)), func(int64) {}); err != nil {
		w.t.Fatal(err)
	}
	w.s.StopServer()
	w.older(w.blobPath(sum), sum)
	return w.blobPath(sum), sum
}

// older makes a blob look as if nobody had relied on it for two days.
func (w *world) older(path string, sum digest.SHA256) {
	w.t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		w.t.Fatal(err)
	}
	db, err := sql.Open("sqlite", w.s.Path("cordon-data", "cordon.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(w.t.Context(), "UPDATE blobs SET touched_at = $1 WHERE sha256 = $2", then.UnixMicro(), sum[:]); err != nil {
		w.t.Fatal(err)
	}
}

// removals counts the events that say that the blob was removed.
func (w *world) removals(sum digest.SHA256) int {
	n := 0
	for _, e := range w.seen {
		if e.Type == "artifacts.removed" && strings.Contains(string(e.Data), sum.String()) {
			n++
		}
	}
	return n
}
