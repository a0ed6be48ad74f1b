package main_test

import (
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// segmentOf is where a device of the World is: a device in quarantine waits for the breaker.
func segmentOf(d api.Device) api.DeviceSegment {
	at := verifytest.Noon
	p := api.PointSegment{Point: "gateway", Segment: d.Segment, Epoch: 2, State: api.SegmentVerified, Observed: d.Segment, ObservedAt: &at,
		RequestedAt: at, AcknowledgedAt: &at, VerifiedAt: &at}
	if d.Quarantine != nil {
		p.State, p.Waiting, p.Observed, p.VerifiedAt, p.ObservedAt, p.AcknowledgedAt = api.SegmentSuspended, "suspended", "", nil, nil, nil
		p.Detail = "the mass-quarantine breaker\x1b[2J has tripped"
	}
	door := api.PointSegment{Point: "door", Segment: d.Segment, Epoch: 2, State: api.SegmentVerified, RequestedAt: at, AcknowledgedAt: &at, VerifiedAt: &at}
	return api.DeviceSegment{Device: d.ID, Product: d.Product, Standing: d.Standing, Segment: d.Segment, Points: []api.PointSegment{door, p}}
}

func (s *server) segments(w http.ResponseWriter, _ *http.Request) {
	page := api.Page[api.DeviceSegment]{Items: []api.DeviceSegment{}}
	for _, record := range s.w.Report().Devices {
		page.Items = append(page.Items, segmentOf(record.Device))
	}
	answer(w, page)
}

func breaker() api.SegmentBreaker {
	return api.SegmentBreaker{Product: "lamp", Tripped: true, TrippedAt: verifytest.Noon, Devices: 12, Active: 100}
}

func (s *server) segmentPoints(w http.ResponseWriter, _ *http.Request) {
	at := verifytest.Noon
	answer(w, api.SegmentPoints{
		Points: []api.SegmentPoint{
			{Name: "gateway", FindsBy: "address", Suspended: 1, LastOK: &at},
			{Name: "fabric", FindsBy: "device", PublicKey: "whpk_AAAA", Unverified: 2, LastFailure: &at, LastError: "connection refused"},
		},
		Breakers: []api.SegmentBreaker{breaker()},
	})
}

func (s *server) resume(w http.ResponseWriter, r *http.Request) {
	b, at := breaker(), verifytest.Noon.Add(time.Minute)
	b.Product, b.Tripped, b.ResumedAt, b.By, b.Reason = r.PathValue("product"), false, &at, "oscar", "they are broken"
	answer(w, b)
}
