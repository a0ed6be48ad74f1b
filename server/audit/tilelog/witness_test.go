package tilelog_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/store"
)

// witness is an honest witness (C2SP tlog-witness) of one log, with faults to inject.
type witness struct {
	*httptest.Server
	name   string
	vkey   string
	signer *cosign.Signer
	logKey string

	mu    sync.Mutex
	size  uint64           // guarded by mu, as is what follows
	root  digest.SHA256    //
	asked []uint64         // the size of each checkpoint that it was shown
	fault http.HandlerFunc // answers in its place
	stats map[int]int      // answers by status
	after func(status int) // called before each answer
}

func newWitness(t *testing.T, name string, key *tilelog.Key) *witness {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, public, err := note.GenerateKey(strings.NewReader(string(private.Seed())+strings.Repeat("x", 64)), name+".example")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{name: name, signer: must(cosign.NewSignerForCosignatureV1(secret)), vkey: must(cosign.VKeyToCosignatureV1(public)),
		logKey: key.Verifier(), stats: map[int]int{}, root: tlog.EmptyRoot()}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault != nil {
		w.fault(rw, r)
		return
	}
	status, body := w.answer(r)
	w.stats[status]++
	if w.after != nil {
		w.after(status)
	}
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, body)
}

func (w *witness) answer(r *http.Request) (int, string) {
	req, err := tlog.DecodeAddCheckpoint(must(io.ReadAll(r.Body)))
	if err != nil || r.URL.Path != tlog.AddCheckpointPath {
		return http.StatusBadRequest, ""
	}
	cp, err := tlog.OpenLogCheckpoint(req.Checkpoint, w.logKey)
	if err != nil {
		return http.StatusForbidden, ""
	}
	w.asked = append(w.asked, cp.Size)
	conflict := fmt.Sprintf("%d\n", w.size)
	switch {
	case req.Old > cp.Size:
		return http.StatusBadRequest, ""
	case req.Old != w.size, cp.Size == w.size && cp.Root != w.root:
		return http.StatusConflict, conflict
	}
	if tlog.VerifyConsistency(req.Old, cp.Size, w.root, cp.Root, req.Proof) != nil {
		return http.StatusUnprocessableEntity, ""
	}
	w.size, w.root = cp.Size, cp.Root
	text, _, _ := strings.Cut(string(cp.Raw), "\n\n")
	signed := must(note.Sign(&note.Note{Text: text + "\n"}, w.signer))
	_, lines, _ := strings.Cut(string(signed), "\n\n")
	return http.StatusOK, lines
}

// set changes the witness between two requests.
func (w *witness) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func answering(status int, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, body)
	}
}

// witnessed sets the offline policy: these witnesses, so many of them.
func (w *world) witnessed(quorum int, witnesses ...*witness) tlog.Policy {
	w.t.Helper()
	p := tlog.Policy{Version: tlog.PolicyVersion, Origin: origin, LogKey: w.key.Verifier(), Quorum: quorum, Witnesses: []tlog.Witness{}}
	for _, one := range witnesses {
		p.Witnesses = append(p.Witnesses, tlog.Witness{Name: one.name, Key: one.vkey, URL: one.URL})
	}
	raw := must(p.Encode())
	w.policy.Store(&raw)
	return p
}

// wantWitnessed holds the published checkpoint against the policy, as an auditor does.
func (w *world) wantWitnessed(n *node, p tlog.Policy, size int) {
	w.t.Helper()
	cp, err := tlog.OpenCheckpoint(must(n.Checkpoint(w.t.Context())), p)
	if err != nil || cp.Size != uint64(size) {
		w.t.Errorf("published: size %d with %d witnesses, %v, want %d with the quorum; log:\n%s", cp.Size, len(cp.Witnesses), err, size, n.out)
	}
	if s := n.Status(); s.Witnessed != int64(size) || s.Quorum != p.Quorum {
		w.t.Errorf("status: %+v, want %d witnessed", s, size)
	}
}

func TestWitnessesCosign(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		one, two, three := newWitness(t, "one", w.key), newWitness(t, "two", w.key), newWitness(t, "three", w.key)
		w.happen(300)
		dir := t.TempDir()
		n := w.follow(dir)
		w.wantSigned(n, 300) // no policy yet: published without a witness
		p := w.witnessed(2, one, two, three)
		n.Round(t.Context())
		w.wantWitnessed(n, p, 300)
		if cp := must(tlog.OpenCheckpoint(must(n.Checkpoint(t.Context())), p)); len(cp.Witnesses) != 3 {
			t.Errorf("got %d cosignatures, want 3", len(cp.Witnesses))
		}
		three.set(func() { three.fault = answering(http.StatusServiceUnavailable, "") })
		w.happen(5)
		n.Round(t.Context())
		w.wantWitnessed(n, p, 305)
		two.set(func() { two.fault = answering(http.StatusOK, "— one.example AAAA\n") })
		w.happen(5)
		n.Round(t.Context())
		w.wantWitnessed(n, p, 305) // two of three are down: what is published stands still
		w.checkpoint(w.signedRow().Note, 310)
		if lag := n.Status().Lag(); lag != 5 {
			t.Errorf("lag: got %d, want 5", lag)
		}
		two.set(func() { two.fault = nil })
		w.pass(time.Minute)
		n.Round(t.Context())
		w.wantWitnessed(n, p, 310)
		again := one.asked
		n.Round(t.Context())
		if len(one.asked) != len(again) {
			t.Error("a log that stands still asks its witnesses again at once")
		}
		w.pass(tilelog.Recosign)
		n.Round(t.Context())
		if len(one.asked) != len(again)+1 {
			t.Error("a log that stands still never gets a fresh cosignature")
		}
	})
}

// A witness that fails is asked later and later, and its answers are never believed without a signature.
func TestWitnessThatLiesOrFailsIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	honest := newWitness(t, "honest", w.key)
	text := must(note.Sign(&note.Note{Text: tlog.CheckpointText(origin, 3, digest.Of(nil))}, honest.signer))
	_, stale, _ := strings.Cut(string(text), "\n\n")
	for name, fault := range map[string]http.HandlerFunc{
		"nothing":               answering(http.StatusOK, ""),
		"rubbish":               answering(http.StatusOK, "rubbish"),
		"signature of another":  answering(http.StatusOK, "— other.example "+base64.StdEncoding.EncodeToString(make([]byte, 76))+"\n"),
		"of another checkpoint": answering(http.StatusOK, stale),
		"too much":              answering(http.StatusOK, strings.Repeat(stale, 1000)),
		"unknown log":           answering(http.StatusNotFound, "unknown log"),
		"not my key":            answering(http.StatusForbidden, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			one := newWitness(t, "one", w.key)
			one.fault = fault
			asked := 0
			one.fault = func(rw http.ResponseWriter, r *http.Request) { asked++; fault(rw, r) }
			w.witnessed(1, one)
			w.happen(10)
			n := w.follow(t.TempDir())
			if s := n.Status(); s.Stopped != "" || s.Signed != 10 || s.Witnessed != 0 {
				t.Errorf("status: %+v, want 10 signed and nothing witnessed", s)
			}
			once := asked
			n.Round(t.Context())
			if asked != once {
				t.Error("asked again at once")
			}
			if !strings.Contains(n.out.String(), "a witness does not cosign") {
				t.Errorf("nobody is told:\n%s", n.out)
			}
		})
	}
	t.Run("none", func(t *testing.T) { // the honest one is believed
		t.Parallel()
		p := w.witnessed(1, honest)
		w.happen(10)
		n := w.follow(t.TempDir())
		w.wantWitnessed(n, p, 10)
	})
}

// A witness that forgets is not asked to cosign from where it says it is.
func TestWitnessThatGoesBackIsNotFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	p := w.witnessed(1, one)
	w.happen(10)
	n := w.follow(t.TempDir())
	w.wantWitnessed(n, p, 10)
	one.set(func() { one.size, one.root = 0, tlog.EmptyRoot() })
	w.happen(10)
	n.Round(t.Context())
	w.wantWitnessed(n, p, 10)
	if !strings.Contains(n.out.String(), "went back from size 10 to 0") {
		t.Errorf("nobody is told:\n%s", n.out)
	}
}

// Nobody but the addresses in the policy is asked, whatever they answer.
func TestWitnessCannotSendTheServerElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the server followed a witness to another address") }))
	t.Cleanup(inside.Close)
	one.fault = func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, inside.URL, http.StatusTemporaryRedirect)
	}
	w.witnessed(1, one)
	w.happen(10)
	w.wantSigned(w.follow(t.TempDir()), 10)
}

// Whoever restores database and directory together has a consistent past. The witness knows better, and the key signs
// nothing before it was asked.
func TestRollbackOfEverythingIsRefusedByTheWitness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	p := w.witnessed(1, one)
	w.happen(300)
	dir := t.TempDir()
	n := w.follow(dir)
	w.wantWitnessed(n, p, 300)
	old, oldDir := w.backup(), copyDir(t, dir)
	w.happen(20)
	n.Close()
	n = w.follow(dir)
	w.wantWitnessed(n, p, 320)
	before := old.signedRow()
	old.happen(40) // history is rewritten
	thief := old.follow(oldDir)
	old.wantStopped(thief, "witness_refused")
	if after := old.signedRow(); after.Version != before.Version {
		t.Errorf("the key signed %d leaves of another history", after.Size)
	}
	events := must(old.store.Events(t.Context(), store.EventFilter{Types: []string{audit.LogRefused}}, 0, 10))
	if len(events) != 1 || events[0].Subject != "one" {
		t.Errorf("events about the refusal: %v", events)
	}
	asked := len(one.asked)
	old.pass(time.Hour)
	for range 3 {
		old.happen(1)
		thief.Round(t.Context())
	}
	if len(one.asked) != asked {
		t.Error("the refusal was tried again")
	}
}

// A server that lost its database, and kept its keys, begins at nothing. The witness remembers.
func TestLostDatabaseBeginsNoSecondHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	p := w.witnessed(1, one)
	w.happen(300)
	n := w.follow(t.TempDir())
	w.wantWitnessed(n, p, 300)
	empty := newWorld(t)
	empty.key = w.key
	empty.policy.Store(w.policy.Load())
	empty.happen(5)
	n = empty.follow(t.TempDir())
	empty.wantStopped(n, "witness_refused")
	if _, err := empty.store.Checkpoint(t.Context(), w.key.ID()+tilelog.SignedRow); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the key signed a second history: %v", err)
	}
}

// A copy of the server has the same key. Only the history that the witness saw first goes on.
func TestForkByACopyOfTheServerIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	p := w.witnessed(1, one)
	w.happen(300)
	dir := t.TempDir()
	first := w.follow(dir)
	w.wantWitnessed(first, p, 300)
	first.Close()
	copied, copiedDir := w.backup(), copyDir(t, dir)
	first, second := w.open(dir), copied.open(copiedDir)
	first.Round(t.Context())
	second.Round(t.Context()) // both have been confirmed now
	w.happen(7)
	copied.event(audit.ServerStarted)
	first.Round(t.Context())
	w.wantWitnessed(first, p, 307)
	second.Round(t.Context())
	copied.wantStopped(second, "witness_refused")
	copied.happen(20)
	third := copied.follow(copyDir(t, copiedDir))
	copied.wantStopped(third, "witness_refused") // longer than what the witness knows: not an extension
	if one.stats[http.StatusUnprocessableEntity]+one.stats[http.StatusConflict] < 2 {
		t.Errorf("the witness answered %v", one.stats)
	}
	first.Round(t.Context())
	w.wantWitnessed(first, p, 307)
}

// One witness of three that claims anything stops nothing; a quorum that is lost does.
func TestOneLyingWitnessDoesNotStopTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, liar := newWitness(t, "one", w.key), newWitness(t, "two", w.key), newWitness(t, "liar", w.key)
	p := w.witnessed(2, one, two, liar)
	liar.fault = answering(http.StatusConflict, "1000000\n")
	w.happen(10)
	n := w.follow(t.TempDir())
	w.wantWitnessed(n, p, 10)
	if events := must(w.store.Events(t.Context(), store.EventFilter{Types: []string{audit.LogRefused}}, 0, 10)); len(events) != 1 || events[0].Subject != "liar" {
		t.Errorf("events: %v", events)
	}
	n.Round(t.Context()) // takes in the event
	w.wantWitnessed(n, p, 11)
	two.set(func() { two.fault = answering(http.StatusConflict, "another root") })
	w.pass(tilelog.Recosign)
	n.Round(t.Context()) // shows the same checkpoint again
	w.wantStopped(n, "witness_refused")
}

// Cosignatures for another key would be worth nothing.
func TestPolicyForAnotherKeyAsksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := newWitness(t, "one", w.key)
	other := &world{t: t, key: newKey(t)}
	other.witnessed(1, one)
	w.policy.Store(other.policy.Load())
	w.happen(10)
	n := w.follow(t.TempDir())
	w.wantSigned(n, 10)
	if len(one.asked) != 0 || !strings.Contains(n.out.String(), "it is for the log key") {
		t.Errorf("asked %d times; log:\n%s", len(one.asked), n.out)
	}
	rubbish := []byte(`{"version":1}`)
	w.policy.Store(&rubbish)
	w.happen(10)
	n.Round(t.Context())
	w.wantSigned(n, 20)
}
