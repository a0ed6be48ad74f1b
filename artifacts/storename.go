package artifacts

import (
	"errors"
	"fmt"
	"strings"
)

// ErrStoredName is returned by Names for a name outside the alphabet of ValidStoredName.
var ErrStoredName = errors.New("stored name must be segments of A-Z a-z 0-9 . _ - with slashes between")

// ErrTooLarge is returned by a store for a document above MaxNamedBytes or a blob above MaxImageBytes.
var ErrTooLarge = errors.New("too large for the store")

const (
	maxStoredName    = 512
	maxStoredSegment = 200 // what every file system takes, suffix included
)

// ValidStoredName checks a name for Names: segments of 1 to 200 of A-Z a-z 0-9 . _ - with single slashes between, no
// "..", no segment ".", at most 512 bytes in all. The same rule holds in every store, so no name works in one only.
func ValidStoredName(name string) error {
	if len(name) == 0 || len(name) > maxStoredName || strings.Contains(name, "..") {
		return fmt.Errorf("%w: %.80q", ErrStoredName, name)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || len(segment) > maxStoredSegment {
			return fmt.Errorf("%w: %.80q", ErrStoredName, name)
		}
		for _, c := range []byte(segment) {
			if strings.IndexByte(storedAlphabet, c) < 0 {
				return fmt.Errorf("%w: %.80q", ErrStoredName, name)
			}
		}
	}
	return nil
}

const storedAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
