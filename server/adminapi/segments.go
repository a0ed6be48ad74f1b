package adminapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// segmentPage is how many devices one answer may hold: their orders are read at once.
const segmentPage = 500

func (s *Server) listSegments(c echo.Context, _ authn.Caller) error {
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	limit = min(limit, segmentPage)
	ctx := c.Request().Context()
	devices, err := s.Store.ListDevices(ctx, store.DeviceFilter{Product: c.QueryParam("product")}, c.QueryParam("after"), limit)
	if err != nil {
		return err
	}
	page := api.Page[api.DeviceSegment]{}
	if page.Items, err = s.viewSegments(ctx, devices); err != nil {
		return err
	}
	if len(devices) == limit {
		page.Next = devices[len(devices)-1].ID
	}
	return render(c, page)
}

func (s *Server) getSegment(c echo.Context, _ authn.Caller) error {
	d, err := s.device(c)
	if err != nil {
		return err
	}
	views, err := s.viewSegments(c.Request().Context(), []fleet.Device{d})
	if err != nil {
		return err
	}
	return render(c, views[0])
}

func (s *Server) viewSegments(ctx context.Context, devices []fleet.Device) ([]api.DeviceSegment, error) {
	out, ids := []api.DeviceSegment{}, []string{}
	at := map[string]int{}
	for i, d := range devices {
		q, err := store.QuarantineOf(ctx, s.Store, d.ID)
		if err != nil {
			return nil, err
		}
		if step, changed := fleet.Expire(d, s.Now()); changed {
			d = step.Device // as the sweeper will write it
		}
		out = append(out, api.DeviceSegment{
			Device: d.ID, Product: d.Product, Standing: string(d.Standing), Segment: string(fleet.SegmentOf(d, q, s.Now(), s.Terms)),
			Points: []api.PointSegment{},
		})
		ids, at[d.ID] = append(ids, d.ID), i
	}
	orders, err := s.Store.CurrentOrders(ctx, ids)
	for _, o := range orders {
		if o.Point != standing.Door && !slices.Contains(s.Points, o.Point) {
			continue // not configured any more
		}
		d := &out[at[o.Device]]
		d.Points = append(d.Points, viewOrder(o))
	}
	return out, err
}

func viewOrder(o store.Order) api.PointSegment {
	return api.PointSegment{
		Point: o.Point, Segment: string(o.Segment), Epoch: o.Epoch, State: string(segment.StateOf(o)), Waiting: string(o.Waiting), Detail: o.Detail,
		Observed: string(o.Observed), ObservedAt: optional(o.ObservedAt),
		RequestedAt: o.At.UTC(), AcknowledgedAt: optional(o.Acked), VerifiedAt: optional(o.Verified),
	}
}

func (s *Server) segmentPoints(c echo.Context, _ authn.Caller) error {
	ctx := c.Request().Context()
	out := api.SegmentPoints{Points: []api.SegmentPoint{}, Breakers: []api.SegmentBreaker{}}
	for _, d := range s.Drivers {
		view, err := s.viewPoint(ctx, d)
		if err != nil {
			return err
		}
		out.Points = append(out.Points, view)
	}
	for name := range s.Repository.Catalog().Products {
		state, err := segment.ReadBreaker(ctx, s.Store, name)
		if err != nil {
			return err
		}
		if !state.TrippedAt.IsZero() {
			out.Breakers = append(out.Breakers, viewBreaker(state))
		}
	}
	slices.SortFunc(out.Breakers, func(a, b api.SegmentBreaker) int { return cmp.Compare(a.Product, b.Product) })
	return render(c, out)
}

func (s *Server) viewPoint(ctx context.Context, d *segment.Driver) (api.SegmentPoint, error) {
	p, status := d.Point(), d.Status()
	out := api.SegmentPoint{
		Name: p.Name(), FindsBy: string(p.Selector()), LastOK: optional(status.OK), LastFailure: optional(status.Failed), LastError: status.Error,
	}
	if signs, ok := p.(interface{ PublicKey() string }); ok {
		out.PublicKey = signs.PublicKey()
	}
	counts, err := segment.CountOpen(ctx, s.Store, p.Name())
	out.Requested, out.Acknowledged = counts[segment.Requested], counts[segment.Acknowledged]
	out.Unverified, out.Suspended = counts[segment.Unverified], counts[segment.Suspended]
	return out, err
}

func viewBreaker(b segment.BreakerState) api.SegmentBreaker {
	return api.SegmentBreaker{
		Product: b.Product, Tripped: b.Tripped(), TrippedAt: b.TrippedAt.UTC(), Devices: b.Devices, Active: b.Active,
		ResumedAt: optional(b.ResumedAt), By: b.By, Reason: b.Reason,
	}
}

func (s *Server) resumeSegment(c echo.Context, caller authn.Caller) error {
	var req api.ResumeRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	product := c.Param("product")
	if err := artifacts.ValidName(product); err != nil {
		return problem.Malformed("product: %v", err)
	}
	if err := saysWhy("reason", req.Reason); err != nil {
		return err
	}
	state, err := segment.Resume(c.Request().Context(), s.Store, product, caller.Name, req.Reason, s.Now())
	if errors.Is(err, segment.ErrNotTripped) {
		return problem.New(http.StatusConflict, reason.Conflict, "no network order of %s waits: its breaker has not tripped", product)
	}
	if err != nil {
		return conflict(err, "the breaker changed in between; look at it again")
	}
	s.Enforcer.Wake()
	return render(c, viewBreaker(state))
}
