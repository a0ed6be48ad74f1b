package verifytest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// LogOrigin is the name of a World's audit log.
const LogOrigin = "fleet.example/audit"

// LogSize is how many events an honest World has.
const LogSize = 12

// Log is the audit log of a World, with the keys of the server and of the witnesses, so that a test can be any of them.
type Log struct {
	Policy    tlog.Policy
	Key       note.Signer
	Witnesses []note.Signer // as in the policy
	Leaves    [][]byte      // of events 1, 2, ...
}

func (w *World) newLog() {
	secret, vkey, err := note.GenerateKey(rand.Reader, LogOrigin)
	must(err)
	w.Log.Policy = tlog.Policy{Version: tlog.PolicyVersion, Origin: LogOrigin, LogKey: vkey, Quorum: 2, Witnesses: []tlog.Witness{}}
	w.Log.Key, err = note.NewSigner(secret)
	must(err)
	for i := range 3 {
		secret, plain, err := note.GenerateKey(rand.Reader, fmt.Sprintf("w%d.example", i))
		must(err)
		signer, err := cosign.NewSignerForCosignatureV1(secret)
		must(err)
		vkey, err := cosign.VKeyToCosignatureV1(plain)
		must(err)
		w.Log.Witnesses = append(w.Log.Witnesses, signer)
		w.Log.Policy.Witnesses = append(w.Log.Policy.Witnesses, tlog.Witness{Name: fmt.Sprintf("w%d", i), Key: vkey, URL: fmt.Sprintf("https://w%d.example", i)})
	}
}

// History is the leaves of all events: those of the report at their numbers, others around them.
func History(events []api.Event, size int) [][]byte {
	var leaves [][]byte
	for n := int64(1); n <= int64(size); n++ {
		leaf := Event(n, Noon, "timestamp.issued", "server", "", `{}`).Leaf
		if i := slices.IndexFunc(events, func(e api.Event) bool { return e.Number == n }); i >= 0 {
			leaf = events[i].Leaf
		}
		leaves = append(leaves, leaf)
	}
	return leaves
}

// Checkpoint signs the tree of the leaves, with the log's key and these witnesses.
func (l Log) Checkpoint(leaves [][]byte, witnesses ...note.Signer) []byte {
	root, err := tlog.RootOf(uint64(len(leaves)), hashed(leaves), nil)
	must(err)
	raw, err := note.Sign(&note.Note{Text: tlog.CheckpointText(l.Policy.Origin, uint64(len(leaves)), root)}, append([]note.Signer{l.Key}, witnesses...)...)
	must(err)
	return raw
}

func hashed(leaves [][]byte) []tlog.Leaf {
	var out []tlog.Leaf
	for i, leaf := range leaves {
		out = append(out, tlog.Leaf{Index: uint64(i), Hash: tlog.LeafHash(leaf)})
	}
	return out
}

// Prove is what a server puts into a report about these events, with a witnessed checkpoint over the leaves.
func (l Log) Prove(events []api.Event, leaves [][]byte) *api.ReportLog {
	out := &api.ReportLog{State: api.LogWitnessed, Checkpoint: l.Checkpoint(leaves, l.Witnesses[0], l.Witnesses[2])}
	var indices []uint64
	for _, e := range events {
		switch {
		case e.Number <= int64(len(leaves)):
			indices = append(indices, uint64(e.Number-1))
		case out.UncoveredFrom == 0:
			out.UncoveredFrom = e.Number
		}
	}
	hashes := hashed(leaves)
	var err error
	out.Hashes, err = tlog.Prove(context.Background(), uint64(len(leaves)), indices, func(_ context.Context, level uint, index uint64) (digest.SHA256, error) {
		var below []tlog.Leaf
		for i, leaf := range hashes[index<<level : (index+1)<<level] {
			below = append(below, tlog.Leaf{Index: uint64(i), Hash: leaf.Hash})
		}
		return tlog.RootOf(uint64(len(below)), below, nil)
	})
	must(err)
	return out
}

// Relog makes the log of a report whose events a test changed, as a server would that wrote them so from the beginning.
func (w *World) Relog(r *api.Report) {
	r.Log = w.Log.Prove(r.Events, History(r.Events, LogSize))
}
