package witness_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/ctl/witness"
)

// tesseraLog is a log that Tessera runs, witnessed through Tessera's own client.
type tesseraLog struct {
	add   func(leaf string) bool // reports whether a witnessed checkpoint with the leaf was published
	close func()
	raw   func() []byte
}

func startTessera(t *testing.T, dir string, key note.Signer, policy string, wait time.Duration) tesseraLog {
	t.Helper()
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	driver, err := posix.New(t.Context(), posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(key).
		WithBatching(1, 5*time.Millisecond).WithCheckpointInterval(100*time.Millisecond).WithShutdownTimeout(time.Second).
		WithWitnesses(group, &tessera.WitnessOptions{Timeout: 5 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 10*time.Millisecond)
	l := tesseraLog{
		add: func(leaf string) bool {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			_, _, err := awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry([]byte(leaf))))
			return err == nil
		},
		raw: func() []byte {
			raw, err := reader.ReadCheckpoint(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return raw
		},
	}
	l.close = func() {
		_ = shutdown(ctx) // of a fork it never succeeds: nothing of it was published
		cancel()
	}
	return l
}

// TestTesseraAcceptsTheWitness runs Tessera's appender and its witness client against ours, and then puts the log back to a
// backup and goes on differently: that is never published.
func TestTesseraAcceptsTheWitness(t *testing.T) {
	t.Parallel()
	secret, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	p := tlog.Policy{Version: 1, Origin: origin, LogKey: vkey, Quorum: 2}
	policy := ""
	for i := range 2 {
		secret, public, err := witness.NewKey(fmt.Sprintf("w%d.example", i))
		if err != nil {
			t.Fatal(err)
		}
		w, err := witness.Open(witness.Config{Dir: t.TempDir(), Key: secret, LogKeys: []string{vkey}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		server := httptest.NewServer(w.Server(func(error) {}).Handler)
		t.Cleanup(server.Close)
		policy += fmt.Sprintf("witness w%d %s %s\n", i, public, server.URL)
		p.Witnesses = append(p.Witnesses, tlog.Witness{Name: fmt.Sprintf("w%d", i), Key: public, URL: server.URL})
	}
	policy += "group both 2 w0 w1\nquorum both\n"

	dir := t.TempDir()
	live, backup := filepath.Join(dir, "live"), filepath.Join(dir, "backup")
	l := startTessera(t, live, key, policy, time.Minute)
	for i := range 5 {
		if !l.add(fmt.Sprint("event ", i)) {
			t.Fatalf("event %d was not published", i)
		}
	}
	c, err := tlog.OpenCheckpoint(l.raw(), p)
	if err != nil || c.Size != 5 || len(c.Witnesses) != 2 {
		t.Fatalf("got %+v, %v", c, err)
	}
	l.close()
	if err := os.CopyFS(backup, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	l = startTessera(t, live, key, policy, time.Minute)
	for i := range 3 {
		if !l.add(fmt.Sprint("quarantine ", i)) {
			t.Fatalf("quarantine %d was not published", i)
		}
	}
	l.close()

	l = startTessera(t, backup, key, policy, 500*time.Millisecond)
	defer l.close()
	for i := range 4 {
		if l.add(fmt.Sprint("rewritten ", i)) {
			t.Errorf("rewritten history was published with event %d", i)
		}
	}
	if c, err := tlog.OpenCheckpoint(l.raw(), p); err != nil || c.Size != 5 {
		t.Errorf("the rewritten log shows %+v, %v; want nothing beyond the backup's size 5", c, err)
	}
}
