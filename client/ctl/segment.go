package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) segmentCommand() *cobra.Command {
	show := &cobra.Command{Use: "show ID", Short: "Show a device's segment, how far each enforcement point is, and its last orders", Args: cobra.ExactArgs(1)}
	show.RunE = a.run("show the segment", a.segmentShow)
	points := &cobra.Command{Use: "points", Short: "List the network enforcement points and the mass-quarantine breakers", Args: cobra.NoArgs}
	points.RunE = a.run("list enforcement points", a.segmentPoints)
	return group("segment", "The network segment of each device: production or restricted", a.segmentList(), show, points, a.segmentResume())
}

// segmentStates are what --state takes.
var segmentStates = []string{api.SegmentRequested, api.SegmentAcknowledged, api.SegmentVerified, api.SegmentUnverified, api.SegmentSuspended}

func (a *app) segmentList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List where the network should let each device be, and how far each enforcement point is", Args: cobra.NoArgs}
	product := c.Flags().String("product", "", "only of this `PRODUCT`")
	state := c.Flags().String("state", "", "only orders in this `STATE`: "+strings.Join(segmentStates, ", "))
	c.RunE = a.run("list segments", func(ctx context.Context, _ []string) error {
		if *state != "" && !slices.Contains(segmentStates, *state) {
			return fmt.Errorf("%w: --state %q is none of %s", errUsage, *state, strings.Join(segmentStates, ", "))
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		list, err := all(ctx, func(ctx context.Context, after string) (api.Page[api.DeviceSegment], error) {
			return client.Segments(ctx, *product, after)
		})
		if err != nil {
			return err
		}
		if *state != "" {
			list = inState(list, *state)
		}
		return a.print(list, func(w io.Writer) error { return showSegments(w, list) })
	})
	return c
}

// inState keeps the orders in that state, and the devices that have one.
func inState(list []api.DeviceSegment, state string) []api.DeviceSegment {
	for i := range list {
		list[i].Points = slices.DeleteFunc(list[i].Points, func(p api.PointSegment) bool { return p.State != state })
	}
	return slices.DeleteFunc(list, func(d api.DeviceSegment) bool { return len(d.Points) == 0 })
}

func showSegments(w io.Writer, list []api.DeviceSegment) error {
	var rows [][]string
	for _, d := range list {
		if len(d.Points) == 0 {
			rows = append(rows, []string{d.Device, d.Segment, d.Standing})
		}
		for _, p := range d.Points {
			rows = append(rows, append([]string{d.Device, d.Segment, d.Standing}, pointCells(p)...))
		}
	}
	return table(w, append([]string{"DEVICE", "SEGMENT", "STANDING"}, pointHead...), rows)
}

var pointHead = []string{"POINT", "ORDERED", "OBSERVED", "STATE", "REQUESTED", "ACKNOWLEDGED", "VERIFIED", "WHY"}

func pointCells(p api.PointSegment) []string {
	why := p.Waiting
	if p.Detail != "" {
		why = strings.TrimPrefix(why+": "+p.Detail, ": ")
	}
	return []string{p.Point, p.Segment, p.Observed, p.State, moment(p.RequestedAt), when(p.AcknowledgedAt), when(p.VerifiedAt), why}
}

// segmentStory is a device's segment with what happened to it.
type segmentStory struct {
	api.DeviceSegment
	Orders []api.Event `json:"orders,omitempty"`
}

func (a *app) segmentShow(ctx context.Context, args []string) error {
	why, err := a.story(ctx, args[0])
	if err != nil {
		return err
	}
	view := segmentStory{DeviceSegment: why.Segment}
	for _, e := range why.Events {
		if strings.HasPrefix(e.Type, "segment.") {
			view.Orders = append(view.Orders, e)
		}
	}
	return a.print(view, func(w io.Writer) error {
		facts(w, "device", view.Device, "product", view.Product, "segment", view.Segment, "standing", view.Standing, "reasons", words(why.Device.Reasons))
		if err := showPoints(w, view.Points); err != nil {
			return err
		}
		return showEvents(w, view.Orders)
	})
}

func showPoints(w io.Writer, points []api.PointSegment) error {
	var rows [][]string
	for _, p := range points {
		rows = append(rows, pointCells(p))
	}
	return table(w, pointHead, rows)
}

// showHeldBack tells of orders that the network has not followed, for the story of a device.
func showHeldBack(w io.Writer, d api.DeviceSegment) {
	for _, p := range d.Points {
		switch p.State {
		case api.SegmentUnverified:
			fmt.Fprintf(w, "not enforced at %s: %s (%s)\n", plain(p.Point), plain(p.Detail), plain(p.Waiting))
		case api.SegmentSuspended:
			fmt.Fprintf(w, "held back at %s by the mass-quarantine breaker: look, then 'cordonctl segment resume --product %s --reason TEXT'\n", plain(p.Point), plain(d.Product))
		}
	}
}

func (a *app) segmentPoints(ctx context.Context, _ []string) error {
	client, err := a.server.client()
	if err != nil {
		return err
	}
	list, err := client.SegmentPoints(ctx)
	if err != nil {
		return err
	}
	return a.print(list, func(w io.Writer) error {
		var rows [][]string
		for _, p := range list.Points {
			rows = append(rows, []string{p.Name, p.FindsBy, fmt.Sprint(p.Requested), fmt.Sprint(p.Acknowledged), fmt.Sprint(p.Unverified), fmt.Sprint(p.Suspended),
				when(p.LastOK), when(p.LastFailure), p.LastError})
		}
		if err := table(w, []string{"POINT", "FINDS BY", "REQUESTED", "ACKNOWLEDGED", "UNVERIFIED", "SUSPENDED", "LAST OK", "LAST FAILURE", "ERROR"}, rows); err != nil {
			return err
		}
		for _, p := range list.Points {
			if p.PublicKey != "" {
				fmt.Fprintf(w, "%s signs with %s\n", plain(p.Name), plain(p.PublicKey))
			}
		}
		for _, b := range list.Breakers {
			fmt.Fprintln(w, breakerText(b))
		}
		return nil
	})
}

func breakerText(b api.SegmentBreaker) string {
	text := fmt.Sprintf("breaker of %s: tripped at %s by %d of %d devices", plain(b.Product), moment(b.TrippedAt), b.Devices, b.Active)
	if b.Tripped {
		return text + "; tightening network orders wait for 'cordonctl segment resume'"
	}
	return fmt.Sprintf("%s, resumed at %s by %s: %s", text, when(b.ResumedAt), plain(b.By), plain(b.Reason))
}

func (a *app) segmentResume() *cobra.Command {
	c := &cobra.Command{Use: "resume", Short: "Let the tightening network orders of a product go on after its breaker tripped; one person is enough", Args: cobra.NoArgs}
	product := c.Flags().String("product", "", "the `PRODUCT` whose breaker tripped")
	why := c.Flags().String("reason", "", "why it is right to restrict that many devices, for the audit log")
	required(c, "product", "reason")
	c.RunE = a.run("resume the orders", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		b, err := client.ResumeSegment(ctx, *product, api.ResumeRequest{Reason: *why})
		if err != nil {
			return err
		}
		return a.print(b, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, breakerText(b))
			return err
		})
	})
	return c
}
