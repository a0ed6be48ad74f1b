//go:build interop

package parts_test

import (
	"testing"

	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestMinIOComesBackAfterACrashAndStops(t *testing.T) {
	t.Parallel()
	testCrash(t, parts.StartMinIO)
}
