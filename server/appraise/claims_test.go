package appraise_test

import (
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
)

func installed(version, image string) []wire.Installed {
	return []wire.Installed{{Component: "system", SHA256: appraisetest.Image(image), Length: 1, Product: appraisetest.Product, Version: version}}
}

// N137, V-84: the quote proves one release, the device claims another. It stands, and it gets nothing until the two agree.
func TestClaimThatTheQuoteContradictsHoldsUpdates(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	d.Claims.Components = installed("1", "lamp/1")
	wantTargets(t, w, d, d.Converse(), "lamp/2/system") // agrees: it is offered the next one

	d.Claims.Components = installed("2", "lamp/2")
	p := d.Converse()
	if p.Verdict != "affirmed" || !slices.Contains(reasonsOf(p), reason.ClaimMismatch) {
		t.Fatalf("got %+v", p)
	}
	wantTargets(t, w, d, p, "lamp/1/system")
	row := d.Row()
	if row.Standing != fleet.Affirmed || row.Segment != fleet.Production || row.Offered != "" || row.Proven != "lamp/1" {
		t.Errorf("got %+v", row)
	}
	if got := doorSays(t, w, d, "lamp/2"); got != reason.ReleaseNotOffered {
		t.Errorf("the door: got %q", got)
	}
	if !slices.Contains(w.Events(d.ID), audit.ClaimsDisputed) {
		t.Errorf("events: %v", w.Events(d.ID))
	}
	d.Claims.Components = installed("1", "lamp/1")
	wantTargets(t, w, d, d.Converse(), "lamp/2/system")
}

// Honest claims agree before an update, in its trial, after it and after a fall back, and so do those of a device that has
// forgotten which release its image came with.
func TestHonestClaimsAgree(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	w.Publish("2", 2)
	forgotten := []wire.Installed{{Component: "uki", SHA256: appraisetest.Image("lamp/2"), Length: 1}}
	for _, step := range []struct {
		about, boots string
		claims       []wire.Installed
	}{
		{"before", "lamp/1", installed("1", "lamp/1")},
		{"an app beside it", "lamp/1", append(installed("1", "lamp/1"), wire.Installed{Component: "app", SHA256: appraisetest.Image("app"), Product: "lamp", Version: "2"})},
		{"factory image", "lamp/1", []wire.Installed{{Component: "uki", SHA256: appraisetest.Image("never published"), Length: 1}}},
		{"nothing", "lamp/1", nil},
		{"fell back", "lamp/1", installed("1", "lamp/1")},
		{"trial", "lamp/2", installed("2", "lamp/2")},
		{"after", "lamp/2", forgotten},
	} {
		d.Boot(step.boots)
		d.Claims.Components = step.claims
		if p := d.Converse(); p.Verdict != "affirmed" || slices.Contains(reasonsOf(p), reason.ClaimMismatch) {
			t.Errorf("%s: got %+v", step.about, p)
		}
	}
	if slices.Contains(w.Events(d.ID), audit.ClaimsDisputed) {
		t.Errorf("events: %v", w.Events(d.ID))
	}
}
