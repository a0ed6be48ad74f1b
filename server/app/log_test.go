package app_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/mirror"
	"github.com/cordon-ota/cordon/client/ctl/witness"
	"github.com/cordon-ota/cordon/server/app"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

// logSource is the log as an auditor reads it.
type logSource struct{ *api.Client }

func (s logSource) Checkpoint(ctx context.Context) ([]byte, error) { return s.LogCheckpoint(ctx) }

func (s logSource) File(ctx context.Context, path string) ([]byte, error) {
	b, err := s.LogFile(ctx, path)
	if problem, ok := errors.AsType[*api.Error](err); ok && problem.Status == http.StatusNotFound {
		return nil, fs.ErrNotExist
	}
	return b, err
}

// independent starts a witness of the log that a server names in its status, and returns the policy that names it.
func independent(t *testing.T, logKey string) tlog.Policy {
	t.Helper()
	secret, vkey, err := witness.NewKey("witness.example")
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(witness.Config{Dir: t.TempDir(), Key: secret, LogKeys: []string{logKey}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(w.Server(func(err error) { t.Log("witness:", err) }).Handler)
	t.Cleanup(func() {
		server.Close()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	origin, _, _ := strings.Cut(logKey, "+")
	return tlog.Policy{
		Version: tlog.PolicyVersion, Origin: origin, LogKey: logKey, Quorum: 1,
		Witnesses: []tlog.Witness{{Name: "outside", Key: vkey, URL: server.URL}},
	}
}

// reportLog makes a report of everything so far and proves its events.
func reportLog(t *testing.T, c *api.Client) (api.Report, *api.ReportLog) {
	t.Helper()
	raw, err := c.Report(t.Context(), api.ReportQuery{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	var signed api.SignedReport
	var r api.Report
	if err := errors.Join(json.Unmarshal(raw, &signed), json.Unmarshal(signed.Report, &r)); err != nil {
		t.Fatal(err)
	}
	if r.Log == nil {
		t.Fatal("the report says nothing about the log")
	}
	return r, r.Log
}

func eventLeaves(r api.Report) []tlog.Leaf {
	var out []tlog.Leaf
	for _, e := range r.Events {
		out = append(out, tlog.Leaf{Index: uint64(e.Number - 1), Hash: tlog.LeafHash(e.Leaf)})
	}
	return out
}

// until looks again and again, for as long as the test may take.
func until(t *testing.T, what string, there func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !there() {
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: never", what)
		case <-tick.C:
		}
	}
}

// From the first event to the proof in an auditor's hands, with a witness of its own; then the server is put back to a
// backup of everything, and the witness stops its log and nothing else.
func TestLogFromTheServerToTheAuditor(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, configured(t, dir))
	admin := r.client(t, token(t, dir))
	alice, err := admin.CreatePerson(t.Context(), api.PersonRequest{Name: "alice", Roles: []string{api.RoleAdmin}})
	if err != nil {
		t.Fatal(err)
	}
	bob, err := admin.CreatePerson(t.Context(), api.PersonRequest{Name: "bob", Roles: []string{api.RoleAuditor}})
	if err != nil {
		t.Fatal(err)
	}
	logKey := r.status(t).LogKey
	p := independent(t, logKey)
	w := holders(t, r)
	policy, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ceremony := w.Ceremony(repositorytest.Offline{Version: 1, Extra: map[string][]byte{tlog.PolicyPath: policy}})
	ceremony.ImageRoots, ceremony.DirectorRoots = [][]byte{w.ImageRoot(1, nil)}, [][]byte{w.DirectorRoot(1, nil)}
	if _, err := r.client(t, alice.Token).Ceremony(t.Context(), ceremony); err != nil {
		t.Fatal(err)
	}
	auditor := r.client(t, bob.Token)
	doc, proof := reportLog(t, auditor)
	cp, err := tlog.OpenCheckpoint(proof.Checkpoint, p)
	if err != nil || proof.State != api.LogWitnessed || proof.UncoveredFrom != 0 {
		t.Fatalf("log of the report: %v, %+v", err, proof)
	}
	if root, err := tlog.RootOf(cp.Size, eventLeaves(doc), proof.Hashes); err != nil || root != cp.Root || len(doc.Events) < 4 {
		t.Errorf("%d events: root %s, %v, want %s", len(doc.Events), root, err, cp.Root)
	}
	whole, err := mirror.Check(t.Context(), logSource{auditor}, mirror.Options{Policy: p, Old: []mirror.Old{{Name: "kept", Raw: proof.Checkpoint}}})
	if err != nil || !whole.Whole() || whole.Size < cp.Size {
		t.Errorf("the auditor's copy: %+v, %v", whole, err)
	}
	for _, role := range []*api.Client{r.client(t, ""), r.client(t, "wrong")} {
		if _, err := role.LogCheckpoint(t.Context()); err == nil {
			t.Error("the log is open to strangers")
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	again := start(t, configured(t, dir))
	if _, err := again.client(t, alice.Token).CreatePerson(t.Context(), api.PersonRequest{Name: "carol", Roles: []string{api.RoleCI}}); err != nil {
		t.Fatal(err)
	}
	if _, proof := reportLog(t, again.client(t, bob.Token)); proof.State != api.LogWitnessed || proof.UncoveredFrom != 0 {
		t.Fatalf("after a restart: %+v", proof)
	}
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
	rolledBack(t, backup, alice.Token, bob.Token, p, cp)
}

func rolledBack(t *testing.T, dir, admin, auditor string, p tlog.Policy, kept tlog.Checkpoint) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // a copy has the modes of umask
		return errors.Join(err, os.Chmod(path, map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]))
	}); err != nil {
		t.Fatal(err)
	}
	r := start(t, configured(t, dir))
	// Everything else goes on.
	if _, err := r.client(t, admin).CreatePerson(t.Context(), api.PersonRequest{Name: "mallory", Roles: []string{api.RoleOperator}}); err != nil {
		t.Fatal(err)
	}
	url := "https://" + r.Addr(app.Admin) + "/readyz"
	until(t, "the log stops", func() bool {
		_, body := get(t, url)
		return strings.Contains(body, "the audit log has stopped: witness_refused")
	})
	if status, body := get(t, url); status != http.StatusOK || !strings.HasPrefix(body, "ready\n") {
		t.Errorf("readyz: got %d %q", status, body)
	}
	if _, body := get(t, "http://"+r.Addr(app.Metrics)+"/metrics"); !strings.Contains(body, "cordon_log_stopped 1") || !strings.Contains(body, "cordon_log_lag_events") {
		t.Errorf("metrics do not tell: %.300s", body)
	}
	doc, proof := reportLog(t, r.client(t, auditor))
	if proof.State != api.LogStopped || proof.UncoveredFrom == 0 {
		t.Errorf("log of the report: %+v", proof)
	}
	cp, err := tlog.OpenCheckpoint(proof.Checkpoint, p)
	if err != nil || cp.Size > kept.Size+4 {
		t.Errorf("a checkpoint of the rewritten history: size %d, %v, before %d", cp.Size, err, kept.Size)
	}
	if last := doc.Events[len(doc.Events)-1]; int64(cp.Size) >= last.Number {
		t.Errorf("event %d is under a witnessed checkpoint", last.Number)
	}
}
