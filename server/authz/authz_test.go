package authz_test

import (
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authz"
)

var all = []authz.Permission{
	authz.CeremonyApply, authz.PeopleRead, authz.PeopleWrite, authz.InventoryRead, authz.InventoryWrite, authz.DeviceRead,
	authz.DeviceApprove, authz.DeviceRetire, authz.DeviceIsolate, authz.DeviceRelease, authz.BlobWrite, authz.ReleaseRead,
	authz.ReleasePublish, authz.ReleaseApprove, authz.ReleaseHold, authz.ReleaseResume, authz.AuditRead, authz.ReportMake,
	authz.EndorsementDeny, authz.EndorsementLift,
}

func TestNoRoleHoldsBothHalvesOfASeparatedDuty(t *testing.T) {
	t.Parallel()
	for _, duty := range []struct{ one, other authz.Permission }{
		{authz.ReleasePublish, authz.ReleaseApprove},
		{authz.ReleasePublish, authz.ReleaseResume},
		{authz.BlobWrite, authz.ReleaseApprove},
		{authz.PeopleWrite, authz.ReleaseApprove},
		{authz.PeopleWrite, authz.DeviceRelease},
		{authz.PeopleWrite, authz.EndorsementLift},
		{authz.PeopleWrite, authz.ReleasePublish},
		{authz.CeremonyApply, authz.ReleasePublish},
		{authz.ReportMake, authz.DeviceRelease}, // who answers for the fleet does not write the report on it
		{authz.ReportMake, authz.PeopleWrite},
	} {
		for _, role := range authz.Roles() {
			if authz.Allowed([]string{role}, duty.one) && authz.Allowed([]string{role}, duty.other) {
				t.Errorf("%s may %s and %s", role, duty.one, duty.other)
			}
		}
	}
}

func TestAuditorChangesNothingAndPipelineOnlyPublishes(t *testing.T) {
	t.Parallel()
	may := map[string][]authz.Permission{
		api.RoleAuditor: {authz.PeopleRead, authz.InventoryRead, authz.DeviceRead, authz.ReleaseRead, authz.AuditRead, authz.ReportMake},
		api.RoleCI:      {authz.BlobWrite, authz.ReleaseRead, authz.ReleasePublish},
	}
	for role, want := range may {
		for _, p := range all {
			if got := authz.Allowed([]string{role}, p); got != slices.Contains(want, p) {
				t.Errorf("%s %s: got %v", role, p, got)
			}
		}
	}
}

func TestEveryPermissionIsOfSomeRoleAndNoneOfAll(t *testing.T) {
	t.Parallel()
	for _, p := range all {
		n := 0
		for _, role := range authz.Roles() {
			if authz.Allowed([]string{role}, p) {
				n++
			}
		}
		if n == 0 || n == len(authz.Roles()) && p != authz.ReleaseRead {
			t.Errorf("%d of %d roles have %s", n, len(authz.Roles()), p)
		}
	}
	for _, role := range authz.Roles() {
		if !slices.ContainsFunc(all, func(p authz.Permission) bool { return !authz.Allowed([]string{role}, p) }) {
			t.Errorf("%s may do everything", role)
		}
	}
}

func TestUnknownMeansNo(t *testing.T) {
	t.Parallel()
	for _, roles := range [][]string{nil, {""}, {"root"}, {"ADMIN"}} {
		for _, p := range append(all, "", "everything") {
			if authz.Allowed(roles, p) {
				t.Errorf("roles %q may %s", roles, p)
			}
		}
		if !authz.Allowed(roles, authz.Public) {
			t.Error("public is not open")
		}
	}
	if authz.Allowed(authz.Roles(), "everything") {
		t.Error("an unknown permission is allowed")
	}
}
