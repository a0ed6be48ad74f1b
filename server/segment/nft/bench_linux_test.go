package nft_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
)

// A gateway with that many restricted devices: one order, and one reading back with nothing changed since.
func BenchmarkPoint(b *testing.B) {
	for _, devices := range []int{100, 1000} {
		n := parts.TestNetwork(b, parts.NetworkConfig{Hosts: []string{"server"}})
		p, err := nft.New(nft.Config{
			Name: "gateway", Namespace: n.Gateway().Namespace,
			Recovery: []nft.Service{{Proto: "tcp", Address: netip.AddrPortFrom(n.Host("server").Address4, 8443)}},
		})
		if err != nil {
			b.Fatal(err)
		}
		order := func(i int, epoch int64) segment.Order {
			return segment.Order{
				Target:  segment.Target{Device: fmt.Sprint(i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}},
				Segment: fleet.Restricted, Epoch: epoch,
			}
		}
		run := func(b *testing.B, what func(i int) error) {
			for i := range b.N {
				if err := what(i); err != nil {
					b.Fatal(err)
				}
			}
		}
		fill := func() {
			for i := range devices {
				if _, err := p.Apply(b.Context(), order(i, 1)); err != nil {
					b.Fatal(err)
				}
			}
		}
		fill()
		b.Run(fmt.Sprintf("apply/devices=%d", devices), func(b *testing.B) {
			run(b, func(i int) error { _, err := p.Apply(b.Context(), order(i%devices, int64(i)+2)); return err })
		})
		b.Run(fmt.Sprintf("observe/devices=%d", devices), func(b *testing.B) {
			run(b, func(i int) error { _, err := p.Observe(b.Context(), order(i%devices, 1).Target); return err })
		})
	}
}
