// Package adminapi is the admin API at the edge: echo handlers for CI, operators and auditors.
//
// A handler decodes, asks one service, renders. Who may call it stands in the route table.
package adminapi

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/authz"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// Server answers the admin API.
type Server struct {
	Store      *store.Store
	Blobs      artifacts.Blobs
	Repository *repository.Service
	Files      *repository.Files
	Reports    *report.Service
	Enforcer   *segment.Enforcer
	Retention  *retention.Service
	Platform   *platform.Service
	Log        *tilelog.Log
	Authn      *authn.Service
	Status     func() api.Status // without the parts that change
	Terms      fleet.Terms
	Points     []string // the network enforcement points
	Drivers    []*segment.Driver
	Now        func() time.Time
	Sweep      func() // Optional: has the sweeper look at the fleet now

	uploads uploads
}

// Route is one row of the route table.
type Route struct {
	Method     string
	Path       string
	Permission authz.Permission
	Limit      int64 // of the body in bytes
	handler    func(*Server, echo.Context, authn.Caller) error
}

const prefix = "/api/v1"

// Routes returns the route table. A test holds it against the OpenAPI document.
func Routes() []Route {
	small, large := int64(64<<10), int64(api.MaxRequestBytes)
	return []Route{
		{"GET", "/status", authz.Public, 0, (*Server).status},
		{"GET", "/openapi.yaml", authz.Public, 0, (*Server).openAPI},
		{"POST", "/ceremony", authz.CeremonyApply, api.MaxCeremonyBytes, (*Server).ceremony},
		{"GET", "/people", authz.PeopleRead, 0, (*Server).listPeople},
		{"POST", "/people", authz.PeopleWrite, small, (*Server).addPerson},
		{"POST", "/people/:name/token", authz.PeopleWrite, small, (*Server).newToken},
		{"DELETE", "/people/:name", authz.PeopleWrite, 0, (*Server).disablePerson},
		{"GET", "/inventory", authz.InventoryRead, 0, (*Server).listInventory},
		{"GET", "/inventory/:device", authz.InventoryRead, 0, (*Server).getInventory},
		{"PUT", "/inventory/:device", authz.InventoryWrite, small, (*Server).setInventory},
		{"DELETE", "/inventory/:device", authz.InventoryWrite, 0, (*Server).removeInventory},
		{"POST", "/enroll-tokens", authz.InventoryWrite, small, (*Server).enrollToken},
		{"GET", "/devices", authz.DeviceRead, 0, (*Server).listDevices},
		{"GET", "/devices/:id", authz.DeviceRead, 0, (*Server).getDevice},
		{"GET", "/devices/:id/why", authz.DeviceRead, 0, (*Server).why},
		{"POST", "/devices/:id/approve", authz.DeviceApprove, small, (*Server).approveDevice},
		{"POST", "/devices/:id/retire", authz.DeviceRetire, small, (*Server).retireDevice},
		{"POST", "/devices/:id/quarantine", authz.DeviceIsolate, small, (*Server).isolateDevice},
		{"POST", "/devices/:id/release", authz.DeviceRelease, small, (*Server).releaseDevice},
		{"POST", "/devices/:id/forget-key", authz.DeviceForgetKey, small, (*Server).forgetKey},
		{"GET", "/endorsement-denials", authz.DeviceRead, 0, (*Server).listDenials},
		{"POST", "/endorsement-denials", authz.EndorsementDeny, small, (*Server).denyEndorsement},
		{"POST", "/endorsement-denials/:id/lift", authz.EndorsementLift, small, (*Server).liftEndorsement},
		{"GET", "/quarantines", authz.DeviceRead, 0, (*Server).listQuarantines},
		{"GET", "/segments", authz.DeviceRead, 0, (*Server).listSegments},
		{"GET", "/segments/:id", authz.DeviceRead, 0, (*Server).getSegment},
		{"GET", "/segment-points", authz.DeviceRead, 0, (*Server).segmentPoints},
		{"POST", "/segment-breakers/:product/resume", authz.SegmentResume, small, (*Server).resumeSegment},
		{"HEAD", "/blobs/:sha256", authz.BlobWrite, 0, (*Server).headBlob},
		{"PUT", "/blobs/:sha256", authz.BlobWrite, api.UploadChunk, (*Server).putBlob},
		{"GET", "/releases", authz.ReleaseRead, 0, (*Server).listReleases},
		{"POST", "/releases", authz.ReleasePublish, large, (*Server).publish},
		{"GET", "/releases/:product/:version", authz.ReleaseRead, 0, (*Server).getRelease},
		{"POST", "/releases/:product/:version/approve", authz.ReleaseApprove, small, (*Server).approveRelease},
		{"POST", "/releases/:product/:version/hold", authz.ReleaseHold, small, (*Server).holdRelease},
		{"POST", "/releases/:product/:version/resume", authz.ReleaseResume, small, (*Server).resumeRelease},
		{"POST", "/releases/:product/:version/prune", authz.ReleasePrune, small, (*Server).pruneRelease},
		{"GET", "/releases/:product/:version/dry-run", authz.DeviceRead, 0, (*Server).dryRunRelease},
		{"GET", "/baselines", authz.ReleaseRead, 0, (*Server).listBaselines},
		{"POST", "/baselines", authz.BaselineWrite, large, (*Server).addBaseline},
		{"GET", "/baselines/:product/:profile", authz.ReleaseRead, 0, (*Server).getBaseline},
		{"GET", "/baselines/:product/:profile/learn", authz.DeviceRead, 0, (*Server).learnBaseline},
		{"GET", "/retention", authz.ReleaseRead, 0, (*Server).retentionPlan},
		{"POST", "/retention", authz.ReleasePrune, small, (*Server).collect},
		{"GET", "/events", authz.AuditRead, 0, (*Server).events},
		{"GET", "/appraisals/:id", authz.AuditRead, 0, (*Server).appraisal},
		{"GET", "/appraisals/:id/log", authz.AuditRead, 0, (*Server).appraisalLog},
		{"GET", "/devices/:id/appraisals", authz.AuditRead, 0, (*Server).listAppraisals},
		{"GET", "/log/checkpoint", authz.AuditRead, 0, (*Server).logCheckpoint},
		{"GET", "/log/tile/entries/*", authz.AuditRead, 0, (*Server).logEntries},
		{"GET", "/log/tile/:level/*", authz.AuditRead, 0, (*Server).logTile},
		{"GET", "/report", authz.ReportMake, 0, (*Server).report},
	}
}

// Register adds the routes and the open repository files.
func (s *Server) Register(e *echo.Echo) {
	for _, r := range Routes() {
		e.Add(r.Method, prefix+r.Path, s.guard(r))
	}
	s.Files.Register(e)
}

// guard authenticates, authorises and bounds the body before the handler runs.
func (s *Server) guard(r Route) echo.HandlerFunc {
	return func(c echo.Context) error {
		var caller authn.Caller
		if r.Permission != authz.Public {
			var err error
			if caller, err = s.Authn.Caller(c.Request().Context(), c.Request().Header.Get(echo.HeaderAuthorization)); err != nil {
				return unavailable(err)
			}
			if !authz.Allowed(caller.Roles, r.Permission) {
				return problem.New(http.StatusForbidden, reason.PermissionDenied, "this needs the permission %s, which the roles of %s do not have", r.Permission, caller.Name)
			}
		}
		if c.Request().ContentLength > r.Limit {
			return problem.TooLarge(r.Limit)
		}
		c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, r.Limit)
		return unavailable(r.handler(s, c, caller))
	}
}

// unavailable tells the caller to come back when the database cannot be reached.
func unavailable(err error) error {
	var known *problem.Error
	if errors.Is(err, store.ErrUnavailable) && !errors.As(err, &known) {
		return problem.Busy(err, retryStore)
	}
	return err
}

// decode reads a strict JSON body: unknown fields, duplicates and trailing bytes are refused.
func decode(c echo.Context, into any) error {
	body, err := io.ReadAll(c.Request().Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return problem.TooLarge(tooLarge.Limit)
	}
	if err != nil {
		return problem.Malformed("the body ended early")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return problem.Malformed("the body is not valid JSON of this route: %v", err)
	}
	return nil
}

func render(c echo.Context, answer any) error {
	body, err := json.Marshal(answer, json.Deterministic(true))
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, body)
}

// missing maps a row that is not there.
func missing(err error, what string) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound(what)
	}
	return err
}

// conflict maps a change that lost a race.
func conflict(err error, what string) error {
	if errors.Is(err, store.ErrConflict) {
		return problem.New(http.StatusConflict, reason.Conflict, "%s", what)
	}
	return err
}

func (s *Server) event(caller authn.Caller, kind, subject string, data any) store.Event {
	return store.Event{At: s.Now(), Type: kind, Actor: caller.Name, Subject: subject, Data: data}
}
