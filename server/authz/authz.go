// Package authz says who may do what: one table of permissions and roles. Permission names are stable; they are to
// become policy actions.
package authz

import (
	"slices"

	"github.com/cordon-ota/cordon/client/api"
)

// Permission is the name of something that a route does.
type Permission string

// The permissions.
const (
	CeremonyApply  Permission = "ceremony.apply"
	PeopleRead     Permission = "people.read"
	PeopleWrite    Permission = "people.write"
	InventoryRead  Permission = "inventory.read"
	InventoryWrite Permission = "inventory.write"
	DeviceRead     Permission = "device.read"
	DeviceApprove  Permission = "device.approve"
	DeviceRetire   Permission = "device.retire"
	DeviceIsolate  Permission = "device.quarantine"
	DeviceRelease  Permission = "device.release"
	SegmentResume  Permission = "segment.resume"

	DeviceForgetKey Permission = "device.forget_key"

	EndorsementDeny Permission = "endorsement.deny"
	EndorsementLift Permission = "endorsement.lift"

	BlobWrite      Permission = "blob.write"
	ReleaseRead    Permission = "release.read"
	ReleasePublish Permission = "release.publish"
	ReleaseApprove Permission = "release.approve"
	ReleaseHold    Permission = "release.hold"
	ReleaseResume  Permission = "release.resume"
	ReleasePrune   Permission = "release.prune"
	BaselineWrite  Permission = "baseline.write"
	AuditRead      Permission = "audit.read"
	ReportMake     Permission = "report.make"
	Public         Permission = "public" // open to everyone; only what a ceremony or a probe needs
)

// table lists what each role may do. Least privilege: nobody has everything.
var table = map[string][]Permission{
	api.RoleAdmin: {CeremonyApply, PeopleRead, PeopleWrite, InventoryRead, DeviceRead, ReleaseRead, AuditRead},
	api.RoleOperator: {
		PeopleRead, InventoryRead, InventoryWrite, DeviceRead, DeviceApprove, DeviceRetire, DeviceIsolate, DeviceRelease, SegmentResume,
		EndorsementDeny, EndorsementLift, DeviceForgetKey,
		ReleaseRead, ReleaseApprove, ReleaseHold, ReleaseResume, ReleasePrune, BaselineWrite, AuditRead,
	},
	api.RoleAuditor: {PeopleRead, InventoryRead, DeviceRead, ReleaseRead, AuditRead, ReportMake},
	api.RoleCI:      {BlobWrite, ReleaseRead, ReleasePublish, BaselineWrite},
}

// Roles returns the roles that exist, sorted.
func Roles() []string {
	return []string{api.RoleAdmin, api.RoleAuditor, api.RoleCI, api.RoleOperator}
}

// Allowed reports whether one of the roles has the permission. Unknown roles and permissions have nothing.
func Allowed(roles []string, p Permission) bool {
	if p == Public {
		return true
	}
	for _, r := range roles {
		if slices.Contains(table[r], p) {
			return true
		}
	}
	return false
}
