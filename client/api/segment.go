package api

import (
	"context"
	"net/http"
	"time"
)

// DeviceSegment says where the network should let a device be, and how far each enforcement point is: GET /api/v1/segments.
type DeviceSegment struct {
	Device   string         `json:"device"`
	Product  string         `json:"product"`
	Standing string         `json:"standing"`
	Segment  string         `json:"segment"` // production or restricted
	Points   []PointSegment `json:"points"`  // the door, and every network point that has an order for the device
}

// States of an order at an enforcement point.
const (
	SegmentRequested    = "requested"    // decided, not sent yet
	SegmentAcknowledged = "acknowledged" // the point has taken it; the network has not shown it yet
	SegmentVerified     = "verified"     // read back from the network
	SegmentUnverified   = "unverified"   // tried without success, and tried again
	SegmentSuspended    = "suspended"    // held back by the mass-quarantine breaker
)

// PointSegment is the order in force for a device at one point.
type PointSegment struct {
	Point          string     `json:"point"`
	Segment        string     `json:"segment"` // as ordered
	Epoch          int64      `json:"epoch"`
	State          string     `json:"state"`
	Waiting        string     `json:"waiting,omitempty"`  // why it is unverified or suspended
	Detail         string     `json:"detail,omitempty"`   // what the point says, or what to do
	Observed       string     `json:"observed,omitempty"` // the segment that the network last showed
	ObservedAt     *time.Time `json:"observed_at,omitempty"`
	RequestedAt    time.Time  `json:"requested_at"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty"`
	VerifiedAt     *time.Time `json:"verified_at,omitempty"`
}

// SegmentPoints are the network enforcement points and the breakers: GET /api/v1/segment-points.
type SegmentPoints struct {
	Points   []SegmentPoint   `json:"points"`
	Breakers []SegmentBreaker `json:"breakers"` // of the products that have one that ever tripped
}

// SegmentPoint is one network enforcement point, as this server finds it.
type SegmentPoint struct {
	Name         string     `json:"name"`
	FindsBy      string     `json:"finds_by"`             // address, mac or device
	PublicKey    string     `json:"public_key,omitempty"` // of a webhook: what its receiver checks with
	Requested    int64      `json:"requested"`            // open orders by state
	Acknowledged int64      `json:"acknowledged"`
	Unverified   int64      `json:"unverified"`
	Suspended    int64      `json:"suspended"`
	LastOK       *time.Time `json:"last_ok,omitempty"` // the last call that it answered
	LastFailure  *time.Time `json:"last_failure,omitempty"`
	LastError    string     `json:"last_error,omitempty"`
}

// SegmentBreaker is the mass-quarantine breaker of one product.
type SegmentBreaker struct {
	Product   string     `json:"product"`
	Tripped   bool       `json:"tripped"`
	TrippedAt time.Time  `json:"tripped_at"`
	Devices   int64      `json:"devices"` // newly restricted when it tripped
	Active    int64      `json:"active"`  // of how many
	ResumedAt *time.Time `json:"resumed_at,omitempty"`
	By        string     `json:"by,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

// ResumeRequest is POST /api/v1/segment-breakers/{product}/resume.
type ResumeRequest struct {
	Reason string `json:"reason"`
}

// Segments lists where devices should be and how far each point is.
func (c *Client) Segments(ctx context.Context, product, after string) (Page[DeviceSegment], error) {
	var out Page[DeviceSegment]
	err := c.get(ctx, base+"segments", queryOf("product", product, "after", after), &out)
	return out, err
}

// Segment says where one device should be.
func (c *Client) Segment(ctx context.Context, id string) (DeviceSegment, error) {
	var out DeviceSegment
	err := c.get(ctx, routeOf("segments", id), nil, &out)
	return out, err
}

// SegmentPoints lists the network enforcement points and the breakers.
func (c *Client) SegmentPoints(ctx context.Context) (SegmentPoints, error) {
	var out SegmentPoints
	err := c.get(ctx, base+"segment-points", nil, &out)
	return out, err
}

// ResumeSegment lets the tightening network orders of a product go on after its breaker tripped; one person is enough.
func (c *Client) ResumeSegment(ctx context.Context, product string, r ResumeRequest) (SegmentBreaker, error) {
	var out SegmentBreaker
	err := c.do(ctx, call{method: http.MethodPost, path: routeOf("segment-breakers", product, "resume"), body: r, answer: &out})
	return out, err
}
