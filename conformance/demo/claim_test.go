package demo_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// claim says product, hardware and platform of a device.
var claim = []string{"--product", "gateway", "--hardware-id", "board-a", "--profile", "softpc-v1"}

// A device that enrolled before anybody claimed it learns what it is, and updates by itself.
func TestDeviceThatIsApprovedLaterUpdates(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.NewDevice("early", false)
	if got := d.Agent(); !demo.Refused(got, reason.DevicePending, false) {
		t.Errorf("before: %s", got)
	}
	s.Ctl("bob", append([]string{"device", "approve", d.ID()}, claim...)...)
	if got := d.Agent(); got.Staged != "gateway/1.0" {
		t.Errorf("after the approval: %s", got)
	}
	s.Report()
}

// A one-time token claims the TPM that presents it, once.
func TestEnrollmentTokenClaimsOneDevice(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	first, second := s.NewDevice("first", false), s.NewDevice("second", false)
	s.Ctl("bob", append([]string{"enroll-token", "new", "--token-out", s.Path("enroll.token")}, claim...)...)
	token := []string{"--token", s.Path("enroll.token"), "--once"}
	if code, stdout, stderr := s.Run("cordon-agent", append(first.Args(), token...)...); code != 0 || !strings.Contains(stdout, "gateway/1.0") {
		t.Errorf("first: exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr := s.Run("cordon-agent", append(second.Args(), token...)...)
	if code != 1 || !strings.Contains(stdout, string(reason.EnrollTokenRefused)) {
		t.Errorf("second: exit %d\n%s%s", code, stdout, stderr)
	}
	if got := first.Seen(); got.Lifecycle != "active" || got.Offered != "gateway/1.0" {
		t.Errorf("first: %s, offered %q", got.Lifecycle, got.Offered)
	}
	s.Report()
}
