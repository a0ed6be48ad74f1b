package device_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/device"
)

// A register that differs in one of the three places is told, wherever it is.
func TestRegisterThatDiffersIsTold(t *testing.T) {
	t.Parallel()
	one, other := digest.Of([]byte("one")), digest.Of([]byte("other"))
	for _, tt := range []struct {
		row  device.Register
		want bool
	}{
		{device.Register{PCR: 4, Predicted: one, Quoted: one, Kernel: one}, true},
		{device.Register{PCR: 4, Predicted: other, Quoted: one, Kernel: one}, false},
		{device.Register{PCR: 4, Predicted: one, Quoted: other, Kernel: one}, false},
		{device.Register{PCR: 4, Predicted: one, Quoted: one, Kernel: other}, false},
	} {
		var out strings.Builder
		device.PrintRegisters(&out, "release 1", []device.Register{tt.row})
		if got := tt.row.Equal(); got != tt.want || strings.Contains(out.String(), "DIFFERENT") == tt.want {
			t.Errorf("%+v: equal is %v, want %v; the table says\n%s", tt.row, got, tt.want, out.String())
		}
	}
}
