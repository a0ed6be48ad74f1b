package tilelog

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// ErrFork is returned when the key is asked to sign what does not extend a checkpoint that it signed before.
var ErrFork = errors.New("the tree does not extend the last checkpoint")

// Key is the log's key behind its guard: nothing but an extension of the checkpoints that are shown to it gets a
// signature. It is safe for concurrent use.
type Key struct {
	signer note.Signer
	vkey   string
}

// NewKey makes the key of the log with that origin.
func NewKey(origin string, private ed25519.PrivateKey) (*Key, error) {
	if err := tlog.ValidOrigin(origin); err != nil {
		return nil, fmt.Errorf("cannot make the log key: %w", err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("cannot make the log key: %w", err)
	}
	// The text form that package note reads: its type byte, 1, and the seed.
	hash := strings.Split(vkey, "+")[1]
	secret := base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...))
	signer, err := note.NewSigner(strings.Join([]string{"PRIVATE+KEY", origin, hash, secret}, "+"))
	if err != nil {
		return nil, fmt.Errorf("cannot make the log key: %w", err)
	}
	return &Key{signer: signer, vkey: vkey}, nil
}

// Verifier is the key's public half as a C2SP note verifier key. Its name is the origin.
func (k *Key) Verifier() string { return k.vkey }

// id names the log in the database: another key or another origin is another log.
func (k *Key) id() string { return fmt.Sprintf("%s+%08x", k.signer.Name(), k.signer.KeyHash()) }

// open reads a checkpoint that this key signed.
func (k *Key) open(raw []byte) (tlog.Checkpoint, error) { return tlog.OpenLogCheckpoint(raw, k.vkey) }

// extension is a checkpoint that the key signed before, and the proof that the new tree has it as its beginning.
type extension struct {
	of    tlog.Checkpoint
	proof []digest.SHA256
}

// sign signs the tree if it extends every one of the last checkpoints; otherwise the error is ErrFork.
func (k *Key) sign(size uint64, root digest.SHA256, last ...extension) ([]byte, error) {
	for _, l := range last {
		before, err := k.open(l.of.Raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFork, err)
		}
		if size < before.Size {
			return nil, fmt.Errorf("%w: it has %d leaves, the checkpoint has %d", ErrFork, size, before.Size)
		}
		if err := tlog.VerifyConsistency(before.Size, size, before.Root, root, l.proof); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFork, err)
		}
	}
	raw, err := note.Sign(&note.Note{Text: tlog.CheckpointText(k.signer.Name(), size, root)}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("cannot sign a checkpoint: %w", err)
	}
	return raw, nil
}
