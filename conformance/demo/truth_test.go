package demo_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// events are the types of the audit events about a device.
func events(t *testing.T, s *demo.Stage, device string) []string {
	t.Helper()
	c, err := s.As("dave")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for after := int64(0); ; {
		page, err := c.Events(t.Context(), after, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			if after = e.Number; e.Subject == device {
				out = append(out, e.Type)
			}
		}
		if page.Next == "" {
			return out
		}
	}
}

// slotWith is the image of a version, as the device has it in a slot.
func slotWith(t *testing.T, s *demo.Stage, d *demo.Device, version string) []byte {
	t.Helper()
	entries, err := os.ReadDir(d.Slots())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(d.Slots(), e.Name()))
		if err == nil && s.VersionOf(b) == version {
			return b
		}
	}
	t.Fatalf("no slot holds %s", version)
	return nil
}

// N137 with the real client: it says what lies in its slot, and its TPM says what was booted from there. Through an
// update the two agree. When somebody has put another release into the slot since, they do not: the device may have again
// what it has proven, and nothing newer.
func TestClientThatClaimsAnotherReleaseGetsNoUpdate(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("confused")
	if got := events(t, s, d.ID()); slices.Contains(got, "claims.disputed") {
		t.Fatalf("honest claims were disputed: %v", got)
	}
	d.Tamper(slotWith(t, s, d, "0.9"))
	s.Publish("1.1")
	if got := d.Agent(); !demo.Refused(got, reason.ClaimMismatch, false) || got.Staged == "gateway/1.1" || got.Verdict != "affirmed" {
		t.Errorf("claims 0.9, runs 1.0: %s", got)
	}
	if got := d.Seen(); got.Standing != "affirmed" || got.Segment != "production" || got.Quarantine != nil || got.Offered != "" {
		t.Errorf("standing %s, segment %s, quarantine %v, offered %q", got.Standing, got.Segment, got.Quarantine, got.Offered)
	}
	if got := events(t, s, d.ID()); !slices.Contains(got, "claims.disputed") {
		t.Errorf("events: %v", got)
	}
	d.Boot() // it has installed again what it had proven, which heals it
	s.WaitFor("the update to come", func() error {
		if got := d.Agent(); got.Staged != "gateway/1.1" {
			return fmt.Errorf("claims what it runs: %s", got)
		}
		return nil
	})
	s.Report()
}

// N139: the holders withdraw the image that a device runs. It does not poll, and stands no longer all the same.
func TestWithdrawnImageReachesADeviceThatKeepsSilent(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	healthy, d := s.Updated("healthy"), s.Updated("silent")
	s.Publish("1.1")
	if got := healthy.Agent(); got.Staged != "gateway/1.1" {
		t.Fatalf("healthy: %s", got)
	}
	healthy.Boot()
	if got := healthy.Agent(); !got.Committed {
		t.Fatalf("healthy: %s", got)
	}
	s.Sign("product", "withdraw", "--dir", "ceremony", "--product", "gateway", "--image", s.Image("1.0").String())
	s.Sign("root", "sign", "--dir", "ceremony", "--key", "hanna.pem")
	s.Sign("root", "sign", "--dir", "ceremony", "--key", "henry.pem")
	s.Sign("root", "apply", "--dir", "ceremony", "--token-file", s.Path("alice.token"))
	s.WaitFor("the silent device to lose its standing", func() error {
		if got := d.Seen(); got.Standing != "refused" || got.Quarantine == nil || !slices.Equal(got.Quarantine.Causes, []reason.Reason{reason.ComponentRevoked}) {
			return fmt.Errorf("standing %s, quarantine %+v", got.Standing, got.Quarantine)
		}
		return nil
	})
	if status, p := d.Fetch(s.Image("1.1")); status < 400 || p.Reason != reason.DeviceQuarantined {
		t.Errorf("the door: %d %s", status, p.Reason)
	}
	s.WaitFor("the healthy device to be looked at", func() error {
		if got := healthy.Seen(); got.ReappraisalDue || got.Standing != "affirmed" {
			return fmt.Errorf("standing %s, due %v", got.Standing, got.ReappraisalDue)
		}
		return nil
	})
	// What the server stored says the same on the auditor's machine.
	var list []api.AppraisalSummary
	if err := json.Unmarshal([]byte(s.Ctl("dave", "appraise", "list", d.ID(), "--json")), &list); err != nil || len(list) < 2 {
		t.Fatalf("appraisals: %+v, %v", list, err)
	}
	if list[0].Repeats.IsZero() || list[0].Outcome != "refused" || list[1].PolicySHA256 == list[0].PolicySHA256 {
		t.Errorf("the newest appraisals: %+v", list[:2])
	}
	for _, p := range list {
		s.Ctl("dave", "appraise", p.ID.String())
	}
	s.Report()
}
