//go:build !unix

package witness

import (
	"fmt"
	"os"
)

// lockDir refuses: without a lock that ends with the process, two of them could cosign two histories.
func lockDir(string) (*os.File, error) {
	return nil, fmt.Errorf("%w: a witness needs a Unix system", ErrState)
}
