//go:build !interop

package vectors_test

import "errors"

// serveLibrary needs the build tag interop: only then are the libraries of others built in.
func serveLibrary(string) error { return errors.New("the build tag interop is missing") }
