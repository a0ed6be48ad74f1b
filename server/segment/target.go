package segment

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/server/store"
)

// Places reads where devices are in the network; contract as in package store.
type Places interface {
	Addresses(ctx context.Context, device string) ([]store.Address, error)
	SharedAddresses(ctx context.Context, device string) ([]store.Address, error)
}

// locate reads where the device is. shared names what it cannot be told apart by.
func locate(ctx context.Context, places Places, device string) (t Target, shared []string, err error) {
	own, err := places.Addresses(ctx, device)
	if err != nil {
		return Target{}, nil, fmt.Errorf("cannot read the addresses: %w", err)
	}
	others, err := places.SharedAddresses(ctx, device)
	if err != nil {
		return Target{}, nil, fmt.Errorf("cannot read who shares the addresses: %w", err)
	}
	t, shared = Locate(device, own, others)
	return t, shared, nil
}

// Locate makes the target of a device from its own addresses and from the entries of other devices that name one of
// them too. What several devices share is no target: an order for one would hit the others.
//
// An operator's word outranks what a poll showed. An address from the inventory is shared only if the inventory gives it to
// somebody else as well, so no device can take the restriction off another by polling from its address; and one that was
// seen in a poll and is shared (a NAT) only counts as missing when the inventory has none for the device.
func Locate(device string, own, others []store.Address) (t Target, shared []string) {
	t = Target{Device: device}
	listed := slices.ContainsFunc(own, func(a store.Address) bool { return a.Source == store.SourceInventory && a.Kind == store.KindIP })
	for _, a := range own {
		taken := func(o store.Address) bool {
			return o.Kind == a.Kind && o.Address == a.Address && (a.Source == store.SourcePoll || o.Source == store.SourceInventory)
		}
		twice := func(o store.Address) bool {
			return a.Source == store.SourcePoll && o.Source == store.SourceInventory && o.Kind == a.Kind && o.Address == a.Address
		}
		switch {
		case slices.ContainsFunc(own, twice): // the inventory says so too
		case slices.ContainsFunc(others, taken):
			if a.Source == store.SourceInventory || !listed {
				shared = append(shared, a.Address)
			}
		case a.Kind == store.KindMAC:
			t.MACs = append(t.MACs, a.Address)
		default:
			if ip, err := ParseAddress(a.Address); err == nil {
				t.Addresses = append(t.Addresses, ip)
			}
		}
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	slices.Sort(t.MACs)
	t.MACs = slices.Compact(t.MACs)
	slices.Sort(shared)
	return t, slices.Compact(shared)
}

// Holds says whether a network point finds the device by this address, or link address, now.
func Holds(ctx context.Context, places Places, device, address string) (bool, error) {
	t, _, err := locate(ctx, places, device)
	if err != nil {
		return false, err
	}
	return slices.Contains(t.MACs, address) || slices.ContainsFunc(t.Addresses, func(a netip.Addr) bool { return a.String() == address }), nil
}

// Has says whether the target can be found by the selector.
func (t Target) Has(s Selector) bool {
	switch s {
	case ByAddress:
		return len(t.Addresses) > 0
	case ByMAC:
		return len(t.MACs) > 0
	case ByDevice:
		return t.Device != ""
	}
	return false
}

// ParseAddress reads an IP address that can belong to one device: no zone, not unspecified, loopback, multicast or
// broadcast. An IPv4-mapped IPv6 address becomes the IPv4 address.
func ParseAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	}
	a = a.Unmap()
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast {
		return netip.Addr{}, fmt.Errorf("%q is not the address of one device", text)
	}
	return a, nil
}

// ParseMAC reads a link address of six bytes, separated by colons or hyphens, and returns it as "02:00:00:00:00:01". It
// must be that of one interface: not zero, not a group's.
func ParseMAC(text string) (string, error) {
	plain := strings.ToLower(strings.ReplaceAll(text, "-", ":"))
	if len(plain) != 17 {
		return "", fmt.Errorf("%q is not a MAC address like 02:00:00:00:00:01", text)
	}
	first := byte(0)
	zero := true
	for i := range 17 {
		c := plain[i]
		if i%3 == 2 {
			if c != ':' {
				return "", fmt.Errorf("%q is not a MAC address like 02:00:00:00:00:01", text)
			}
			continue
		}
		n := strings.IndexByte("0123456789abcdef", c)
		if n < 0 {
			return "", fmt.Errorf("%q is not a MAC address like 02:00:00:00:00:01", text)
		}
		zero = zero && n == 0
		if i < 2 {
			first = first<<4 | byte(n)
		}
	}
	if zero || first&1 == 1 {
		return "", fmt.Errorf("%q is not the address of one interface", text)
	}
	return plain, nil
}
