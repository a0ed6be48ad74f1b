//go:build !linux

package nft

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/server/segment"
)

// Point is only to be had on Linux.
type Point struct{}

// New returns segment.ErrUnsupported: nftables is a part of Linux.
func New(Config) (*Point, error) {
	return nil, fmt.Errorf("%w: nftables needs Linux", segment.ErrUnsupported)
}

// Name is never called: there is no Point here.
func (*Point) Name() string { return "" }

// Selector is never called: there is no Point here.
func (*Point) Selector() segment.Selector { return segment.ByAddress }

// Install is never called: there is no Point here.
func (*Point) Install(context.Context) error { return segment.ErrUnsupported }

// Apply is never called: there is no Point here.
func (*Point) Apply(context.Context, segment.Order) (segment.Receipt, error) {
	return segment.Receipt{}, segment.ErrUnsupported
}

// Observe is never called: there is no Point here.
func (*Point) Observe(context.Context, segment.Target) (segment.Observation, error) {
	return segment.Observation{}, segment.ErrUnsupported
}
