package tlog

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// The interface of a witness (C2SP tlog-witness).
const (
	AddCheckpointPath = "/add-checkpoint"
	SizeContentType   = "text/x.tlog.size" // of the 409 answer: the size that the witness cosigned last
	MaxRequestBytes   = MaxCheckpointBytes + 64*64
)

// ErrRequest is returned for bytes that are not an add-checkpoint request.
var ErrRequest = errors.New("add-checkpoint request is not valid")

// AddCheckpoint asks a witness to cosign a checkpoint.
type AddCheckpoint struct {
	Old        uint64          // size of the checkpoint that the witness cosigned last, 0 for none
	Proof      []digest.SHA256 // consistency from Old to the checkpoint
	Checkpoint []byte          // signed by the log
}

// Encode writes the request's body.
func (r AddCheckpoint) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.Old)
	for _, h := range r.Proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n")
	b.Write(r.Checkpoint)
	return b.Bytes()
}

// DecodeAddCheckpoint reads a request's body. It returns ErrRequest for anything but what Encode writes. The checkpoint in
// it is not looked at.
func DecodeAddCheckpoint(b []byte) (AddCheckpoint, error) {
	if len(b) > MaxRequestBytes {
		return AddCheckpoint{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrRequest, len(b), MaxRequestBytes)
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok || len(checkpoint) == 0 {
		return AddCheckpoint{}, fmt.Errorf("%w: it has no empty line with a checkpoint behind it", ErrRequest)
	}
	lines := strings.Split(string(head), "\n")
	if len(lines)-1 > MaxProofHashes {
		return AddCheckpoint{}, fmt.Errorf("%w: its proof has %d hashes, at most %d are allowed", ErrRequest, len(lines)-1, MaxProofHashes)
	}
	text, ok := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil || old > MaxSize || strconv.FormatUint(old, 10) != text {
		return AddCheckpoint{}, fmt.Errorf("%w: its first line is %.40q, want old SIZE", ErrRequest, lines[0])
	}
	r := AddCheckpoint{Old: old, Checkpoint: checkpoint}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != digest.Size || base64.StdEncoding.EncodeToString(raw) != line {
			return AddCheckpoint{}, fmt.Errorf("%w: %.60q is not a hash", ErrRequest, line)
		}
		r.Proof = append(r.Proof, digest.SHA256(raw))
	}
	return r, nil
}
