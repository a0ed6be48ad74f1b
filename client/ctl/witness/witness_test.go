package witness_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cosign "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/ctl/witness"
)

const origin = "ota.example/log"

// history is a log in memory: the leaves are its name and their numbers, so that two names are two histories with a
// common beginning.
type history struct {
	nodes map[compact.NodeID]digest.SHA256
	roots []digest.SHA256
}

func newHistory(t testing.TB, common, size int, name string) history {
	t.Helper()
	h := history{map[compact.NodeID]digest.SHA256{}, []digest.SHA256{tlog.EmptyRoot()}}
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range size {
		leaf := fmt.Sprintf("common %d", i)
		if i >= common {
			leaf = fmt.Sprintf("%s %d", name, i)
		}
		sum := rfc6962.DefaultHasher.HashLeaf([]byte(leaf))
		keep := func(id compact.NodeID, b []byte) { h.nodes[id] = digest.SHA256(b) }
		keep(compact.NewNodeID(0, uint64(i)), sum)
		if err := r.Append(sum, keep); err != nil {
			t.Fatal(err)
		}
		root, err := r.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		h.roots = append(h.roots, digest.SHA256(root))
	}
	return h
}

func (h history) proof(t testing.TB, from, to uint64) []digest.SHA256 {
	t.Helper()
	hashes, err := tlog.ProveConsistency(t.Context(), from, to, func(_ context.Context, level uint, index uint64) (digest.SHA256, error) {
		return h.nodes[compact.NewNodeID(level, index)], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hashes
}

// bench is a log key and a witness that knows it.
type bench struct {
	log    note.Signer
	config witness.Config
	public string // of the witness
}

func newBench(t testing.TB) bench {
	t.Helper()
	secret, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	key, public, err := witness.NewKey("w1.example")
	if err != nil {
		t.Fatal(err)
	}
	return bench{signer, witness.Config{Dir: t.TempDir(), Key: key + "\n", LogKeys: []string{vkey}}, public}
}

func (b bench) open(t testing.TB) *witness.Witness {
	t.Helper()
	w, err := witness.Open(b.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func (b bench) sign(t testing.TB, h history, size int) []byte {
	t.Helper()
	raw, err := note.Sign(&note.Note{Text: tlog.CheckpointText(origin, uint64(size), h.roots[size])}, b.log)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (b bench) request(t testing.TB, h history, from, to int) []byte {
	t.Helper()
	return tlog.AddCheckpoint{Old: uint64(from), Proof: h.proof(t, uint64(from), uint64(to)), Checkpoint: b.sign(t, h, to)}.Encode()
}

// valid checks that the line is a cosignature of the checkpoint.
func (b bench) valid(t testing.TB, checkpoint, line []byte) {
	t.Helper()
	v, err := cosign.NewVerifierForCosignatureV1(b.public)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(append(bytes.Clone(checkpoint), line...), note.VerifierList(v)); err != nil {
		t.Errorf("%q is no cosignature: %v", line, err)
	}
}

func TestCosignsWhatExtendsTheLastCheckpoint(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHistory(t, 0, 300, "a")
	w := b.open(t)
	last := 0
	for _, size := range []int{0, 1, 7, 7, 256, 300} {
		line, err := w.Add(b.request(t, h, last, size))
		if err != nil {
			t.Fatalf("from %d to %d: %v", last, size, err)
		}
		b.valid(t, b.sign(t, h, size), line)
		last = size
	}
	c, err := w.Latest(origin)
	if err != nil || c.Size != 300 || c.Root != h.roots[300] {
		t.Errorf("latest is %+v, %v", c, err)
	}
}

// Each row is one way to get a second history cosigned, or to get something cosigned that no log signed.
func TestRefusesEveryOtherHistory(t *testing.T) {
	t.Parallel()
	b, h, fork := newBench(t), newHistory(t, 5, 40, "a"), newHistory(t, 5, 40, "b")
	w := b.open(t)
	if _, err := w.Add(b.request(t, h, 0, 20)); err != nil {
		t.Fatal(err)
	}
	stranger := newBench(t)
	good := b.request(t, h, 20, 30)
	forged := tlog.AddCheckpoint{Old: 20, Proof: h.proof(t, 20, 30), Checkpoint: b.sign(t, fork, 30)}.Encode()
	for name, row := range map[string]struct {
		body []byte
		want error
		code int
	}{
		"another tree of the same size":    {b.request(t, fork, 20, 20), witness.ErrFork, http.StatusConflict},
		"another tree, from an older size": {b.request(t, fork, 5, 20), witness.ErrFork, http.StatusConflict},
		"a fork that goes on":              {b.request(t, fork, 20, 30), tlog.ErrProof, http.StatusUnprocessableEntity},
		"a fork with the true proof":       {forged, tlog.ErrProof, http.StatusUnprocessableEntity},
		"a fork from before":               {b.request(t, fork, 5, 30), &witness.StaleError{}, http.StatusConflict},
		"a rolled back log":                {b.request(t, h, 0, 10), &witness.StaleError{}, http.StatusConflict},
		"from nothing again":               {b.request(t, h, 0, 30), &witness.StaleError{}, http.StatusConflict},
		"no proof":                         {tlog.AddCheckpoint{Old: 20, Checkpoint: b.sign(t, h, 30)}.Encode(), tlog.ErrProof, http.StatusUnprocessableEntity},
		"old above new":                    {tlog.AddCheckpoint{Old: 20, Checkpoint: b.sign(t, h, 10)}.Encode(), tlog.ErrRequest, http.StatusBadRequest},
		"another key":                      {stranger.request(t, h, 20, 30), witness.ErrNotSigned, http.StatusForbidden},
		"changed text":                     {bytes.Replace(good, []byte("\n30\n"), []byte("\n31\n"), 1), witness.ErrNotSigned, http.StatusForbidden},
		"another log":                      {bytes.Replace(good, []byte(origin+"\n"), []byte("else\n"), 1), witness.ErrUnknownLog, http.StatusNotFound},
		"not a request":                    {[]byte("hello"), tlog.ErrRequest, http.StatusBadRequest},
		"too long":                         {append(bytes.Clone(good), bytes.Repeat([]byte("x"), tlog.MaxRequestBytes)...), tlog.ErrRequest, http.StatusBadRequest},
	} {
		line, err := w.Add(row.body)
		stale, isStale := errors.AsType[*witness.StaleError](err)
		if _, want := row.want.(*witness.StaleError); want != isStale || (!want && !errors.Is(err, row.want)) || line != nil {
			t.Errorf("%s: got %q, %v; want %v", name, line, err, row.want)
		}
		if isStale && stale.Size != 20 {
			t.Errorf("%s: says size %d, want 20", name, stale.Size)
		}
		rec := httptest.NewRecorder()
		w.Server(func(error) {}).Handler.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(row.body)))
		if rec.Code != row.code {
			t.Errorf("%s: answered %d, want %d", name, rec.Code, row.code)
		}
		if isStale && (rec.Body.String() != "20\n" || rec.Header().Get("Content-Type") != "text/x.tlog.size") {
			t.Errorf("%s: answered %q, %q", name, rec.Body, rec.Header())
		}
	}
	if c, err := w.Latest(origin); err != nil || c.Size != 20 {
		t.Errorf("latest is %+v, %v; want size 20", c, err)
	}
	if _, err := w.Add(good); err != nil {
		t.Errorf("the true history is refused afterwards: %v", err)
	}
}

func TestKeepsTheProofOfAFork(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHistory(t, 0, 9, "a")
	w := b.open(t)
	if _, err := w.Add(b.request(t, h, 0, 9)); err != nil {
		t.Fatal(err)
	}
	var told []error
	server := w.Server(func(err error) { told = append(told, err) })
	for i := range 12 {
		fork := newHistory(t, 0, 9, fmt.Sprint("fork", i))
		for range 2 {
			server.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(b.request(t, fork, 9, 9))))
		}
	}
	forks, err := w.Forks()
	if err != nil || len(forks) != 8 || len(told) != 24 {
		t.Fatalf("%d forks are kept, %v; %d were told", len(forks), err, len(told))
	}
	for _, path := range forks {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tlog.OpenLogCheckpoint(raw, b.config.LogKeys[0])
		if err != nil || c.Size != 9 || c.Root == h.roots[9] {
			t.Errorf("%s holds %+v, %v; that proves nothing", path, c, err)
		}
	}
}

// TestKilledAtAnyStepNeverCosignsAFork ends the witness behind each step of a cosignature, opens it again, and offers it
// both the same history and a fork of it. The two must never both leave.
func TestKilledAtAnyStepNeverCosignsAFork(t *testing.T) {
	t.Parallel()
	ended := errors.New("the process ended")
	for _, step := range []string{"signed", "written", "renamed", "durable"} {
		b, h, fork := newBench(t), newHistory(t, 10, 20, "a"), newHistory(t, 10, 20, "b")
		w := b.open(t)
		if _, err := w.Add(b.request(t, h, 0, 10)); err != nil {
			t.Fatal(err)
		}
		passed := false
		w.EndAfter(func(at string) error {
			if at != step {
				return nil
			}
			passed = true
			return ended
		})
		line, err := w.Add(b.request(t, h, 10, 20))
		if !passed || !errors.Is(err, ended) || line != nil {
			t.Fatalf("%s: got %q, %v", step, line, err)
		}
		w.Close()

		w = b.open(t)
		c, err := w.Latest(origin)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		first, second := h, fork
		if c.Size == 10 { // nothing of the cut off request is left, so either may come first
			first, second = fork, h
		}
		if _, err := w.Add(b.request(t, first, int(c.Size), 20)); err != nil {
			t.Errorf("%s: one history must go on: %v", step, err)
		}
		for from := range 21 {
			if line, err := w.Add(b.request(t, second, from, 20)); err == nil {
				t.Errorf("%s: cosigned a second history from %d: %q", step, from, line)
			}
		}
		left, err := filepath.Glob(filepath.Join(b.config.Dir, ".new-*"))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: %v are left, %v", step, left, err)
		}
		w.Close()
	}
}

// A cosignature must be on disk before it leaves: when the disk does not take it, there is none.
func TestCosignsNothingThatTheDiskDoesNotKeep(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHistory(t, 0, 9, "a")
	w := b.open(t)
	if err := os.RemoveAll(b.config.Dir); err != nil {
		t.Fatal(err)
	}
	if line, err := w.Add(b.request(t, h, 0, 9)); !errors.Is(err, witness.ErrState) || line != nil {
		t.Errorf("got %q, %v; want ErrState", line, err)
	}
}

func TestRefusesStateThatItDidNotWrite(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHistory(t, 0, 9, "a")
	w := b.open(t)
	if _, err := w.Add(b.request(t, h, 0, 9)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	files, err := filepath.Glob(filepath.Join(b.config.Dir, "*.checkpoint"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "changed": bytes.Replace(good, []byte("\n9\n"), []byte("\n8\n"), 1), "not cosigned": b.sign(t, h, 9),
		"cut": good[:len(good)-9],
	} {
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := witness.Open(b.config); !errors.Is(err, witness.ErrState) {
			t.Errorf("%s: got %v, %v; want ErrState", name, w, err)
		}
	}
}

func TestOneProcessHoldsTheState(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w := b.open(t)
	if _, err := witness.Open(b.config); !errors.Is(err, witness.ErrState) {
		t.Errorf("a second one: got %v, want ErrState", err)
	}
	w.Close()
	b.open(t)
	if line, err := w.Add(b.request(t, newHistory(t, 0, 9, "a"), 0, 9)); !errors.Is(err, witness.ErrState) || line != nil {
		t.Errorf("the one that gave it away cosigned %q, %v; want ErrState", line, err)
	}
}

func TestRefusesKeysThatAreNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, change := range map[string]func(*witness.Config){
		"key":        func(c *witness.Config) { c.Key = "PRIVATE+KEY+x" },
		"no key":     func(c *witness.Config) { c.Key = "" },
		"log key":    func(c *witness.Config) { c.LogKeys = []string{"x"} },
		"twice":      func(c *witness.Config) { c.LogKeys = append(c.LogKeys, c.LogKeys[0]) },
		"own as log": func(c *witness.Config) { c.LogKeys = []string{b.public} },
	} {
		c := b.config
		change(&c)
		if _, err := witness.Open(c); !errors.Is(err, witness.ErrKey) && !errors.Is(err, tlog.ErrKey) {
			t.Errorf("%s: got %v, want a key error", name, err)
		}
	}
	if _, _, err := witness.NewKey("a b"); !errors.Is(err, witness.ErrKey) {
		t.Errorf("name: got %v, want ErrKey", err)
	}
}

func TestHandsOutItsNewestCheckpoint(t *testing.T) {
	t.Parallel()
	b, h := newBench(t), newHistory(t, 0, 9, "a")
	w := b.open(t)
	server := httptest.NewServer(w.Server(func(err error) { t.Error(err) }).Handler)
	defer server.Close()
	get := func() (int, []byte) {
		res, err := http.Get(server.URL + "/checkpoint?origin=" + origin)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, body
	}
	if code, _ := get(); code != http.StatusNotFound {
		t.Errorf("before the first: %d", code)
	}
	if _, err := w.Add(b.request(t, h, 0, 9)); err != nil {
		t.Fatal(err)
	}
	code, raw := get()
	p := tlog.Policy{Version: 1, Origin: origin, LogKey: b.config.LogKeys[0], Quorum: 1, Witnesses: []tlog.Witness{{Name: "w1", Key: b.public, URL: server.URL}}}
	c, err := tlog.OpenCheckpoint(raw, p)
	if code != http.StatusOK || err != nil || c.Size != 9 || len(c.Witnesses) != 1 {
		t.Errorf("got %d, %+v, %v", code, c, err)
	}
	for path, want := range map[string]int{"/checkpoint?origin=x": 404, "/checkpoint": 404, "/": 404} {
		res, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
	if res, err := http.Post(server.URL+"/checkpoint", "text/plain", strings.NewReader("")); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /checkpoint: %v, %v", res, err)
	}
}

// FuzzAdd: whatever is sent, nothing but the log's own next checkpoint is cosigned.
func FuzzAdd(f *testing.F) {
	b, h, fork := newBench(f), newHistory(f, 5, 40, "a"), newHistory(f, 5, 40, "b")
	w := b.open(f)
	if _, err := w.Add(b.request(f, h, 0, 20)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.request(f, fork, 20, 20))
	f.Add(b.request(f, fork, 20, 30))
	f.Add(b.request(f, h, 5, 30))
	f.Add([]byte("old 20\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := w.Add(body); err == nil {
			t.Fatalf("%q was cosigned", body)
		}
	})
}
