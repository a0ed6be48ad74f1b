package attestation

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// TranscriptDomain is the first field of every transcript; another protocol or version would have another one.
const TranscriptDomain = "cordon/quote/v1"

// Transcript is what the extraData of a quote must be (V-34): the SHA-256 of these fields, each preceded by its
// length as four bytes, big-endian:
//
//  1. "cordon/quote/v1"
//  2. b.Purpose
//  3. b.Nonce
//  4. b.Device
//  5. b.Exporter
//  6. the number of log digests, as four bytes, big-endian
//  7. each of b.LogDigests, 32 bytes, as a field of its own
//  8. b.Claims, 32 bytes
//
// Two different Bindings never hash the same bytes: every field has its length before it and the number of log
// digests stands before them. Transcript refuses nothing; Appraise refuses a Binding that binds too little.
func Transcript(b Binding) digest.SHA256 {
	const usual = 512 // holds every transcript with a handful of logs
	buf := make([]byte, 0, usual)
	buf = appendField(buf, []byte(TranscriptDomain))
	buf = appendField(buf, []byte(b.Purpose))
	buf = appendField(buf, b.Nonce)
	buf = appendField(buf, []byte(b.Device))
	buf = appendField(buf, b.Exporter)
	buf = appendField(buf, binary.BigEndian.AppendUint32(nil, uint32(len(b.LogDigests))))
	for _, d := range b.LogDigests {
		buf = appendField(buf, d[:])
	}
	return sha256.Sum256(appendField(buf, b.Claims[:]))
}

func appendField(buf, field []byte) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(field))), field...)
}
