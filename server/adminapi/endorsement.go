package adminapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// maxDenials bounds the denials in force: every poll is held against all of them.
const maxDenials = 1024

func (s *Server) listDenials(c echo.Context, _ authn.Caller) error {
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	ctx, after := c.Request().Context(), c.QueryParam("after")
	if after != "" { // denials are never removed: a list that goes on after an unknown one would be empty for no reason
		if _, err := s.Store.Denial(ctx, after); err != nil {
			return missing(err, "denial "+after)
		}
	}
	rows, err := s.Store.ListDenials(ctx, after, limit)
	if err != nil {
		return err
	}
	page, err := pageOf(ctx, rows, s.viewDenial)
	if err != nil {
		return err
	}
	if len(rows) == limit {
		page.Next = rows[len(rows)-1].ID
	}
	return render(c, page)
}

func (s *Server) viewDenial(ctx context.Context, n fleet.Denial) (api.Denial, error) {
	out := api.Denial{
		ID: n.ID, Key: n.Denial.Key, Serial: n.Denial.Serial, Issuer: n.Denial.Issuer, Manufacturer: n.Denial.Manufacturer,
		Why: n.Denial.Why, By: n.By, At: n.At.UTC(), LiftedAt: optional(n.LiftedAt),
	}
	if n.Denial.Manufacturer != "" {
		out.FirmwareFrom, out.FirmwareTo = fmt.Sprintf("%016x", n.Denial.FirmwareFrom), fmt.Sprintf("%016x", n.Denial.FirmwareTo)
	}
	approvals, err := s.Store.Approvals(ctx, n.ApprovalSubject())
	for _, a := range approvals {
		out.Approvals = append(out.Approvals, api.Approval{Person: a.Person, At: a.At.UTC()})
	}
	return out, err
}

// readDenial makes the one form of a denial.
func readDenial(req api.DenialRequest) (identity.Denial, error) {
	out := identity.Denial{Key: req.Key, Serial: req.Serial, Issuer: req.Issuer, Manufacturer: req.Manufacturer, Why: req.Why}
	for _, field := range []struct {
		text string
		into *uint64
	}{{req.FirmwareFrom, &out.FirmwareFrom}, {req.FirmwareTo, &out.FirmwareTo}} {
		if field.text == "" {
			continue
		}
		v, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(field.text), "0x"), 16, 64)
		if err != nil {
			return identity.Denial{}, problem.Malformed("%q is not a firmware version in hex", field.text)
		}
		*field.into = v
	}
	out = out.Canonical()
	if err := out.Validate(); err != nil {
		return identity.Denial{}, problem.Malformed("%v", err)
	}
	return out, nil
}

// denyEndorsement puts TPMs on the deny list. From this commit on polls, enrollments and the door refuse them; the sweeper
// puts those that are in the fleet into quarantine, whether or not they ever poll again.
func (s *Server) denyEndorsement(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	var req api.DenialRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	denial, err := readDenial(req)
	if err != nil {
		return err
	}
	list, err := s.Store.DenialsInForce(ctx)
	if err != nil {
		return err
	}
	if len(list) >= maxDenials {
		return problem.New(http.StatusConflict, reason.Conflict, "%d denials are in force, and no more are kept: deny an issuer or a range of firmware instead", maxDenials)
	}
	for _, n := range list {
		if sameTPMs(n.Denial, denial) {
			return problem.New(http.StatusConflict, reason.Conflict, "these TPMs are denied already, by %s: %s", n.By, n.ID)
		}
	}
	body, err := json.Marshal(denial, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("cannot encode a denial: %w", err)
	}
	n := fleet.Denial{Denial: denial, By: caller.Name, At: s.Now()}
	n.ID = "d-" + digest.Of(fmt.Appendf(nil, "%d\n%s", n.At.UnixMicro(), body)).String()[:16]
	err = s.Store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.Denials, Key: n.ID, Version: 0}},
		Writes: []store.Write{store.PutDenial{Denial: n}},
		Events: []store.Event{s.event(caller, audit.EndorsementDenied, n.ID, map[string]any{"denial": denial})},
	})
	if err != nil {
		return conflict(err, "somebody denied the same TPMs at the same time")
	}
	s.wakeSweeper()
	view, err := s.viewDenial(ctx, n)
	if err != nil {
		return err
	}
	return render(c, view)
}

func sameTPMs(a, b identity.Denial) bool {
	a.Why, b.Why = "", ""
	return a == b
}

func (s *Server) wakeSweeper() {
	if s.Sweep != nil {
		s.Sweep()
	}
}

// liftEndorsement adds one person's approval; the one that completes the set lifts the denial. Devices that it held stay
// in quarantine until they prove their state and people release them.
func (s *Server) liftEndorsement(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	n, err := s.Store.Denial(ctx, c.Param("id"))
	if err != nil {
		return missing(err, "denial "+c.Param("id"))
	}
	switch {
	case !n.LiftedAt.IsZero():
		return problem.New(http.StatusConflict, reason.Conflict, "the denial was lifted already")
	case n.By == caller.Name:
		return problem.New(http.StatusForbidden, reason.SamePerson, "%s denied these TPMs and cannot lift that", caller.Name)
	}
	before, err := s.Store.Approvals(ctx, n.ApprovalSubject())
	if err != nil {
		return err
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
	own := fleet.Approval{Subject: n.ApprovalSubject(), Person: caller.Name, At: s.Now()}
	change := store.Change{
		Expect: []store.Expect{{Table: store.Denials, Key: n.ID, Version: n.Version}}, // two approvals at once meet here
		Writes: []store.Write{store.AddApproval{Approval: own}},
		Events: []store.Event{s.event(caller, audit.EndorsementApproved, n.ID, nil)},
	}
	if len(fleet.Lift(n, append(counts, own))) == 0 {
		n.LiftedAt = s.Now()
		change.Events = append(change.Events, s.event(caller, audit.EndorsementLifted, n.ID, map[string]any{"denial": n.Denial}))
	}
	change.Writes = append(change.Writes, store.PutDenial{Denial: n})
	if err := s.Store.Commit(ctx, change); err != nil {
		return conflict(err, "the denial changed in between; look at it again")
	}
	view, err := s.viewDenial(ctx, n)
	if err != nil {
		return err
	}
	return render(c, view)
}
