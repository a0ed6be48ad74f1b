package tilelog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/store"
)

// lookAgain is how often a waiting report asks the database: another replica may publish.
const lookAgain = 250 * time.Millisecond

// ErrNotYet is returned when there is nothing to show yet.
var ErrNotYet = errors.New("the audit log has no checkpoint yet")

// Checkpoint returns the published checkpoint: with a quorum in the offline policy the newest one that has it, otherwise
// the newest signed one. It returns ErrNotYet when there is none, or this replica's tiles do not reach it yet.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	cp, _, err := l.published(ctx)
	return cp.Raw, err
}

// published also says whether the quorum has cosigned it.
func (l *Log) published(ctx context.Context) (tlog.Checkpoint, bool, error) {
	t := l.readable()
	if t == nil {
		return tlog.Checkpoint{}, false, ErrNotYet
	}
	cosigned, witnessed, err := l.cosigned(ctx)
	if err != nil {
		return cosigned, false, err
	}
	if witnessed {
		return cosigned, true, l.reached(t, cosigned)
	}
	row, err := l.c.Store.Checkpoint(ctx, l.c.Key.id()+signedRow)
	if errors.Is(err, store.ErrNotFound) {
		return tlog.Checkpoint{}, false, ErrNotYet
	}
	if err != nil {
		return tlog.Checkpoint{}, false, err
	}
	cp, err := l.c.Key.open(row.Note)
	if err != nil {
		return cp, false, err
	}
	if cosigned.Size == cp.Size && cosigned.Raw != nil {
		cp = cosigned // fewer witnesses than the quorum, or there is none: their lines do no harm
	}
	return cp, false, l.reached(t, cp)
}

// cosigned reads the newest checkpoint with cosignatures, and holds it against the offline policy of now.
func (l *Log) cosigned(ctx context.Context) (tlog.Checkpoint, bool, error) {
	row, err := l.c.Store.Checkpoint(ctx, l.c.Key.id()+witnessRow)
	if errors.Is(err, store.ErrNotFound) {
		return tlog.Checkpoint{}, false, nil
	}
	if err != nil {
		return tlog.Checkpoint{}, false, err
	}
	if p, err := tlog.DecodePolicy(l.c.Policy()); err == nil && p.LogKey == l.c.Key.Verifier() {
		cp, err := tlog.OpenCheckpoint(row.Note, p)
		return cp, err == nil && p.Quorum > 0, ignoreUnwitnessed(err)
	}
	cp, err := l.c.Key.open(row.Note)
	return cp, false, err
}

func ignoreUnwitnessed(err error) error {
	if errors.Is(err, tlog.ErrUnwitnessed) {
		return nil
	}
	return err
}

func (l *Log) reached(t *tree, cp tlog.Checkpoint) error {
	if t.durable.Load() < cp.Size {
		return fmt.Errorf("%w: this replica has %d of %d leaves", ErrNotYet, t.durable.Load(), cp.Size)
	}
	return nil
}

func (l *Log) readable() *tree {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reader
}

// Tile returns a tile of C2SP tlog-tiles: the full one, or with partial its first hashes. It returns fs.ErrNotExist for
// what this replica's log does not have.
func (l *Log) Tile(level, index uint64, partial uint8) ([]byte, error) {
	t := l.readable()
	if t == nil {
		return nil, fs.ErrNotExist
	}
	return t.tile(level, index, partial)
}

// Entries returns an entry bundle; contract as for Tile.
func (l *Log) Entries(index uint64, partial uint8) ([]byte, error) {
	t := l.readable()
	if t == nil {
		return nil, fs.ErrNotExist
	}
	return t.entries(index, partial)
}

// Prove proves the leaves (rising, none twice) against the published checkpoint. It waits a short time for the log to
// cover them, and says honestly which ones it does not.
func (l *Log) Prove(ctx context.Context, leaves []tlog.Leaf) (*api.ReportLog, error) {
	out := &api.ReportLog{State: api.LogBehind}
	if len(leaves) > 0 {
		out.UncoveredFrom = int64(leaves[0].Index) + 1
	}
	cp, witnessed, err := l.await(ctx, leaves)
	if errors.Is(err, ErrNotYet) {
		out.State = l.orStopped(out.State)
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	covered := len(leaves)
	for covered > 0 && leaves[covered-1].Index >= cp.Size {
		covered--
	}
	out.UncoveredFrom = 0
	if covered < len(leaves) {
		out.UncoveredFrom = int64(leaves[covered].Index) + 1
	}
	indices := make([]uint64, covered)
	for i, leaf := range leaves[:covered] {
		indices[i] = leaf.Index
	}
	out.State, out.Checkpoint = api.LogUnwitnessed, cp.Raw
	if witnessed {
		out.State = api.LogWitnessed
	}
	out.State = l.orStopped(out.State)
	if out.Hashes, err = tlog.Prove(ctx, cp.Size, indices, l.readable().nodes(cp.Size)); err != nil {
		if damage(err) {
			l.suspect(ctx, err.Error())
			out.State, out.Hashes = api.LogStopped, nil
			return out, nil
		}
		return nil, fmt.Errorf("cannot prove events in the audit log: %w", err)
	}
	if root, err := tlog.RootOf(cp.Size, leaves[:covered], out.Hashes); err != nil || root != cp.Root {
		l.suspect(ctx, "the rows of a report do not make the root of the checkpoint") // and the report shows it
		out.State = api.LogStopped
	}
	return out, nil
}

func (l *Log) orStopped(state string) string {
	if l.Status().Stopped != "" {
		return api.LogStopped
	}
	return state
}

// suspect has every row compared before anything else is signed.
func (l *Log) suspect(ctx context.Context, detail string) {
	l.c.Log.ErrorContext(ctx, "the audit log does not prove what the database says", "detail", detail)
	err := l.Check(ctx)
	var halt *stopped
	if !errors.As(err, &halt) {
		halt = &stopped{causeDamaged, detail, rebuild}
	}
	l.stop(ctx, halt)
	l.Wake()
}

// await returns the published checkpoint, as soon as it covers the leaves or the time is up.
func (l *Log) await(ctx context.Context, leaves []tlog.Leaf) (tlog.Checkpoint, bool, error) {
	timeout := time.NewTimer(l.c.Wait)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		changed, halted := l.changed, l.status.Stopped != ""
		l.mu.Unlock()
		cp, witnessed, err := l.published(ctx)
		covers := err == nil && (len(leaves) == 0 || leaves[len(leaves)-1].Index < cp.Size) && (witnessed || l.Status().Quorum == 0)
		if covers || halted || err != nil && !errors.Is(err, ErrNotYet) {
			return cp, witnessed, err
		}
		l.Wake()
		select {
		case <-changed:
		case <-time.After(lookAgain): // another replica may have published
		case <-timeout.C:
			return cp, witnessed, err
		case <-ctx.Done():
			return cp, witnessed, ctx.Err()
		}
	}
}
