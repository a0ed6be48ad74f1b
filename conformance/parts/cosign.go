package parts

import (
	"context"
	"fmt"
)

// cosign is the signing and verifying tool of the Sigstore project.
func cosign() goTool {
	return goTool{name: "cosign", pkg: "github.com/sigstore/cosign/v3/cmd/cosign", version: "v3.1.3"}
}

// CosignVersion is the version of cosign.
func CosignVersion() string { return cosign().version }

// Cosign runs cosign with home as its home folder, so that nothing of this machine's user takes part. It is built when
// the cache does not have it, which takes long: tests that use it carry the build tag interop. The error means that it
// could not be run.
func Cosign(ctx context.Context, home string, env []string, args ...string) (Output, error) {
	path, err := cosign().build(ctx)
	if err != nil {
		return Output{}, fmt.Errorf("cannot run cosign: %w", err)
	}
	return execute(ctx, path, append([]string{"HOME=" + home, "SIGSTORE_NO_CACHE=true"}, env...), args...)
}
