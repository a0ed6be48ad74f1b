// Package tilelog derives the transparency log from the audit rows: every event's leaf bytes, in the order of their
// numbers, as a Merkle tree in tiles (C2SP tlog-tiles), with checkpoints that the log's key signs and witnesses cosign.
//
// The rows are the truth and the tiles are derived: a directory that is lost or behind is built again from the rows, with
// the same bytes. Nothing waits for the log: it reads what is committed, in one goroutine of its own, and whatever fails in
// it is logged, counted and tried again. What must never happen is two histories under one key. So the key signs only what
// extends the last checkpoint in the database and the last one on disk; one replica at a time signs, under a fenced lock;
// and where the offline policy asks for witnesses, the last checkpoint is shown to them before a process signs its first.
// When rows, tiles, checkpoints and witnesses do not agree, the log stops for good, with an event and an error, and
// changes nothing: only a person can say which of them is right.
//
// Trusted: whoever has the key and the database can publish a false history that no witness has seen, and with a quorum
// of witness keys one that auditors believe. An attacker without them can at most stop the log, which is seen.
package tilelog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// Rows is what the log reads. Reads are of committed rows, and number n is there when Feed says n.
type Rows interface {
	Events(ctx context.Context, f store.EventFilter, after int64, limit int) ([]store.StoredEvent, error)
	Feed(ctx context.Context) (int64, error)
}

// Checkpoints is where signed checkpoints are kept, and the lock under which they are made. Commit returns when the change
// is durable, or store.ErrConflict when an expectation does not hold; a missing row is store.ErrNotFound.
type Checkpoints interface {
	Checkpoint(ctx context.Context, name string) (store.Checkpoint, error)
	Commit(ctx context.Context, change store.Change) error
	Lock(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (fence int64, ok bool, err error)
	Unlock(ctx context.Context, name, holder string) error
}

// Store is both; *store.Store has it.
type Store interface {
	Rows
	Checkpoints
}

// Config joins the parts of a Log. All but Client are needed.
type Config struct {
	Store  Store
	Dir    string // the tiles and the newest checkpoint, of this replica alone
	Key    *Key
	Policy func() []byte // the offline target tlog.PolicyPath, nil if there is none
	Every  time.Duration // between two looks at the rows when nothing wakes the log
	Wait   time.Duration // how long a report waits for the log to cover its events
	Client *http.Client  // for witnesses; nil for one with the system's CAs
	Now    func() time.Time
	Log    *slog.Logger
}

// Log keeps the tile log of the audit rows. Its methods are safe for concurrent use.
type Log struct {
	c    Config
	wake chan struct{}

	// Of the worker's goroutine.
	inUse        *os.File // locked while this process uses the directory
	holder       string   // of the database's lock: this directory, and so this process
	tree         *tree    // nil until it is read, and after a failed write
	fence        int64    // of the lock, 0 when it is not held
	leaseEnds    time.Time
	lockNext     time.Time        // before that the lock is another replica's
	onDisk       tlog.Checkpoint  // the newest checkpoint in the directory, no Raw if there is none
	checked      store.Checkpoint // the signed row that was compared with the tree last
	cosignedSize uint64           // of the newest witnessed checkpoint in the database, whoever stored it
	cosignedAt   time.Time
	confirmed    uint64 // size of the last checkpoint that this process signed or a quorum of witnesses confirmed
	scrubbed     uint64 // bundle that is compared with the rows next
	scrubNext    time.Time
	policy       tlog.Policy
	policyRaw    []byte
	witnesses    []*witness
	trouble      string // the last failure of a round, so that each is logged once

	beforeWrite func(name string) error // see tree

	mu      sync.Mutex
	reader  *tree         // guarded by mu: what readers use
	status  Status        // guarded by mu
	changed chan struct{} // guarded by mu: closed when status changes
	pending *stopped      // guarded by mu: an event that is not recorded yet
}

// Status says how far the log is.
type Status struct {
	Rows      int64 // audit events
	Size      int64 // of this replica's tiles
	Signed    int64 // of the newest signed checkpoint
	Witnessed int64 // of the newest checkpoint that the policy's quorum cosigned
	Quorum    int   // that the offline policy asks for
	Stopped   string
}

// Lag is how many events no published checkpoint covers: with a quorum, no witnessed one.
func (s Status) Lag() int64 {
	if s.Quorum > 0 {
		return s.Rows - s.Witnessed
	}
	return s.Rows - s.Signed
}

// New makes the log; nothing is read or written before Run.
func New(c Config) *Log {
	client := http.Client{}
	if c.Client != nil {
		client = *c.Client
	}
	// A witness answers itself: whoever it points to is not in the policy.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Client = &client
	return &Log{c: c, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Wake asks for a round now. It never blocks.
func (l *Log) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run works until the context ends, and gives directory and lock back. No failure of the log ends it earlier.
func (l *Log) Run(ctx context.Context) error {
	defer l.Close()
	tick := time.NewTicker(l.c.Every)
	defer tick.Stop()
	for {
		l.Round(ctx)
		select {
		case <-ctx.Done():
			l.unlock(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
		case <-l.wake:
		}
	}
}

// unlock lets another replica sign at once.
func (l *Log) unlock(ctx context.Context) {
	if l.fence == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = l.c.Store.Unlock(ctx, lockName, l.holder) // else it ends by itself
	l.fence = 0
}

// Close gives the directory back. It is for the goroutine of Run or Round, after the last round.
func (l *Log) Close() {
	if l.inUse != nil {
		_ = l.inUse.Close()
		l.inUse = nil
	}
}

// Round does what there is to do once: take in new rows, sign, ask witnesses, compare a few old rows.
func (l *Log) Round(ctx context.Context) {
	err := l.round(ctx)
	var halt *stopped
	switch {
	case errors.As(err, &halt):
		l.stop(ctx, halt)
	case err != nil && ctx.Err() == nil:
		if text := err.Error(); text != l.trouble {
			l.trouble = text
			l.c.Log.WarnContext(ctx, "cannot bring the audit log up to date; it is tried again", "error", err)
		}
	case err == nil && l.trouble != "":
		l.trouble = ""
		l.c.Log.InfoContext(ctx, "the audit log is up to date again")
	}
	l.record(ctx)
}

func (l *Log) round(ctx context.Context) error {
	rows, err := l.c.Store.Feed(ctx)
	if err != nil {
		return err
	}
	l.setStatus(func(s *Status) { s.Rows = rows })
	if l.Status().Stopped != "" {
		return nil
	}
	l.followPolicy(ctx)
	if err := l.open(ctx); err != nil {
		return err
	}
	if err := l.grow(ctx, rows); err != nil {
		return err
	}
	if err := l.publish(ctx); err != nil {
		return err
	}
	return l.scrub(ctx)
}

// Status returns how far the log is.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// setStatus changes the status and tells those who wait for it.
func (l *Log) setStatus(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.status
	change(&l.status)
	if l.status != before {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// Causes of a stop, as the event names them.
const (
	causeRowsBehind = "rows_behind"        // the database has fewer rows than the log: it was restored, or rows were lost
	causeRowsDiffer = "rows_differ"        // a row is not what it was when it became a leaf
	causeDamaged    = "tiles_damaged"      // the files of the log do not agree with one another
	causeCheckpoint = "checkpoint_differs" // a checkpoint is not one of this tree, or was forgotten
	causeRestored   = "restored"           // the database was restored from a backup: this log ends here
	causeWitness    = "witness_refused"    // so many witnesses have seen another history that no quorum is left
	causeTooLarge   = "leaf_too_large"
)

// stopped ends the log until a person has looked.
type stopped struct {
	cause  string
	detail string
	remedy string
}

func (s *stopped) Error() string { return s.cause + ": " + s.detail }

const (
	rebuild = "if the rows are right, move the log's directory away: it is built again from the rows, and must reach the signed roots"
	renew   = "this log has ended: keep its directory for auditors and begin a new one (operations, 'A new log')"
)

func (l *Log) stop(ctx context.Context, s *stopped) {
	l.setStatus(func(st *Status) { st.Stopped = s.cause })
	l.c.Log.ErrorContext(ctx, "the audit log has stopped; nothing else has: look before you restart", "cause", s.cause, "detail", s.detail, "remedy", s.remedy)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = s
}

// record writes the event of a stop, and tries again with the next round if it cannot.
func (l *Log) record(ctx context.Context) {
	l.mu.Lock()
	s, size := l.pending, l.status.Signed
	l.mu.Unlock()
	if s == nil {
		return
	}
	err := l.c.Store.Commit(ctx, store.Change{Events: []store.Event{{
		At: l.c.Now(), Type: audit.LogStopped, Actor: "log", Subject: l.c.Key.id(), Data: map[string]any{"cause": s.cause, "detail": s.detail, "signed": size},
	}}})
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = nil
}

// followPolicy takes over the offline policy when it has changed.
func (l *Log) followPolicy(ctx context.Context) {
	raw := l.c.Policy()
	if string(raw) == string(l.policyRaw) {
		return
	}
	l.policyRaw, l.policy, l.witnesses = raw, tlog.Policy{}, nil
	l.confirmed = 0 // the new witnesses have confirmed nothing yet
	if err := l.takePolicy(raw); err != nil {
		l.c.Log.ErrorContext(ctx, "the offline policy of the audit log cannot be followed: no witness is asked", "error", err)
	}
	l.setStatus(func(s *Status) { s.Quorum, s.Witnessed = l.policy.Quorum, 0 })
}

func (l *Log) takePolicy(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	p, err := tlog.DecodePolicy(raw)
	if err != nil {
		return err
	}
	if p.LogKey != l.c.Key.Verifier() {
		return fmt.Errorf("it is for the log key %s, this server has %s; 'cordon-sign log set' names another", p.LogKey, l.c.Key.Verifier())
	}
	for _, w := range p.Witnesses {
		one, err := newWitness(w)
		if err != nil {
			return err
		}
		l.witnesses = append(l.witnesses, one)
	}
	l.policy = p
	return nil
}
