package segmenttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
)

// Network is a network in memory. Its points keep the contract; its faults are set by tests at any time.
type Network struct {
	name     string
	selector segment.Selector
	now      func() time.Time

	mu      sync.Mutex
	rules   map[string]rule // by device; guarded by mu, as everything below
	down    bool
	refuses string
	blind   bool                 // takes orders, and the network does not follow
	silent  bool                 // does not show devices
	hang    map[string]chan bool // by device: calls wait until the channel is closed
	applied []segment.Order
	after   func(segment.Order) // runs when an order was taken, before the answer
}

type rule struct {
	segment fleet.Segment
	epoch   int64
	target  segment.Target
}

// NewNetwork makes a network whose points find devices by the selector.
func NewNetwork(name string, selector segment.Selector, now func() time.Time) *Network {
	return &Network{name: name, selector: selector, now: now, rules: map[string]rule{}, hang: map[string]chan bool{}}
}

// Point returns a point of the network; every one is as good as a restarted one.
func (n *Network) Point() segment.Point { return point{n} }

// Down makes the point unreachable, or reachable again.
func (n *Network) Down(down bool) { n.set(func() { n.down = down }) }

// Refuse makes the point say no with the text; "" ends that.
func (n *Network) Refuse(text string) { n.set(func() { n.refuses = text }) }

// Blind makes the point take orders that the network does not follow.
func (n *Network) Blind(blind bool) { n.set(func() { n.blind = blind }) }

// Silent makes the network show no device.
func (n *Network) Silent(silent bool) { n.set(func() { n.silent = silent }) }

// After runs f for every order that is taken, before its answer.
func (n *Network) After(f func(segment.Order)) { n.set(func() { n.after = f }) }

// Hang makes calls for the device wait until the channel is closed or their context ends.
func (n *Network) Hang(device string, until chan bool) { n.set(func() { n.hang[device] = until }) }

// Flush loses every rule and epoch, like a reboot of the gateway.
func (n *Network) Flush() { n.set(func() { clear(n.rules) }) }

// Move puts a device into a segment by hand, behind the point's back.
func (n *Network) Move(device string, where fleet.Segment) {
	n.set(func() {
		r := n.rules[device]
		r.segment = where
		n.rules[device] = r
	})
}

// Orders returns the orders that the point was asked to carry out.
func (n *Network) Orders() []segment.Order {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]segment.Order(nil), n.applied...)
}

// Where returns where the network holds the device: production if it has never heard of it.
func (n *Network) Where(device string) fleet.Segment {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r, ok := n.rules[device]; ok {
		return r.segment
	}
	return fleet.Production
}

func (n *Network) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

type point struct{ n *Network }

func (p point) Name() string               { return p.n.name }
func (p point) Selector() segment.Selector { return p.n.selector }

func (p point) wait(ctx context.Context, device string) error {
	p.n.mu.Lock()
	until, down := p.n.hang[device], p.n.down
	p.n.mu.Unlock()
	if until != nil {
		select {
		case <-until:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
	}
	if down {
		return fmt.Errorf("%w: connection refused", segment.ErrUnreachable)
	}
	return nil
}

func (p point) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	if err := p.wait(ctx, o.Target.Device); err != nil {
		return segment.Receipt{}, err
	}
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied = append(n.applied, o)
	if !o.Target.Has(n.selector) {
		delete(n.rules, o.Target.Device)
		return segment.Receipt{}, segment.ErrNoAddress
	}
	if n.refuses != "" {
		return segment.Receipt{}, fmt.Errorf("%w: %s", segment.ErrRefused, n.refuses)
	}
	r := n.rules[o.Target.Device]
	if o.Epoch > r.epoch || o.Epoch == r.epoch && o.Segment == r.segment || r.epoch == 0 {
		r = rule{segment: o.Segment, epoch: o.Epoch, target: o.Target}
		if !n.blind {
			n.rules[o.Target.Device] = r
		}
	}
	if n.after != nil {
		n.after(o)
	}
	return segment.Receipt{Acknowledged: n.now(), Segment: r.segment, Epoch: r.epoch, Detail: "in memory"}, nil
}

func (p point) Observe(ctx context.Context, t segment.Target) (segment.Observation, error) {
	if err := p.wait(ctx, t.Device); err != nil {
		return segment.Observation{}, err
	}
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.Has(n.selector) {
		return segment.Observation{}, segment.ErrNoAddress
	}
	if n.silent {
		return segment.Observation{}, nil
	}
	r, ok := n.rules[t.Device]
	if !ok {
		r.segment = fleet.Production
	}
	return segment.Observation{Segment: r.segment, Epoch: r.epoch, At: n.now(), Known: true}, nil
}
