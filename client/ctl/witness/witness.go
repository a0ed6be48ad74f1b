// Package witness is an independent witness for transparency logs: C2SP tlog-witness, cosignatures of type cosignature/v1.
//
// It promises to cosign, of every log that it knows, only checkpoints that extend all those that it cosigned before; so
// whoever finds its cosignature on two checkpoints knows that both are of one history. What it cosigned is on disk before
// the cosignature leaves, so the promise holds through kill -9 and a power cut. It refuses logs that it was not told of,
// checkpoints that the log's key did not sign, and to start beside another process on the same state. It looks at no
// event and keeps no copy of a log.
//
// Trusted: an attacker who holds its key, or who can put its state back to an older copy, can vouch for a second history;
// that is why a log has several witnesses, run by people who do not depend on each other.
package witness

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Errors that a caller tests for, beside tlog.ErrRequest and tlog.ErrProof.
var (
	ErrKey        = errors.New("witness key is not valid")
	ErrState      = errors.New("witness state cannot be used")
	ErrUnknownLog = errors.New("log is not one that this witness knows")
	ErrNotSigned  = errors.New("checkpoint is not signed by the log")
	ErrFork       = errors.New("log signed another tree of the size that was cosigned")
)

// StaleError is returned when a request starts from another size than the one that was cosigned last.
type StaleError struct{ Size uint64 }

func (e *StaleError) Error() string {
	return fmt.Sprintf("the newest cosigned checkpoint has size %d", e.Size)
}

// maxForks bounds the proofs of forks that are kept per log.
const maxForks = 8

// NewKey makes the key of a witness: the secret for its key file, and the verifier key for log policies.
func NewKey(name string) (secret, public string, err error) {
	if err := tlog.ValidOrigin(name); err != nil {
		return "", "", fmt.Errorf("%w: name: %w", ErrKey, err)
	}
	secret, plain, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", "", fmt.Errorf("cannot make a key: %w", err)
	}
	public, err = cosign.VKeyToCosignatureV1(plain)
	return secret, public, err
}

// Config of a Witness.
type Config struct {
	Dir     string   // state; it must not be lost and must never be put back to an older copy
	Key     string   // the secret of NewKey
	LogKeys []string // verifier keys of the logs; a key's name is its log's origin
}

// Witness cosigns checkpoints. It is safe for concurrent use.
type Witness struct {
	dir    string
	signer *cosign.Signer
	logs   map[string]string // origin -> verifier key
	lock   *os.File
	after  func(step string) error // tests: what happens when the process ends behind a step

	mu     sync.Mutex // one request at a time decides: the state on disk is read, extended and written under it
	closed bool       // guarded by mu
}

// Open reads the state and holds it until Close. It returns ErrKey, tlog.ErrKey, or ErrState when another process holds
// the state or a part of it cannot be read.
func Open(c Config) (*Witness, error) {
	signer, err := cosign.NewSignerForCosignatureV1(strings.TrimSpace(c.Key))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	w := &Witness{dir: c.Dir, signer: signer, logs: map[string]string{}, after: func(string) error { return nil }}
	for _, key := range c.LogKeys {
		v, err := tlog.LogVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("log key %.80q: %w", key, err)
		}
		if w.logs[v.Name()] != "" {
			return nil, fmt.Errorf("%w: two keys for log %q", ErrKey, v.Name())
		}
		w.logs[v.Name()] = key
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if w.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(c.Dir, ".new-*")) // of a process that was killed
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrState, err), w.Close())
	}
	for _, origin := range w.Origins() {
		if _, err := w.Latest(origin); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// Close gives the state free, when the request that it decides about is done. Later ones are ErrState.
func (w *Witness) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.lock.Close()
}

// Name is the name of the witness in its cosignatures.
func (w *Witness) Name() string { return w.signer.Name() }

// Origins lists the logs, sorted.
func (w *Witness) Origins() []string { return slices.Sorted(maps.Keys(w.logs)) }

// Latest returns the checkpoint of a log that was cosigned last; its Raw carries the cosignature. Of a log that was never
// cosigned it is the empty tree without Raw. It returns ErrUnknownLog, or ErrState when the stored bytes are not what the
// log and this witness signed.
func (w *Witness) Latest(origin string) (tlog.Checkpoint, error) {
	key, known := w.logs[origin]
	if !known {
		return tlog.Checkpoint{}, fmt.Errorf("%w: %.80q", ErrUnknownLog, origin)
	}
	raw, err := os.ReadFile(w.path(origin))
	if errors.Is(err, os.ErrNotExist) {
		return tlog.Checkpoint{Root: tlog.EmptyRoot()}, nil
	}
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	c, err := tlog.OpenLogCheckpoint(raw, key)
	if err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("%w: %s: %w", ErrState, w.path(origin), err)
	}
	if _, err := note.Open(raw, note.VerifierList(w.signer.Verifier())); err != nil {
		return tlog.Checkpoint{}, fmt.Errorf("%w: %s: not cosigned by this witness: %w", ErrState, w.path(origin), err)
	}
	return c, nil
}

func (w *Witness) path(origin string) string {
	return filepath.Join(w.dir, digest.Of([]byte(origin)).String()+".checkpoint")
}

// Add decides about one add-checkpoint request and returns the cosignature line. It returns tlog.ErrRequest for a request
// that is not one, ErrUnknownLog, ErrNotSigned, a *StaleError, ErrFork, or tlog.ErrProof; any other error means that the
// witness could not decide, and nothing was cosigned.
func (w *Witness) Add(body []byte) ([]byte, error) {
	r, err := tlog.DecodeAddCheckpoint(body)
	if err != nil {
		return nil, err
	}
	origin, _, _ := bytes.Cut(r.Checkpoint, []byte("\n"))
	key, known := w.logs[string(origin)]
	if !known {
		return nil, fmt.Errorf("%w: %.80q", ErrUnknownLog, origin)
	}
	c, err := tlog.OpenLogCheckpoint(r.Checkpoint, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	if r.Old > c.Size {
		return nil, fmt.Errorf("%w: old size %d is above the checkpoint's %d", tlog.ErrRequest, r.Old, c.Size)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("%w: it was closed", ErrState) // another process may have it by now
	}
	if err := w.extends(string(origin), r, c); err != nil {
		return nil, err
	}
	return w.cosign(string(origin), r.Checkpoint)
}

// extends holds the rule of a witness: the checkpoint continues the last one that was cosigned.
func (w *Witness) extends(origin string, r tlog.AddCheckpoint, c tlog.Checkpoint) error {
	last, err := w.Latest(origin)
	if err != nil {
		return err
	}
	if last.Size == c.Size && last.Root != c.Root {
		return errors.Join(fmt.Errorf("%w: size %d", ErrFork, c.Size), w.keepFork(origin, c))
	}
	if r.Old != last.Size {
		return &StaleError{Size: last.Size}
	}
	return tlog.VerifyConsistency(last.Size, c.Size, last.Root, c.Root, r.Proof)
}

// cosign signs the checkpoint's text, makes the outcome durable, and only then lets the signature go.
func (w *Witness) cosign(origin string, checkpoint []byte) ([]byte, error) {
	n, err := note.Open(checkpoint, note.VerifierList(logVerifier(w.logs[origin])))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	n.UnverifiedSigs = nil // what others added is not for us to keep
	signed, err := note.Sign(n, w.signer)
	if err != nil {
		return nil, fmt.Errorf("cannot cosign: %w", err)
	}
	if err := w.after("signed"); err != nil {
		return nil, err
	}
	if err := w.write(w.path(origin), signed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return signed[bytes.LastIndexByte(signed[:len(signed)-1], '\n')+1:], nil
}

// logVerifier is of a key that Open has checked.
func logVerifier(key string) note.Verifier {
	v, err := tlog.LogVerifier(key)
	if err != nil {
		panic(err)
	}
	return v
}

// keepFork keeps the checkpoint that contradicts the one that was cosigned: both together prove what the log did.
func (w *Witness) keepFork(origin string, c tlog.Checkpoint) error {
	prefix := strings.TrimSuffix(w.path(origin), ".checkpoint") + ".fork."
	name := prefix + c.Root.String()[:16]
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if kept, err := filepath.Glob(prefix + "*"); err != nil || len(kept) >= maxForks {
		return err
	}
	if err := w.write(name, c.Raw); err != nil {
		return fmt.Errorf("cannot keep the proof of the fork: %w", err)
	}
	return nil
}

// Forks lists the files with checkpoints that contradict what was cosigned.
func (w *Witness) Forks() ([]string, error) {
	return filepath.Glob(filepath.Join(w.dir, "*.fork.*"))
}

// write replaces a file so that after a crash it has the old content or the new one, and returns when the new one is
// durable.
func (w *Witness) write(path string, data []byte) error {
	f, err := os.CreateTemp(w.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := w.after("written"); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if err := w.after("renamed"); err != nil {
		return err
	}
	dir, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return err
	}
	return w.after("durable")
}
