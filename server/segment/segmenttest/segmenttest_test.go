package segmenttest_test

import (
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
)

func TestNetworkKeepsTheContract(t *testing.T) {
	t.Parallel()
	for _, selector := range []segment.Selector{segment.ByAddress, segment.ByMAC, segment.ByDevice} {
		t.Run(string(selector), func(t *testing.T) {
			segmenttest.Run(t, func(*testing.T) segmenttest.Setup {
				n := segmenttest.NewNetwork("net", selector, time.Now)
				return segmenttest.Setup{Point: n.Point(), Restart: n.Point}
			})
		})
	}
}
