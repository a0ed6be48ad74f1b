package tpm_test

import (
	"bytes"
	"testing"

	"github.com/cordon-ota/cordon/client/tpm"
)

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 9, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		buf := make([]byte, 4096)
		n, err := tpm.ReadResponse(bytes.NewReader(b), buf)
		if err == nil && !bytes.Equal(buf[:n], b[:n]) {
			t.Errorf("read %x of %x", buf[:n], b)
		}
	})
}
