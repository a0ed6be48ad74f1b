package adminapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/fleet"
)

// A device that nobody can judge polls for nothing; whoever looks at it must not be told that it is the device's fault.
func TestOperatorsHearWhatIsMissingToJudgeADevice(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	claimable(a)
	oscar := a.person("oscar", api.RoleOperator)
	unproven := func(d *fleet.Device) { d.Standing, d.Proven = fleet.Unproven, "" }
	nothing := a.device("nothing published", unproven)
	wantLacks := func(what, id, detail string) {
		t.Helper()
		why, err := oscar.Why(t.Context(), id)
		if err != nil || len(why.Decision.Reasons) < 2 || why.Decision.Reasons[0] != reason.PolicyMissing || !strings.Contains(why.Decision.Detail[0], detail) ||
			!slices.Contains(why.Decision.Reasons, reason.DeviceUnproven) {
			t.Errorf("%s: got %+v, %v, want policy_missing with %q before what else is heard", what, why.Decision, err, detail)
		}
		if d, err := oscar.Device(t.Context(), id); err != nil || !slices.Equal(d.Reasons, why.Decision.Reasons) {
			t.Errorf("%s: the device shows %v, %v, want %v", what, d.Reasons, err, why.Decision.Reasons)
		}
	}
	wantLacks("no release", nothing, "product lamp has no published release")
	a.Publish(a.Draft("lamp", "1", 1))
	wantLacks("no baseline", a.device("no baseline", func(d *fleet.Device) { unproven(d); d.Profile = "other" }), "no baseline of product lamp is signed for profile other")
	wantLacks("other hardware", a.device("other hardware", func(d *fleet.Device) { unproven(d); d.HardwareID = "rev-z" }), "whose boot hardware rev-z")
	for what, id := range map[string]string{"judged": nothing, "pending": a.device("pending", func(d *fleet.Device) { d.Lifecycle, d.Profile = fleet.Pending, "other" })} {
		if why, err := oscar.Why(t.Context(), id); err != nil || slices.Contains(why.Decision.Reasons, reason.PolicyMissing) {
			t.Errorf("%s: got %+v, %v", what, why.Decision, err)
		}
	}
	a.Publish(a.Draft("lamp", "2", 2))
	proven := func(label, profile string) string {
		return a.device(label, func(d *fleet.Device) {
			d.Proven, d.Profile, d.HighCounter, d.Counter = "lamp/1", profile, 1, new(uint64)
		})
	}
	if why, err := oscar.Why(t.Context(), proven("proven", "board")); err != nil || why.Decision.Release != "lamp/2" {
		t.Errorf("a device of the platform: got %+v, %v, want an offer", why.Decision, err)
	}
	if why, err := oscar.Why(t.Context(), proven("proven before", "other")); err != nil || why.Decision.Release != "" || !slices.Equal(why.Decision.Reasons[:1], []reason.Reason{reason.PolicyMissing}) {
		t.Errorf("a device that had proven something: got %+v, %v, want no offer", why.Decision, err)
	}
}
