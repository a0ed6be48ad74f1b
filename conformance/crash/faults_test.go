package crash_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// TestEveryFaultIsSurvived breaks what the programs stand on while they work: disks, the object store, the database.
func TestEveryFaultIsSurvived(t *testing.T) {
	t.Parallel()
	book := &faultBook{}
	t.Run("worlds", func(t *testing.T) {
		for _, world := range []struct { // the longest first
			name string
			play func(*testing.T, *faultBook)
		}{
			{"database", databaseFaults}, {"object store", storeFaults}, {"server disk", serverDiskFaults}, {"devices and signer", deviceFaults},
		} {
			t.Run(world.name, func(t *testing.T) {
				t.Parallel()
				world.play(t, book)
			})
		}
	})
	book.print(t)
}

// faultRow is what somebody saw of a fault, and what became of it.
type faultRow struct {
	fault  string
	during string
	saw    string // what the caller saw
	after  string // the fault
}

// faultBook collects the rows of all worlds. It is safe for concurrent use.
type faultBook struct {
	mu   sync.Mutex
	rows []faultRow
}

func (b *faultBook) add(r faultRow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = append(b.rows, r)
}

// print writes the table.
func (b *faultBook) print(t *testing.T) {
	t.Helper()
	slices.SortStableFunc(b.rows, func(a, b faultRow) int { return strings.Compare(a.fault, b.fault) })
	var out strings.Builder
	fmt.Fprintf(&out, "%-45s %-36s %-52s %s\n", "fault", "during", "the caller saw", "after the fault")
	for _, r := range b.rows {
		fmt.Fprintf(&out, "%-45s %-36s %-52s %s\n", r.fault, r.during, r.saw, r.after)
	}
	fmt.Fprintf(&out, "%d faults\n", len(b.rows))
	t.Log("\n" + out.String())
}

// faultWorld is a world with a fault in it.
type faultWorld struct {
	*world
	book  *faultBook
	fault string
}

func newFaultWorld(t *testing.T, book *faultBook, c demo.StageConfig) *faultWorld {
	t.Helper()
	return &faultWorld{world: newWorld(t, &ledger{}, c), book: book}
}

// seen is what a caller got while the fault lasted.
type seen struct {
	text string
	hit  bool // the caller was sent away; otherwise the fault did not touch this
}

// over writes the row of what was seen, when the fault is gone and the next clean cycle has succeeded.
func (w *faultWorld) over(during string, saw seen, after string) {
	w.book.add(faultRow{fault: w.fault, during: during, saw: saw.text, after: after})
}

// must is for what a fault has to send away, or it was no fault.
func (w *faultWorld) must(during string, saw seen) seen {
	w.t.Helper()
	if !saw.hit {
		w.t.Errorf("%s, %s: the fault was not felt: %s", w.fault, during, saw.text)
	}
	return saw
}

// unharmed is for what must go on in spite of the fault.
func (w *faultWorld) unharmed(during string, saw seen) seen {
	w.t.Helper()
	if saw.hit {
		w.t.Errorf("%s, %s: want it unharmed, got %s", w.fault, during, saw.text)
	}
	return saw
}

// askTime is far more than an answer takes, also one that waits for a dead store.
const askTime = 60 * time.Second

// ask sends one request of the admin API, once. Whatever is broken, an answer is a success, or a problem document that
// says: come back.
func (w *faultWorld) ask(person, method, path string, header map[string]string, body []byte) seen {
	w.t.Helper()
	token, err := os.ReadFile(w.s.Path(person + ".token"))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.s.AdminURL()+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := w.s.Client().Do(req)
	if err != nil {
		w.t.Errorf("%s, %s %s: no answer: %v", w.fault, method, path, err)
		return seen{}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		w.t.Errorf("%s, %s %s: %v", w.fault, method, path, err)
	}
	if res.StatusCode < 300 {
		return seen{text: strconv.Itoa(res.StatusCode)}
	}
	var p wire.Problem
	if err := json.Unmarshal(b, &p); err != nil && method != http.MethodHead {
		w.t.Errorf("%s, %s %s: %d without a problem document: %.200s", w.fault, method, path, res.StatusCode, b)
	}
	after := res.Header.Get("Retry-After")
	if res.StatusCode != http.StatusServiceUnavailable || p.Reason != reason.ServerBusy || after == "" {
		w.t.Errorf("%s, %s %s: got %d %s %q, Retry-After %q, want 503 %s and when to come back", w.fault, method, path, res.StatusCode, p.Reason, p.Detail, after, reason.ServerBusy)
	}
	return seen{text: fmt.Sprintf("%d %s, Retry-After %s", res.StatusCode, p.Reason, after), hit: true}
}

// upload sends a blob, once.
func (w *faultWorld) upload(file string) seen {
	w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return w.ask("ci-builder", http.MethodPut, "/api/v1/blobs/"+hex.EncodeToString(sum[:]), map[string]string{
		"Upload-Offset": "0", "Upload-Length": strconv.Itoa(len(b)), "Content-Type": "application/octet-stream",
	}, b)
}

// hold holds a release, once.
func (w *faultWorld) hold(name string) seen {
	w.t.Helper()
	return w.ask("bob", http.MethodPost, "/api/v1/releases/"+name+"/hold", map[string]string{"Content-Type": "application/json"}, []byte(`{"detail":"fault"}`))
}

// approve is one person's approval, once.
func (w *faultWorld) approve(person, name string) seen {
	w.t.Helper()
	return w.ask(person, http.MethodPost, "/api/v1/releases/"+name+"/approve", nil, nil)
}

// tool runs a program; one that cannot do its work says why and what to do, with exit 3.
func (w *faultWorld) tool(program string, args ...string) seen {
	w.t.Helper()
	code, _, stderr := w.s.Run(program, args...)
	return w.ended(program, code, stderr)
}

func (w *faultWorld) ended(program string, code int, stderr string) seen {
	w.t.Helper()
	if code == 0 {
		return seen{text: "exit 0"}
	}
	_, hint, found := strings.Cut(stderr, "\nhint: ")
	if code != 3 || !found || !strings.Contains(stderr, program+": ") {
		w.t.Errorf("%s, %s: got exit %d, want 3 with a hint: %s", w.fault, program, code, stderr)
	}
	hint, _, _ = strings.Cut(strings.TrimSpace(hint), "\n")
	return seen{text: fmt.Sprintf("exit %d, hint: %.36s", code, hint), hit: true}
}

// giveUp is how long cordon-sign tries while nothing can be published. It is a limit of the tool, not of the test.
const giveUp = "--timeout=2s"

// publish tries to publish for a while.
func (w *faultWorld) publish(r release) seen {
	w.t.Helper()
	return w.tool("cordon-sign", append(r.args(), giveUp)...)
}

// agent runs a device's agent. It has either done its work or says what is wrong; no error of ours is a refusal.
func (w *faultWorld) agent(d *demo.Device) seen {
	w.t.Helper()
	code, _, stderr := d.AgentEnv()
	if d.Reboots() {
		d.Boot()
	}
	return w.ended("cordon-agent", code, stderr)
}

// disk is a file system of a folder's own.
type disk struct {
	t   *testing.T
	dir string
}

const diskSize = "1g" // of which only what is written takes memory

// newDisk puts a folder with its content on a file system of its own.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root, in a container with CAP_SYS_ADMIN")
	}
	aside := dir + ".aside"
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, dir: dir}
	d.mount("-t", "tmpfs", "-o", "mode=0700,size="+diskSize, "cordon-test", dir)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil { // the context has ended
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", aside+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return d
}

func (d *disk) mount(args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), "mount", args...).CombinedOutput(); err != nil {
		d.t.Fatalf("mount %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// fill leaves room bytes free.
func (d *disk) fill(room int64) {
	d.t.Helper()
	used := d.used()
	d.mount("-o", fmt.Sprintf("remount,size=%d", used+max(room, 64<<10)), d.dir)
	if room >= 64<<10 {
		return
	}
	filler, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer filler.Close()
	for {
		if _, err := filler.Write(make([]byte, 4<<10)); err != nil {
			break // that is full
		}
	}
	info, err := filler.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := filler.Truncate(max(0, info.Size()-room)); err != nil {
		d.t.Fatal(err)
	}
}

// used is how many bytes the files of the disk take.
func (d *disk) used() int64 {
	d.t.Helper()
	out, err := exec.CommandContext(d.t.Context(), "df", "--output=used", "-B1", d.dir).Output()
	if err != nil {
		d.t.Fatal(err)
	}
	fields := strings.Fields(string(out))
	n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// free makes room again.
func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "filler")); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	d.mount("-o", "remount,size="+diskSize, d.dir)
}

// readOnly takes the right to write away. No file may be open for writing.
func (d *disk) readOnly() { d.t.Helper(); d.mount("-o", "remount,ro", d.dir) }

func (d *disk) writable() { d.t.Helper(); d.mount("-o", "remount,rw", d.dir) }
