package device

import "testing"

// For is the same fleet for a part of the test that made it: what goes wrong is that part's failure, and machines that
// are made in it end with it.
func (f *Fleet) For(t testing.TB) *Fleet {
	part := *f
	part.t, part.Stage = t, f.Stage.For(t)
	return &part
}
