package nft_test

import (
	"bytes"
	"testing"

	"github.com/cordon-ota/cordon/server/segment/nft"
)

// What the kernel holds for a device is read exactly as it was written, or refused.
func FuzzMark(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add([]byte{7: 1, 15: 9})
	f.Add([]byte{7: 1, 8: 0x80, 15: 9})
	f.Add([]byte{7: 2, 15: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := nft.MarkRoundTrip(b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}
