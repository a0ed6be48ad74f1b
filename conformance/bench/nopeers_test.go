//go:build !interop

package bench_test

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation"
)

// peers are others' verifiers: they are built with the tag interop only.
func peers(*testing.T, attestation.Input) []peer { return nil }
