package parts_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// radclient, which shares nothing with us, moves a port; a port where nothing is plugged in is refused with 503.
func TestRADIUSMovesPorts(t *testing.T) {
	t.Parallel()
	const mac = "02:00:00:00:00:0a"
	r, err := parts.StartRADIUS(t.Context(), parts.RADIUSConfig{Dir: filepath.Join(t.TempDir(), "radius"), Secret: "secret-for-this-test", Restricted: "quarantine"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	ask := func(kind, attributes, secret string) string {
		cmd := exec.CommandContext(t.Context(), "radclient", "-x", "-t", "1", "-r", "1", r.Address().String(), kind, secret)
		cmd.Stdin = strings.NewReader(attributes)
		out, _ := cmd.CombinedOutput() // it fails for a NAK; the text says what came
		return string(out)
	}
	move := "Calling-Station-Id = \"02-00-00-00-00-0A\"\nFilter-Id = \"quarantine\"\n"
	if out := ask("coa", move, "secret-for-this-test"); !strings.Contains(out, "CoA-NAK") || !strings.Contains(out, "Session-Context-Not-Found") {
		t.Errorf("nothing plugged in: %s", out)
	}
	if err := r.Connect(t.Context(), mac, "open"); err != nil {
		t.Fatal(err)
	}
	if out := ask("coa", move, "another-secret-than-that"); !strings.Contains(out, "No reply") {
		t.Errorf("wrong secret: %s", out)
	}
	if got := r.Filter(mac); got != "open" {
		t.Errorf("port after a wrong secret: %q", got)
	}
	if out := ask("coa", move, "secret-for-this-test"); !strings.Contains(out, "CoA-ACK") {
		t.Errorf("CoA-Request: %s\n%s", out, r.Log())
	}
	if got := r.Filter(mac); got != "quarantine" {
		t.Errorf("port: got %q, want quarantine", got)
	}
	pid := r.PID()
	r.Kill()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("FreeRADIUS runs after Kill")
	}
}
