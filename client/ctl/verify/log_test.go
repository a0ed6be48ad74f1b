package verify_test

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// rewritten is an honest-looking event in place of number 8: what a server would tell that wants to hide what it did.
func rewritten() api.Event {
	e := shared().Report().Events[1]
	return verifytest.Event(8, e.At, "timestamp.issued", "server", "", `{}`)
}

// Each row is a server, or somebody with its report key, that lies about the log. The report's own signature is good.
func TestFindsLiesAboutTheLog(t *testing.T) {
	t.Parallel()
	log := shared().Log
	secret, _, err := note.GenerateKey(rand.Reader, verifytest.LogOrigin)
	if err != nil {
		t.Fatal(err)
	}
	thief, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(r *api.Report)
		says   string
	}{
		{"a leaf was changed", func(r *api.Report) { r.Events[1] = rewritten() }, "events 7 to 10 is not in the log"},
		{"one byte of a leaf was changed", func(r *api.Report) {
			r.Events[1] = verifytest.Event(8, r.Events[1].At.Add(time.Microsecond), r.Events[1].Type, r.Events[1].Actor, r.Events[1].Subject, string(r.Events[1].Data))
		}, "is not in the log"},
		{"an event was never a leaf", func(r *api.Report) {
			r.Log = log.Prove(r.Events, log.Leaves[:9]) // and 10 is said to be covered
			r.Log.UncoveredFrom = 0
		}, "leaves out those from 10 on"},
		{"a proof of other leaves", func(r *api.Report) { r.Log.Hashes = log.Prove(r.Events[:2], log.Leaves).Hashes }, "events 7 to 10"},
		{"a hash was left out", func(r *api.Report) { r.Log.Hashes = r.Log.Hashes[1:] }, "too few hashes"},
		{"a hash was put in", func(r *api.Report) { r.Log.Hashes = append(r.Log.Hashes, r.Log.Hashes[0]) }, "1 hashes too many"},
		{"a hash was changed", func(r *api.Report) { r.Log.Hashes[0][3] ^= 1 }, "is not in the log"},
		{"another log key", func(r *api.Report) {
			other := log
			other.Key = thief
			r.Log = other.Prove(r.Events, log.Leaves)
		}, "not one of the log fleet.example/audit that the offline role named"},
		{"a checkpoint of another log", func(r *api.Report) {
			r.Log.Checkpoint = bytes.Replace(r.Log.Checkpoint, []byte(verifytest.LogOrigin+"\n"), []byte("other.example/log\n"), 1)
		}, "not one of the log fleet.example/audit that the offline role named"},
		{"a checkpoint of another size", func(r *api.Report) {
			r.Log.Checkpoint = bytes.Replace(r.Log.Checkpoint, []byte("\n12\n"), []byte("\n13\n"), 1)
		}, "not one of the log fleet.example/audit that the offline role named"},
		{"rewritten history under the old checkpoint", func(r *api.Report) {
			was := r.Log.Checkpoint
			r.Events[1] = rewritten()
			shared().Relog(r)
			r.Log.Checkpoint = was
		}, "is not in the log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := copied(t)
			c.change(&r)
			got := check(shared().Sign(r))
			if step, says := failing(got); got.Outcome != verify.Failed || step != verify.StepLog || !strings.Contains(says, c.says) {
				t.Errorf("got %s at %q: %s; want failed at log: %s", got.Outcome, step, says, c.says)
			}
		})
	}
}

// Nothing is wrong with these reports, and something is missing: they are not called verified.
func TestCallsAReportWithoutTheLogUndecided(t *testing.T) {
	t.Parallel()
	log := shared().Log
	for _, c := range []struct {
		name   string
		change func(r *api.Report)
		says   string
	}{
		{"no proofs", func(r *api.Report) { r.Log = nil }, "the report proves none of its 4 events"},
		{"no checkpoint yet", func(r *api.Report) { r.Log = &api.ReportLog{State: api.LogBehind} }, "the report proves none of its 4 events"},
		{"nobody cosigned", func(r *api.Report) { r.Log.Checkpoint = log.Checkpoint(log.Leaves) }, "0 of the policy's 3 cosigned size 12, want 2"},
		{"one witness", func(r *api.Report) { r.Log.Checkpoint = log.Checkpoint(log.Leaves, log.Witnesses[1]) }, "1 of the policy's 3 cosigned size 12, want 2"},
		{"one witness twice", func(r *api.Report) {
			one := log.Checkpoint(log.Leaves, log.Witnesses[1])
			line := one[bytes.LastIndexByte(one[:len(one)-1], '\n')+1:]
			r.Log.Checkpoint = append(one, line...)
		}, "1 of the policy's 3 cosigned size 12, want 2"},
		{"the log is behind", func(r *api.Report) { r.Log = log.Prove(r.Events, log.Leaves[:9]) }, "events from 10 on are not under the checkpoint of size 9"},
		{"nothing is covered", func(r *api.Report) { r.Log = log.Prove(r.Events, log.Leaves[:6]) }, "events from 7 on are not under the checkpoint of size 6"},
	} {
		r := copied(t)
		c.change(&r)
		got := check(shared().Sign(r))
		if got.Outcome != verify.Undecided || !strings.Contains(strings.Join(got.Undecided, "\n"), c.says) {
			step, says := failing(got)
			t.Errorf("%s: got %s (%q: %s), undecided %q; want undecided: %s", c.name, got.Outcome, step, says, got.Undecided, c.says)
		}
	}
}

// A checkpoint that the auditor kept finds what the report alone cannot show: a second history, signed and cosigned.
func TestHoldsTheReportAgainstKeptCheckpoints(t *testing.T) {
	t.Parallel()
	log := shared().Log
	fork := copied(t)
	fork.Events[1] = rewritten()
	shared().Relog(&fork) // two witnesses cosigned it
	forked := verifytest.History(fork.Events, verifytest.LogSize)
	whole := copied(t) // a report from the first event on
	var events []api.Event
	for i, leaf := range log.Leaves {
		e := verifytest.Event(int64(i)+1, verifytest.Noon, "timestamp.issued", "server", "", `{}`)
		if i >= 6 && i < 10 {
			e = whole.Events[i-6]
		}
		if !bytes.Equal(e.Leaf, leaf) {
			t.Fatalf("event %d is another one", i+1)
		}
		events = append(events, e)
	}
	whole.Events = events
	whole.Log = log.Prove(events, log.Leaves)
	honest := shared().Report()
	none := &api.Report{}
	for _, c := range []struct {
		name string
		r    *api.Report
		kept []byte
		want verify.Outcome
		says string
	}{
		{"the same", &honest, log.Checkpoint(log.Leaves), verify.Verified, ""},
		{"a fork of the same size", &fork, log.Checkpoint(log.Leaves), verify.Failed, "two histories of 12 leaves"},
		{"an older one, and all leaves", &whole, log.Checkpoint(log.Leaves[:9]), verify.Verified, ""},
		{"an older fork, and all leaves", &whole, log.Checkpoint(forked[:9]), verify.Failed, "another tree of its first 9 leaves"},
		{"an older one", &honest, log.Checkpoint(log.Leaves[:9]), verify.Undecided, "cordonctl log check --from"},
		{"a newer one", &honest, log.Checkpoint(verifytest.History(honest.Events, 20)), verify.Undecided, "the log was rolled back"},
		{"of another key", &honest, []byte("nonsense"), verify.Undecided, "not a checkpoint of the log"},
		{"and no log in the report", none, log.Checkpoint(log.Leaves), verify.Undecided, "nothing to hold it against"},
	} {
		if c.r == none {
			r := copied(t)
			r.Log = nil
			c.r = &r
		}
		got := verify.Report(shared().Sign(*c.r), shared().Trust, verify.Options{EKRoots: shared().EKRoots, Checkpoints: []verify.Checkpoint{{Name: "kept.txt", Raw: c.kept}}})
		_, says := failing(got)
		if got.Outcome != c.want || !strings.Contains(says+strings.Join(got.Undecided, "\n"), c.says) {
			t.Errorf("%s: got %s: %s %q; want %s: %s", c.name, got.Outcome, says, got.Undecided, c.want, c.says)
		}
	}
}

// A server without a log makes reports as before: they verify, and what is missing is listed.
func TestListsAMissingLogAsBelieved(t *testing.T) {
	t.Parallel()
	w := verifytest.NewWithoutLog()
	r := w.Report()
	got := verify.Report(w.Sign(r), w.Trust, verify.Options{})
	if got.Outcome != verify.Verified || !strings.Contains(strings.Join(got.Trusted, "\n"), "the offline role names no log") {
		t.Errorf("got %s, believed %q", got.Outcome, got.Trusted)
	}
	// Proofs that no offline policy stands behind prove nothing, and do no harm.
	r.Log = shared().Log.Prove(nil, shared().Log.Leaves)
	got = verify.Report(w.Sign(r), w.Trust, verify.Options{Checkpoints: []verify.Checkpoint{{Name: "kept.txt"}}})
	if got.Outcome != verify.Undecided || !strings.Contains(strings.Join(got.Trusted, "\n"), "the offline role names no log") {
		t.Errorf("with proofs: got %s, believed %q", got.Outcome, got.Trusted)
	}
}

func TestNamesTheWitnesses(t *testing.T) {
	t.Parallel()
	got := check(shared().Sign(shared().Report()))
	text := strings.Join(got.Trusted, "\n")
	for _, want := range []string{"12 leaves were cosigned by w0 (", "w2 (", "at least 1 of them"} {
		if !strings.Contains(text, want) {
			t.Errorf("believed does not say %q:\n%s", want, text)
		}
	}
	r := copied(t)
	r.Log.State = api.LogStopped
	if got := check(shared().Sign(r)); !strings.Contains(strings.Join(got.Trusted, "\n"), "it has stopped") {
		t.Errorf("a log that stopped is not mentioned: %q", got.Trusted)
	}
	i := slices.IndexFunc(got.Steps, func(s verify.Step) bool { return s.Name == verify.StepLog })
	if i < 0 || got.Steps[i].Checked != 5 {
		t.Errorf("steps are %+v, want a log step that looked at the checkpoint and 4 events", got.Steps)
	}
}

// Two groups of honest witnesses that do not overlap vouch for two histories, so nothing is said about liars then.
func TestDoesNotCountLiarsWhereNoneIsNeeded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ witnesses, quorum, cosigned, want int }{
		{3, 2, 2, 1}, {3, 2, 3, 2}, {3, 3, 3, 3}, {2, 2, 2, 2}, {1, 1, 1, 1}, {3, 1, 1, 0}, {4, 2, 2, 0}, {4, 2, 3, 1}, {3, 2, 0, 0}, {0, 0, 0, 0},
	} {
		p := tlog.Policy{Quorum: c.quorum, Witnesses: make([]tlog.Witness, c.witnesses)}
		if got := p.Liars(c.cosigned); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
	r := copied(t)
	r.Log.Checkpoint = shared().Log.Checkpoint(shared().Log.Leaves, shared().Log.Witnesses[1])
	if text := strings.Join(check(shared().Sign(r)).Trusted, "\n"); strings.Contains(text, "had to lie") {
		// one of three cosigned: the two others are a quorum by themselves
		t.Errorf("believed:\n%s", text)
	}
}

// FuzzReportLog: no checkpoint and no proof makes a rewritten event look logged.
func FuzzReportLog(f *testing.F) {
	log := shared().Log
	r := shared().Report()
	var flat []byte
	for _, h := range r.Log.Hashes {
		flat = append(flat, h[:]...)
	}
	f.Add(r.Log.Checkpoint, flat, int64(0))
	f.Add(log.Checkpoint(log.Leaves), flat, int64(9))
	f.Fuzz(func(t *testing.T, checkpoint, flat []byte, uncovered int64) {
		r := copied(t)
		r.Events[1] = rewritten()
		l := &api.ReportLog{State: api.LogWitnessed, Checkpoint: checkpoint, UncoveredFrom: uncovered}
		for len(flat) >= digest.Size {
			l.Hashes, flat = append(l.Hashes, digest.SHA256(flat[:digest.Size])), flat[digest.Size:]
		}
		r.Log = l
		if got := check(shared().Sign(r)); got.Outcome == verify.Verified {
			t.Fatalf("verified with checkpoint %q", checkpoint)
		}
		_, _ = tlog.OpenCheckpoint(checkpoint, log.Policy)
	})
}
