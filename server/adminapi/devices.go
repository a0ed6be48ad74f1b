package adminapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/rollout"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

const (
	maxDetail = 1024 // of what a person says about a quarantine or a hold, in bytes
	whyEvents = 20
)

func (s *Server) listDevices(c echo.Context, _ authn.Caller) error {
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	filter := store.DeviceFilter{
		Product: c.QueryParam("product"), Lifecycle: fleet.Lifecycle(c.QueryParam("lifecycle")), Standing: fleet.Standing(c.QueryParam("standing")),
	}
	devices, err := s.Store.ListDevices(c.Request().Context(), filter, c.QueryParam("after"), limit)
	if err != nil {
		return err
	}
	page, err := pageOf(c.Request().Context(), devices, s.viewDevice)
	if err != nil {
		return err
	}
	if len(devices) == limit {
		page.Next = devices[len(devices)-1].ID
	}
	return render(c, page)
}

func (s *Server) getDevice(c echo.Context, _ authn.Caller) error {
	d, err := s.device(c)
	if err != nil {
		return err
	}
	view, err := s.viewDevice(c.Request().Context(), d)
	if err != nil {
		return err
	}
	view.Endorsement = viewEndorsement(d)
	return render(c, view)
}

// viewEndorsement is what a denial of the device's TPM would name it by.
func viewEndorsement(d fleet.Device) *api.Endorsement {
	out := api.Endorsement{Key: d.EKSPKI, Issuers: slices.Clone(d.EKIssuers)}
	if certificate := d.EK().Certificate; certificate != nil {
		out.Serial = hex.EncodeToString(certificate.SerialNumber.Bytes())
		if own := hex.EncodeToString(certificate.AuthorityKeyId); own != "" {
			out.Issuers = slices.Insert(slices.DeleteFunc(out.Issuers, func(id string) bool { return id == own }), 0, own)
		}
	}
	if d.Accepted != nil && d.Accepted.Firmware != 0 {
		out.Firmware = fmt.Sprintf("%016x", d.Accepted.Firmware)
	}
	return &out
}

func (s *Server) device(c echo.Context) (fleet.Device, error) {
	id, err := identity.ParseDeviceID(c.Param("id"))
	if err != nil {
		return fleet.Device{}, problem.Malformed("%q is not a device id (26 characters of a-z 2-7)", c.Param("id"))
	}
	d, err := s.Store.Device(c.Request().Context(), id.String())
	return d, missing(err, "device "+id.String())
}

func (s *Server) viewDevice(ctx context.Context, d fleet.Device) (api.Device, error) {
	q, err := store.QuarantineOf(ctx, s.Store, d.ID)
	if err != nil {
		return api.Device{}, err
	}
	now := s.Now()
	if step, changed := fleet.Expire(d, now); changed {
		d = step.Device // as the sweeper will write it
	}
	out := api.Device{
		ID: d.ID, Product: d.Product, HardwareID: d.HardwareID, Profile: d.Profile, Lifecycle: string(d.Lifecycle), Standing: string(d.Standing),
		Segment: string(fleet.SegmentOf(d, q, now, s.Terms)), Tier: d.Tier, AdmittedBy: d.AdmittedBy, Proven: d.Proven, Offered: d.Offered,
		ProvenAt: optional(d.ProvenAt), LeaseUntil: optional(d.LeaseUntil), Deadline: optional(d.Deadline), SeenAt: optional(d.SeenAt),
		EnrolledAt: d.EnrolledAt.UTC(), Manufacturer: d.Manufacturer, Version: d.Version, Reasons: s.decide(d, q).Reasons,
		ReappraisalDue: d.Lifecycle == fleet.Active && s.Repository.Catalog().Outdated(d),
	}
	out.ForgetKey = s.viewForgetKey(d)
	if q != nil {
		view, err := s.viewQuarantine(ctx, *q)
		if err != nil {
			return api.Device{}, err
		}
		out.Quarantine = &view
	}
	return out, nil
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// decide is what the device would be offered now.
func (s *Server) decide(d fleet.Device, q *fleet.Quarantine) rollout.Decision {
	if d.KeyForgotten() && d.Lifecycle != fleet.Retired { // as the device hears it, before anything else
		return rollout.Decision{Reasons: []reason.Reason{reason.AKUnknown}, Details: []string{"the attestation key was forgotten; the device has to enroll again"}}
	}
	product := s.Repository.Catalog().Products[d.Product]
	if product == nil && d.Lifecycle == fleet.Active {
		return rollout.Decision{Reasons: []reason.Reason{reason.PolicyMissing}, Details: []string{"no offline policy is signed for product " + d.Product}}
	}
	if product == nil {
		return rollout.Next(d, q, artifacts.Policy{}, nil)
	}
	out := rollout.Next(d, q, product.Policy, product.Candidates())
	if lacks := product.Lacks(d); d.Lifecycle == fleet.Active && lacks != "" { // its next quote cannot be judged, and it hears why
		out.Reasons, out.Details = slices.Insert(out.Reasons, 0, reason.PolicyMissing), slices.Insert(out.Details, 0, lacks)
		if out.Release != d.Proven && !out.Recovery {
			out.Release = ""
		}
	}
	return out
}

func (s *Server) viewQuarantine(ctx context.Context, q fleet.Quarantine) (api.Quarantine, error) {
	out := api.Quarantine{
		ID: q.ID, Device: q.Device, Since: q.Since.UTC(), Causes: q.Causes, Detail: q.Detail, By: q.By, Evidence: q.Evidence,
		RecoveredAt: optional(q.RecoveredAt), EndedAt: optional(q.EndedAt),
	}
	approvals, err := s.Store.Approvals(ctx, q.ApprovalSubject())
	for _, a := range approvals {
		out.Approvals = append(out.Approvals, api.Approval{Person: a.Person, At: a.At.UTC()})
	}
	return out, err
}

func (s *Server) listQuarantines(c echo.Context, _ authn.Caller) error {
	from, err := timeParam(c, "from", time.Unix(0, 0))
	if err != nil {
		return err
	}
	to, err := timeParam(c, "to", s.Now().Add(time.Minute))
	if err != nil {
		return err
	}
	rows, err := s.Store.ListQuarantines(c.Request().Context(), from, to, c.QueryParam("product"))
	if err != nil {
		return err
	}
	page, err := pageOf(c.Request().Context(), rows, s.viewQuarantine)
	if err != nil {
		return err
	}
	return render(c, page)
}

func (s *Server) rules() standing.Rules { return standing.Rules{Terms: s.Terms, Points: s.Points} }

// apply commits a step of fleet for one device together with its enforcement orders, and answers with the device.
func (s *Server) apply(c echo.Context, caller authn.Caller, before fleet.Device, q *fleet.Quarantine, step fleet.Step, extra store.Change) error {
	ctx, now := c.Request().Context(), s.Now()
	d, change := before, extra
	standing.Take(&change, &d, &q, step, caller.Name, now)
	s.rules().Close(&change, &d, q, caller.Name, now)
	crash.Here(crash.StepDecided)
	if err := s.Store.Commit(ctx, change); err != nil {
		return conflict(err, "the device changed in between; look at it again")
	}
	crash.Here(crash.StepCommitted)
	s.Enforcer.Wake()
	view, err := s.viewDevice(ctx, d)
	if err != nil {
		return err
	}
	return render(c, view)
}

func (s *Server) approveDevice(c echo.Context, caller authn.Caller) error {
	var req api.InventoryEntry
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := s.checkEntry(req); err != nil {
		return err
	}
	if len(req.Addresses) > 0 || len(req.MACs) > 0 {
		return problem.Malformed("addresses belong into the inventory, also for a device that was approved: PUT /api/v1/inventory/{device}")
	}
	d, err := s.device(c)
	if err != nil {
		return err
	}
	if req.Device != "" && req.Device != d.ID {
		return problem.Malformed("the body names another device than the path")
	}
	if !fleet.Claimable(d) {
		return problem.New(http.StatusConflict, reason.Conflict, "the device is %s and %s: a claim can be corrected only before the first proof", d.Lifecycle, d.Standing)
	}
	denials, err := s.Store.DenialsInForce(c.Request().Context())
	if err != nil {
		return err
	}
	if n, denied := fleet.Denied(d, denials); denied {
		return problem.New(http.StatusConflict, reason.EKRevoked, "the device's TPM is on the deny list: %s", n.ID)
	}
	if !fleet.Approvable(d, req.Product) {
		return problem.New(http.StatusConflict, reason.ApprovalRequired,
			"the device has no endorsement certificate: it needs an inventory entry, or a one-time token of this product and your approval")
	}
	by := fleet.ByApproval + caller.Name
	step := fleet.Claim(d, fleet.Admission{Product: req.Product, HardwareID: req.HardwareID, Profile: req.Profile, By: by, Tier: fleet.TierOf(d, by)})
	return s.apply(c, caller, d, nil, step, store.Change{})
}

func (s *Server) retireDevice(c echo.Context, caller authn.Caller) error {
	return s.tighten(c, caller, func(d fleet.Device, _ *fleet.Quarantine) (fleet.Step, error) {
		return fleet.Retire(d, caller.Name), nil
	})
}

// tightenAttempts bounds how often a decision is made again that a poll of the device has overtaken.
const tightenAttempts = 32

// tighten decides again on the device's newest state when it has changed in between: a device must not escape by polling.
func (s *Server) tighten(c echo.Context, caller authn.Caller, decide func(fleet.Device, *fleet.Quarantine) (fleet.Step, error)) error {
	var err error
	for range tightenAttempts {
		var d fleet.Device
		if d, err = s.device(c); err != nil {
			return err
		}
		var q *fleet.Quarantine
		if q, err = store.QuarantineOf(c.Request().Context(), s.Store, d.ID); err != nil {
			return err
		}
		var step fleet.Step
		if step, err = decide(d, q); err != nil {
			return err
		}
		err = s.apply(c, caller, d, q, step, store.Change{})
		if known, ok := errors.AsType[*problem.Error](err); !ok || known.Reason != reason.Conflict {
			return err
		}
	}
	return err
}

// saysWhy refuses an empty or too long text of a person for the audit log; field is its name in the request.
func saysWhy(field, text string) error {
	if strings.TrimSpace(text) == "" || len(text) > maxDetail {
		return problem.Malformed("say why in %s, in at most %d bytes", field, maxDetail)
	}
	return nil
}

func (s *Server) isolateDevice(c echo.Context, caller authn.Caller) error {
	var req api.QuarantineRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := saysWhy("detail", req.Detail); err != nil {
		return err
	}
	return s.tighten(c, caller, func(d fleet.Device, q *fleet.Quarantine) (fleet.Step, error) {
		if q != nil || d.Lifecycle != fleet.Active {
			return fleet.Step{}, problem.New(http.StatusConflict, reason.Conflict, "the device is not active, or in quarantine already")
		}
		return fleet.Isolate(d, q, caller.Name, req.Detail, s.Now()), nil
	})
}

// releaseDevice adds one person's approval; the one that completes the set ends the quarantine.
func (s *Server) releaseDevice(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	d, err := s.device(c)
	if err != nil {
		return err
	}
	q, err := store.QuarantineOf(ctx, s.Store, d.ID)
	if err != nil {
		return err
	}
	switch {
	case q == nil:
		return problem.New(http.StatusConflict, reason.Conflict, "the device is not in quarantine")
	case q.By == caller.Name:
		return problem.New(http.StatusForbidden, reason.SamePerson, "%s put the device into quarantine and cannot let it out", caller.Name)
	case q.RecoveredAt.IsZero():
		return problem.New(http.StatusConflict, reason.DeviceUnproven, "the device has not recovered: it must boot an allowed release and prove it over a challenge first")
	}
	before, err := s.Store.Approvals(ctx, q.ApprovalSubject())
	if err != nil {
		return err
	}
	own := fleet.Approval{Subject: q.ApprovalSubject(), Person: caller.Name, At: s.Now()}
	change := store.Change{
		Writes: []store.Write{store.AddApproval{Approval: own}},
		Events: []store.Event{s.event(caller, audit.QuarantineApproved, d.ID, map[string]any{"quarantine": q.ID})},
	}
	for _, a := range before {
		if a.Person == caller.Name {
			return problem.New(http.StatusConflict, reason.SamePerson, "%s has approved this already; a second person is needed", caller.Name)
		}
	}
	counts, err := s.voices(ctx, before)
	if err != nil {
		return err
	}
	step := fleet.Step{Device: d}
	if len(fleet.Loosen(*q, append(counts, own))) == 0 {
		step = fleet.End(d, *q, s.Now())
	}
	return s.apply(c, caller, d, q, step, change)
}

// voices drops the approvals of people who are disabled by now: one that was given with a stolen token must not count
// once the theft was noticed.
func (s *Server) voices(ctx context.Context, approvals []fleet.Approval) ([]fleet.Approval, error) {
	var out []fleet.Approval
	for _, a := range approvals {
		p, err := s.Store.Person(ctx, a.Person)
		if err != nil {
			return nil, fmt.Errorf("cannot read who approved: %w", err)
		}
		if !p.Disabled {
			out = append(out, a)
		}
	}
	return out, nil
}

// checkEntry checks the names of a claim, and that there is a signed policy and baseline to hold the device against: a
// typing error must not become a device that nobody can use.
func (s *Server) checkEntry(e api.InventoryEntry) error {
	for _, field := range []struct{ name, value string }{{"product", e.Product}, {"hardware_id", e.HardwareID}, {"profile", e.Profile}} {
		if err := artifacts.ValidName(field.value); err != nil {
			return problem.Malformed("%s: %v", field.name, err)
		}
	}
	product := s.Repository.Catalog().Products[e.Product]
	if product == nil || product.PolicyDigest.IsZero() {
		return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "the offline targets role has signed no policy for product %q", e.Product)
	}
	if _, ok := product.Baselines[e.Profile]; !ok && product.Policy.Baselines == nil { // else one can be learned from the device
		return problem.New(http.StatusUnprocessableEntity, reason.PolicyMissing, "the offline targets role has signed no baseline of product %q for profile %q: run 'cordon-sign product baseline'", e.Product, e.Profile)
	}
	return nil
}

// why tells the whole story of a device: what it showed, what was decided, what to do next.
func (s *Server) why(c echo.Context, _ authn.Caller) error {
	ctx := c.Request().Context()
	d, err := s.device(c)
	if err != nil {
		return err
	}
	out := api.Why{}
	if out.Device, err = s.viewDevice(ctx, d); err != nil {
		return err
	}
	last, err := s.Store.LastAppraisal(ctx, d.ID)
	switch {
	case err == nil:
		var verdict attestation.Verdict
		if err := json.Unmarshal(last.Verdict, &verdict); err != nil {
			return fmt.Errorf("cannot read a stored verdict: %w", err)
		}
		out.Verdict, out.AppraisedAt = &verdict, optional(last.At)
		if out.Changes, err = s.changes(ctx, last, verdict); err != nil {
			return err
		}
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	q, err := store.QuarantineOf(ctx, s.Store, d.ID)
	if err != nil {
		return err
	}
	if step, changed := fleet.Expire(d, s.Now()); changed {
		d = step.Device
	}
	decision := s.decide(d, q)
	out.Decision = api.Decision{Release: decision.Release, Reasons: decision.Reasons, Detail: decision.Details}
	for _, r := range decision.Reasons {
		row, _ := reason.Lookup(r)
		out.Decision.Remedies = append(out.Decision.Remedies, row.Remedy)
	}
	events, err := s.Store.LastEvents(ctx, d.ID, whyEvents)
	if err != nil {
		return err
	}
	if out.Events, err = viewEvents(events); err != nil {
		return err
	}
	segments, err := s.viewSegments(ctx, []fleet.Device{d})
	if err != nil {
		return err
	}
	out.Segment = segments[0]
	return render(c, out)
}
