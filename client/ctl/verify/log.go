package verify

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// Checkpoint is a checkpoint of the log that the auditor kept, or got from a witness.
type Checkpoint struct {
	Name string // as people call it
	Raw  []byte
}

// log checks that the events are leaves of the log that the offline role named, under a checkpoint that enough of its
// witnesses cosigned.
func (v *verification) log() {
	v.begin(StepLog)
	if v.logPolicy == nil {
		v.believe("completeness: events are numbered without gaps, but the offline role names no log, so a server that rewrote its whole history would not be noticed")
		v.keptWithout("the offline role names no log")
		return
	}
	p, l := *v.logPolicy, v.r.Log
	if l == nil || len(l.Checkpoint) == 0 {
		v.cannot("the offline role names the log %s, and the report proves none of its %d events in it: ask for the report again when the log is there", p.Origin, len(v.r.Events))
		v.keptWithout("the report has no checkpoint")
		return
	}
	if l.State == api.LogStopped {
		v.believe("the log: the server says that it has stopped, and its event log.stopped why; what the checkpoint covers is proven all the same")
	}
	v.count()
	cp, err := tlog.OpenCheckpoint(l.Checkpoint, p)
	switch {
	case errors.Is(err, tlog.ErrUnwitnessed):
		v.cannot("%v: until then only the server vouches for this history", err)
	case err != nil:
		v.fail("the checkpoint is not one of the log %s that the offline role named: %v (after a restore from a backup the server begins a new log, which the holders have to name)", p.Origin, err)
		return
	}
	v.inLog(*l, cp)
	v.shown(cp)
	for _, kept := range v.o.Checkpoints {
		v.kept(kept, p, cp)
	}
	v.vouched(p, cp)
}

// inLog proves all events that the checkpoint covers at once.
func (v *verification) inLog(l api.ReportLog, cp tlog.Checkpoint) {
	var leaves []tlog.Leaf
	uncovered := int64(0)
	for _, e := range v.r.Events {
		if e.Number < 1 || uint64(e.Number) > cp.Size {
			if uncovered == 0 {
				uncovered = e.Number
			}
			continue
		}
		v.count()
		leaves = append(leaves, tlog.Leaf{Index: uint64(e.Number - 1), Hash: tlog.LeafHash(e.Leaf)})
	}
	if uncovered != l.UncoveredFrom {
		v.fail("the report says that events from %d on are not in the log yet, the checkpoint of size %d leaves out those from %d on", l.UncoveredFrom, cp.Size, uncovered)
	}
	if uncovered > 0 {
		v.cannot("events from %d on are not under the checkpoint of size %d: ask for the report again, or check a later one", uncovered, cp.Size)
	}
	if len(leaves) == 0 {
		return // nothing that a proof could hold
	}
	root, err := tlog.RootOf(cp.Size, leaves, l.Hashes)
	switch {
	case err != nil:
		v.fail("the proof of events %d to %d: %v", leaves[0].Index+1, leaves[len(leaves)-1].Index+1, err)
	case root != cp.Root:
		v.fail("one of the events %d to %d is not in the log as the report shows it: its bytes were changed, or it was never a leaf", leaves[0].Index+1, leaves[len(leaves)-1].Index+1)
	}
}

// kept holds the report's checkpoint against one that the auditor has.
func (v *verification) kept(k Checkpoint, p tlog.Policy, cp tlog.Checkpoint) {
	v.count()
	old, err := tlog.OpenLogCheckpoint(k.Raw, p.LogKey)
	if err != nil {
		v.cannot("%s is not a checkpoint of the log that the offline role names now: %v", k.Name, err)
		return
	}
	if old.Size == cp.Size {
		if old.Root != cp.Root {
			v.fail("%s and the report's checkpoint are both signed by the log, and are of two histories of %d leaves: keep both, they prove it", k.Name, cp.Size)
		}
		return
	}
	if root, ok := v.rootAt(old.Size); ok {
		if root != old.Root {
			v.fail("%s is not of this history: the log signed another tree of its first %d leaves", k.Name, old.Size)
		}
		return
	}
	if old.Size > cp.Size {
		v.cannot("%s has %d leaves and the report's checkpoint %d: if you had it before the report was made, the log was rolled back; 'cordonctl log check --from' decides it", k.Name, old.Size, cp.Size)
		return
	}
	v.cannot("whether %s, of %d leaves, is the beginning of the report's %d: a report does not hold all leaves; 'cordonctl log check --from' decides it", k.Name, old.Size, cp.Size)
}

// rootAt computes the tree of the first leaves, if the report has all of them.
func (v *verification) rootAt(size uint64) (digest.SHA256, bool) {
	if uint64(len(v.r.Events)) < size {
		return digest.SHA256{}, false
	}
	leaves := make([]tlog.Leaf, 0, size)
	for i, e := range v.r.Events[:size] {
		if e.Number != int64(i)+1 {
			return digest.SHA256{}, false
		}
		leaves = append(leaves, tlog.Leaf{Index: uint64(i), Hash: tlog.LeafHash(e.Leaf)})
	}
	root, err := tlog.RootOf(size, leaves, nil)
	return root, err == nil
}

func (v *verification) keptWithout(why string) {
	for _, k := range v.o.Checkpoints {
		v.cannot("%s: there is nothing to hold it against, %s", k.Name, why)
	}
}

// vouched says who stands behind the history.
func (v *verification) vouched(p tlog.Policy, cp tlog.Checkpoint) {
	if p.Quorum == 0 {
		v.believe("history: the log key signed it, and the policy asks for no witness, so whoever holds that key could show others another history")
		return
	}
	var names []string
	for _, w := range cp.Witnesses {
		names = append(names, fmt.Sprintf("%s (%s)", w.Name, w.Time.Format("2006-01-02 15:04:05Z")))
	}
	who := cmp.Or(strings.Join(names, ", "), "nobody")
	if liars := p.Liars(len(names)); liars > 0 {
		v.believe("witnesses: %d leaves were cosigned by %s; each vouches that it never cosigned another history of this log, and for another one with a quorum at least %d of them would have had to lie", cp.Size, who, liars)
	} else {
		v.believe("witnesses: %d leaves were cosigned by %s, and the other witnesses of the policy could make a quorum of %d for another history without any lie: a quorum of more than half of them rules that out", cp.Size, who, p.Quorum)
	}
	v.believe("completeness: what the server never wrote down is in no log")
}
