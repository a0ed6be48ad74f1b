package s3store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

const (
	// partBytes is the length of every part but the last. S3 wants at least 5 MiB and at most 10000 parts; a writer
	// holds one part in memory.
	partBytes = 8 << 20
	maxParts  = artifacts.MaxImageBytes / partBytes
	// maxStateBytes holds a state with maxParts parts and long ETags.
	maxStateBytes = 1 << 20
	stateVersion  = 1
)

// errState: the object that says how far an upload is cannot be used; the upload starts again.
var errState = errors.New("state of the upload is not valid")

// state says how far an upload is. It is moved by conditional writes only, after the bytes that it counts are stored.
type state struct {
	Version  int    `json:"version"`
	Hash     []byte `json:"hash"` // SHA-256 after Offset bytes, in the form of its MarshalBinary
	UploadID string `json:"upload_id,omitzero"`
	Parts    []part `json:"parts,omitzero"` // of partBytes bytes each, in order
	Tail     tail   `json:"tail,omitzero"`  // bytes after the last part, too few for a part
}

// part of a multipart upload. Its ETag and its sum must still be the same when the parts are put together, so a part
// that a rival wrote over this one cannot get into the blob.
type part struct {
	ETag   string        `json:"etag"`
	SHA256 digest.SHA256 `json:"sha256"`
}

// tail is an object of its own.
type tail struct {
	Suffix string        `json:"suffix,omitzero"` // after "uploads/<hex>."
	Length int64         `json:"length,omitzero"`
	SHA256 digest.SHA256 `json:"sha256,omitzero"`
}

// offset is the number of durable bytes.
func (st state) offset() int64 { return int64(len(st.Parts))*partBytes + st.Tail.Length }

func newTail(b []byte) tail {
	return tail{Suffix: rand.Text(), Length: int64(len(b)), SHA256: digest.Of(b)}
}

func encodeState(st state, h hash.Hash) ([]byte, error) {
	st.Version = stateVersion
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, errors.New("cannot keep a running SHA-256")
	}
	var err error
	if st.Hash, err = m.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("cannot keep a running SHA-256: %w", err)
	}
	return json.Marshal(st)
}

// decodeState reads a state and the running hash in it. It returns errState for anything that encodeState does not
// write.
func decodeState(b []byte) (state, hash.Hash, error) {
	if len(b) > maxStateBytes {
		return state{}, nil, fmt.Errorf("%w: %d bytes", errState, len(b))
	}
	var st state
	if err := json.Unmarshal(b, &st, json.RejectUnknownMembers(true)); err != nil {
		return state{}, nil, fmt.Errorf("%w: %w", errState, err)
	}
	if err := st.validate(); err != nil {
		return state{}, nil, fmt.Errorf("%w: %w", errState, err)
	}
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(st.Hash); err != nil {
		return state{}, nil, fmt.Errorf("%w: %w", errState, err)
	}
	// The hash counts its bytes; encoding it again must give the same form.
	again, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || !bytes.Equal(again, st.Hash) {
		return state{}, nil, fmt.Errorf("%w: running hash in another form", errState)
	}
	return st, h, nil
}

func (st state) validate() error {
	if st.Version != stateVersion {
		return fmt.Errorf("version %d, this program knows %d", st.Version, stateVersion)
	}
	if len(st.Parts) > maxParts || (st.UploadID == "") != (len(st.Parts) == 0) || len(st.UploadID) > 1024 {
		return fmt.Errorf("%d parts of an upload with an id of %d bytes", len(st.Parts), len(st.UploadID))
	}
	for i, p := range st.Parts {
		if !validETag(p.ETag) {
			return fmt.Errorf("part %d has no ETag", i+1)
		}
	}
	t := st.Tail
	if t.Length < 0 || t.Length > partBytes || (t.Length == 0) != (t.Suffix == "") || (t.Suffix != "" && artifacts.ValidName(lower(t.Suffix)) != nil) {
		return fmt.Errorf("tail of %d bytes", t.Length)
	}
	if st.offset() == 0 {
		return errors.New("it counts no bytes")
	}
	return nil
}

// lower maps the letters of rand.Text, which are upper case.
func lower(s string) string { return string(bytes.ToLower([]byte(s))) }
