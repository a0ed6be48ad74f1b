package tlog

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	formats "github.com/transparency-dev/formats/log"
	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// ErrCheckpoint is returned for bytes that are not a checkpoint of this log, signed by the log key.
var ErrCheckpoint = errors.New("checkpoint is not valid")

// ErrUnwitnessed is returned, together with the checkpoint, when the log signed it and fewer witnesses than the quorum
// cosigned it.
var ErrUnwitnessed = errors.New("checkpoint has too few witnesses")

// Checkpoint is a state of the log that its key signed.
type Checkpoint struct {
	Size      uint64
	Root      digest.SHA256
	Raw       []byte // the signed note, with every signature line as it came
	Witnesses []Cosignature
}

// Cosignature is one witness of the policy that vouches for a checkpoint.
type Cosignature struct {
	Name string // of the witness in the policy
	Time time.Time
}

// OpenCheckpoint reads a checkpoint by the policy. It returns ErrPolicy for a policy that decides nothing, ErrCheckpoint
// for bytes that the log key did not sign in the one form of a checkpoint, and ErrUnwitnessed, with the checkpoint, when
// fewer than the quorum of witnesses cosigned. A cosignature of a stranger, or one that does not verify, counts for
// nothing.
func OpenCheckpoint(raw []byte, p Policy) (Checkpoint, error) {
	logKey, witnesses, err := p.verifiers()
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := openCheckpoint(raw, logKey)
	if err != nil {
		return Checkpoint{}, err
	}
	for i, v := range witnesses {
		n, err := note.Open(raw, note.VerifierList(v))
		if err != nil {
			continue
		}
		at, err := cosign.CoSigV1Timestamp(n.Sigs[0])
		if err != nil {
			continue
		}
		c.Witnesses = append(c.Witnesses, Cosignature{Name: p.Witnesses[i].Name, Time: at.UTC()})
	}
	if len(c.Witnesses) < p.Quorum {
		return c, fmt.Errorf("%w: %d of the policy's %d cosigned size %d, want %d", ErrUnwitnessed, len(c.Witnesses), len(witnesses), c.Size, p.Quorum)
	}
	return c, nil
}

// OpenLogCheckpoint reads a checkpoint by the log key alone, as a witness does. It returns ErrKey or ErrCheckpoint.
func OpenLogCheckpoint(raw []byte, logKey string) (Checkpoint, error) {
	v, err := LogVerifier(logKey)
	if err != nil {
		return Checkpoint{}, err
	}
	return openCheckpoint(raw, v)
}

func openCheckpoint(raw []byte, logKey note.Verifier) (Checkpoint, error) {
	if len(raw) > MaxCheckpointBytes {
		return Checkpoint{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrCheckpoint, len(raw), MaxCheckpointBytes)
	}
	n, err := note.Open(raw, note.VerifierList(logKey))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	var c formats.Checkpoint
	rest, err := c.Unmarshal([]byte(n.Text))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	switch {
	case c.Origin != logKey.Name():
		return Checkpoint{}, fmt.Errorf("%w: its origin is %.80q, want %q", ErrCheckpoint, c.Origin, logKey.Name())
	case len(rest) != 0 || !bytes.Equal(c.Marshal(), []byte(n.Text)):
		return Checkpoint{}, fmt.Errorf("%w: its text is not exactly origin, size and root", ErrCheckpoint)
	case c.Size > MaxSize:
		return Checkpoint{}, fmt.Errorf("%w: size %d is too large", ErrCheckpoint, c.Size)
	}
	root, err := digest.FromBytes(c.Hash)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: root: %w", ErrCheckpoint, err)
	}
	if c.Size == 0 && root != EmptyRoot() {
		return Checkpoint{}, fmt.Errorf("%w: an empty log has another root", ErrCheckpoint)
	}
	return Checkpoint{Size: c.Size, Root: root, Raw: bytes.Clone(raw)}, nil
}

// CheckpointText is what the log key signs: origin, size and root, one line each.
func CheckpointText(origin string, size uint64, root digest.SHA256) string {
	return string(formats.Checkpoint{Origin: origin, Size: size, Hash: root[:]}.Marshal())
}
