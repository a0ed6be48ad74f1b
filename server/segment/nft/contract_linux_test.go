package nft_test

import (
	"testing"

	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	for _, family := range []string{nft.FamilyInet, nft.FamilyBridge} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			segmenttest.Run(t, func(t *testing.T) segmenttest.Setup {
				w := newWorld(t, false, "server")
				open := func() segment.Point { return w.point(func(c *nft.Config) { c.Family = family }) }
				return segmenttest.Setup{Point: open(), Restart: open}
			})
		})
	}
}
