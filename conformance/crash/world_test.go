package crash_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
)

var programs = demo.NewPrograms("cordon_crash")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// slow keeps everything that happens by itself away: what dies, dies in the cycle that is played.
const slow = `
[times]
timestamp = "15m"
poll = "15m"
beacon_window = "60m"
lease = "2h"
grace = "24h"
challenge = "5m"
update_deadline = "24h"
enforce = "200ms"
`

// world is a stage with somebody who watches it from outside.
type world struct {
	t     *testing.T
	s     *demo.Stage
	book  *ledger
	image *tufrepo.Image // what an independent reader of the repository has verified so far
	seen  []api.Event    // every event so far, read anew and compared each time
}

func newWorld(t *testing.T, book *ledger, c demo.StageConfig) *world {
	t.Helper()
	c.Bin = programs.Dir(t)
	if c.Times == "" {
		c.Times = slow
	}
	w := &world{t: t, s: demo.NewStage(t, c), book: book}
	b, err := os.ReadFile(w.s.Path("trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		t.Fatal(err)
	}
	if w.image, err = tufrepo.NewImage(trust.ImageRoot, time.Now()); err != nil {
		t.Fatal(err)
	}
	w.check()
	return w
}

func arm(point string) string { return "CORDON_CRASH=" + point }

// died reports whether text says that a program killed itself at the point.
func died(text, point string) bool {
	name, _, _ := strings.Cut(point, ":")
	return strings.Contains(text, "crash: "+name+"\n")
}

// endTime is how long a program gets to reach its point once everything that leads there has been done.
const endTime = 20 * time.Second

// serverDies restarts the server with the point armed, plays cause, which leads there, waits for the server's end, starts
// it again and checks what an outsider can check. It says whether the server died.
func (w *world) serverDies(point string, cause func()) bool {
	w.t.Helper()
	w.s.StopServer()
	before := strings.Count(w.s.ServerLog(), "crash: ")
	started := w.s.StartServerEnv(arm(point))
	done := make(chan struct{})
	go func() { // the tools try again by themselves when the server goes away under them
		defer close(done)
		if started == nil {
			cause()
		}
	}()
	ended, killed := w.s.ServerEnded(endTime)
	log := w.s.ServerLog()
	if !ended || !killed || strings.Count(log, "crash: ") != before+1 || !died(log, point) {
		w.t.Errorf("%s: the server was not killed there: ended %v, killed %v, start %v", point, ended, killed, started)
		w.s.StopServer()
		w.s.StartServer()
		<-done
		return false
	}
	w.s.KillServer() // forget the process
	w.s.StartServer()
	<-done
	w.check()
	return true
}

// check holds from outside what must be true at any time.
func (w *world) check() {
	w.t.Helper()
	if err := w.follow(); err != nil {
		w.t.Errorf("an independent reader of the repository: %v", err)
	}
	w.events()
}

// follow reads the repository as any TUF client does. The reader is never reset: what goes back is refused.
func (w *world) follow() error {
	w.image.SetTime(time.Now())
	timestamp, err := w.fetch("timestamp.json")
	if err != nil {
		return err
	}
	if err := w.image.Timestamp(timestamp); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	for _, product := range []string{"gateway", "valve"} {
		for {
			want, err := w.image.Next(product)
			if errors.Is(err, tufrepo.ErrDelegation) && product == "valve" {
				break // it has no policy yet
			}
			if err != nil {
				return err
			}
			if want == nil {
				break
			}
			doc, err := w.fetch(want.Name)
			if err != nil {
				return err
			}
			if err := w.image.Accept(want, doc); err != nil {
				return fmt.Errorf("%s: %w", want.Name, err)
			}
		}
	}
	return nil
}

func (w *world) fetch(name string) ([]byte, error) {
	return w.as("dave").RepoFile(w.t.Context(), name)
}

// events reads the whole log: no gap, and what was read before stands there unchanged.
func (w *world) events() {
	w.t.Helper()
	c := w.as("dave")
	var all []api.Event
	for after := int64(0); ; {
		page, err := c.Events(w.t.Context(), after, 1000)
		if err != nil {
			w.t.Errorf("cannot read the events: %v", err)
			return
		}
		if len(page.Items) == 0 {
			break
		}
		all = append(all, page.Items...)
		after = page.Items[len(page.Items)-1].Number
	}
	for i, e := range all {
		if e.Number != int64(i)+1 {
			w.t.Fatalf("event %d of the log has number %d", i+1, e.Number)
		}
		if i < len(w.seen) && !bytes.Equal(e.Leaf, w.seen[i].Leaf) {
			w.t.Errorf("event %d was %s and is %s", e.Number, w.seen[i].Leaf, e.Leaf)
		}
	}
	if len(all) < len(w.seen) {
		w.t.Errorf("the log had %d events and has %d", len(w.seen), len(all))
	}
	w.seen = all
}

// happened checks that an event is there exactly as often as it took place.
func (w *world) happened(times int, kind, subject string) {
	w.t.Helper()
	n := 0
	for _, e := range w.seen {
		if e.Type == kind && e.Subject == subject {
			n++
		}
	}
	if n != times {
		w.t.Errorf("%s of %s is in the log %d times, want %d", kind, subject, n, times)
	}
}

func (w *world) as(person string) *api.Client {
	w.t.Helper()
	c, err := w.s.As(person)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// file writes random bytes, a new image for nobody's hardware.
func (w *world) file(name string, size int) string {
	w.t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	path := w.s.Path(name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// A release build has none of this: no name of a point, no variable.
func TestReleaseBuildHasNoCrashPoints(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out+string(filepath.Separator), "./server", "./signer", "./client/agent")
	cmd.Dir = filepath.Join("..", "..")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, program := range []string{"server", "signer", "agent"} {
		b, err := os.ReadFile(filepath.Join(out, program))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range append(named(t), "CORDON_CRASH") {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%s holds %q", program, text)
			}
		}
	}
	armed, err := os.ReadFile(filepath.Join(programs.Dir(t), "packages", "server"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(armed, []byte("CORDON_CRASH")) {
		t.Error("the build with the tag has no crash points either: this test would find nothing")
	}
}
