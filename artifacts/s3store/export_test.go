package s3store

import (
	"crypto/sha256"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// PartBytes is the length of a part.
const PartBytes = partBytes

// SetAttempts lets a test see the first failure.
func (s *Store) SetAttempts(n int) { s.attempts = n }

// ErrState is what DecodeState returns.
var ErrState = errState

// DecodeState decodes and encodes again.
func DecodeState(b []byte) ([]byte, error) {
	st, h, err := decodeState(b)
	if err != nil {
		return nil, err
	}
	return encodeState(st, h)
}

// SampleState is the state of an upload with two parts and a tail.
func SampleState() []byte {
	h := sha256.New()
	h.Write([]byte("what came"))
	st := state{UploadID: "f2a1", Parts: []part{{"0cc175b9c0f1b6a831c399e269772661", digest.Of([]byte("a"))}, {"92eb5ffee6ae2fec3ad71c777531578f", digest.Of([]byte("b"))}}}
	st.Tail = newTail([]byte("the end"))
	b, err := encodeState(st, h)
	if err != nil {
		panic(err)
	}
	return b
}
