package parts_test

import (
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestPortsAreGivenOnce(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 50 {
		port, err := parts.FreePort(t.Context(), "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Errorf("port %d was given twice", port)
		}
		seen[port] = true
	}
}
