package segment_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// tampered is the image of 1.0 with another command line.
func (w *world) tampered() []byte {
	w.t.Helper()
	path := w.stage.Path("evil.efi")
	if _, err := parts.BuildUKI(w.t.Context(), parts.UKISpec{Version: "1.0", Kernel: parts.TestKernels(w.t)[0], Cmdline: "init=/bin/sh", Out: path}); err != nil {
		w.t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// nft runs nft(8) on the gateway.
func (w *world) nft(args string) string {
	w.t.Helper()
	out, err := w.net.Gateway().Output(w.t.Context(), "sh", "-euc", "nft "+args)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// The whole road over nftables: a device whose boot chain was changed loses new and open connections in both directions,
// keeps the road to the server and recovers over it, and gets everything back after two persons let it go.
func TestFailedAttestationIsCutOffByNftables(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, false)
	w.start(fmt.Sprintf("[[segment.nftables]]\nname = \"gateway\"\nnamespace = %q\nrecovery = [%q]\n", w.net.Gateway().Namespace, w.recovery()))
	w.locate()
	w.verified("gateway", "production", "enrolled")
	w.passes("in production", true)

	w.dev.Tamper(w.tampered())
	w.dev.Boot()
	if s := w.dev.Agent(); s.Verdict != "refused" || !demo.Refused(s, reason.PCRMismatch, false) {
		t.Fatalf("the agent's poll: %+v", s)
	}
	restricted := w.verified("gateway", "restricted", "attestation failed")
	w.passes("restricted", false)
	address := w.host("device").Address4.String()
	if list := w.nft("list set inet cordon quarantine4"); !strings.Contains(list, address+" ") || !strings.Contains(list, fmt.Sprintf("epoch=%d", restricted.Epoch)) {
		t.Errorf("nft does not list the device:\n%s", list)
	}

	// Somebody throws the rules away: it is noticed, told, and put right.
	w.nft("flush ruleset")
	w.stage.WaitFor("the rules to be back", func() error {
		out, err := w.net.Gateway().Output(t.Context(), "nft", "list", "set", "inet", "cordon", "quarantine4")
		if err == nil && !strings.Contains(out, address+" ") {
			err = fmt.Errorf("not yet: %s", out)
		}
		return err
	})
	w.verified("gateway", "restricted", "ruleset thrown away by hand")
	w.passes("restricted again", false)
	w.told("segment.drifted")

	// The server restarts: it goes on where the rows say.
	w.stage.StopServer()
	w.passes("without a server", false)
	w.stage.StartServer()
	w.reaches("gateway", "restricted", api.SegmentVerified)

	w.recover("gateway")
	w.verified("gateway", "production", "let go by two persons")
	w.passes("released", true)
	if list := w.nft("list set inet cordon quarantine4"); strings.Contains(list, "elements") {
		t.Errorf("left behind:\n%s", list)
	}
	w.table()
}

// recover brings the device back over the recovery road alone: it proves a good state, two persons let it go, and it proves
// its state once more.
func (w *world) recover(point string) {
	w.t.Helper()
	w.dev.Boot()
	if s := w.dev.Agent(); s.Verdict != "affirmed" || !demo.Refused(s, reason.DeviceQuarantined, false) {
		w.t.Fatalf("a good state over the recovery road: %+v", s)
	}
	w.stage.Ctl("bob", "device", "release", w.dev.ID())
	if p, err := w.order(point); err != nil || p.Segment != "restricted" {
		w.t.Errorf("after one approval: %+v, %v", p, err)
	}
	w.stage.Ctl("carol", "device", "release", w.dev.ID())
	if d := w.dev.Seen(); d.Quarantine != nil || d.Segment != "restricted" {
		w.t.Errorf("after two approvals, before a proof: segment %s, quarantine %+v", d.Segment, d.Quarantine)
	}
	if s := w.dev.Agent(); s.Verdict != "affirmed" || demo.Refused(s, reason.DeviceQuarantined, false) {
		w.t.Errorf("the proof after two approvals: %+v", s)
	}
}
