package segment

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
)

// Errors of a Point. The enforcer tries again after every one of them; they only say how the delay is explained.
var (
	ErrUnreachable = errors.New("enforcement point cannot be reached")                 // no answer: whether the order was carried out is unknown
	ErrRefused     = errors.New("enforcement point refused the order")                 // it answered, with no; the text says why
	ErrNoAddress   = errors.New("no address known")                                    // the target lacks what this point finds a device by
	ErrUnsupported = errors.New("enforcement point is not supported on this platform") // returned by constructors
)

// Selector is what a point finds a device by.
type Selector string

// The selectors.
const (
	ByAddress Selector = "address" // IP address: Target.Addresses
	ByMAC     Selector = "mac"     // link address: Target.MACs
	ByDevice  Selector = "device"  // the point has a directory of its own: Target.Device is enough
)

// Target is a device as the network knows it. The enforcer has taken out what several devices share and made every
// address plain (no zone, no IPv4-mapped IPv6), sorted and unique.
type Target struct {
	Device    string
	Addresses []netip.Addr
	MACs      []string // "02:00:00:00:00:01", lower case
}

// Order is what a point has to make true.
type Order struct {
	Target  Target
	Segment fleet.Segment
	Epoch   int64 // above 0, grows per device
	At      time.Time
}

// Receipt is a point's answer to an order: it has taken it. It proves nothing about the network; Observe does.
// Segment and Epoch are what is in force at the point after the order, Epoch 0 when the point cannot say; they differ
// from the order's when a newer order was in force already.
type Receipt struct {
	Acknowledged time.Time // when the answer came, by the server's clock
	Segment      fleet.Segment
	Epoch        int64
	Detail       string
}

// Observation is the state of the network for a device, as read from the network itself. Known is false when the point
// has nothing to say about the device (no session, no accounting yet); Epoch is 0 when the network does not carry it.
type Observation struct {
	Segment fleet.Segment
	Epoch   int64
	At      time.Time // when the observed state was read or reported; zero when not Known
	Known   bool
	Detail  string
}

// Point is a network enforcement point (the PEP of SP 800-207). A Point is safe for concurrent use and holds no state that
// a restart of the server may not lose; both calls end soon after ctx does.
//
// Apply makes the order true for exactly the addresses of the target: what the point holds for the device under another
// address is freed. It compares Order.Epoch with the epoch in force for the device, which the point keeps where it
// keeps the rule itself (it outlives both ends of a connection): an older order, and one of the same epoch for the other
// segment, changes nothing and is answered with what is in force; the same epoch and segment again is made true again, so
// that addresses follow the device and drift is put right. A nil error means that the point has taken the order, never that
// the network has followed: that is what Observe is for.
//
// Observe reads the state back from the network itself (the kernel's set, the accounting of the switch, the receiver's
// own word), never from memory of what was ordered. A device of which no rule is found at a point that restricts by
// rules is in production: Known is true.
//
// The error for what is not there is ErrNoAddress (the target lacks what Selector names; Apply frees what it holds for the
// device all the same, so that a rule never outlives what is known of the device), for no answer ErrUnreachable, for a no
// ErrRefused; no retries inside a call beyond what the protocol itself demands.
type Point interface {
	// Name is the configured name: how orders, metrics and people call the point. Never "door".
	Name() string
	Selector() Selector
	Apply(ctx context.Context, o Order) (Receipt, error)
	Observe(ctx context.Context, t Target) (Observation, error)
}
