package parts_test

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// fold is TPM2_PCR_Extend.
func fold(pcr, d digest.SHA256) digest.SHA256 { return digest.Of(append(pcr[:], d[:]...)) }

// logEvent is an event of a TCG log; the first one has a SHA-1 digest, which is not kept.
type logEvent struct {
	pcr    int
	kind   uint32
	digest digest.SHA256
	data   []byte
}

// parseLog reads a crypto-agile log with a SHA-256 bank only.
func parseLog(t *testing.T, path string) []logEvent {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("event log: %v", err)
	}
	take := func(n int) []byte {
		if n > len(b) {
			t.Fatalf("event log ends in the middle of an event")
		}
		head := b[:n]
		b = b[n:]
		return head
	}
	u32 := func() uint32 { return binary.LittleEndian.Uint32(take(4)) }
	events := []logEvent{{pcr: int(u32()), kind: u32()}}
	take(20)
	events[0].data = take(int(u32()))
	for len(b) > 0 {
		e := logEvent{pcr: int(u32()), kind: u32()}
		if count, alg := u32(), binary.LittleEndian.Uint16(take(2)); count != 1 || alg != 0x000b {
			t.Fatalf("event with %d digests, the first of algorithm %#x", count, alg)
		}
		e.digest = digest.SHA256(take(digest.Size))
		e.data = take(int(u32()))
		events = append(events, e)
	}
	return events
}

// replay computes the PCRs that a log leads to.
func replay(events []logEvent) map[int]digest.SHA256 {
	values := map[int]digest.SHA256{}
	for _, e := range events[1:] {
		values[e.pcr] = fold(values[e.pcr], e.digest)
	}
	return values
}
