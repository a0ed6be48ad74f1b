package demo

import "testing"

// For is the same stage for a part of the test that set it: what goes wrong is that part's failure. The stage still ends
// with the test that set it.
func (s *Stage) For(t testing.TB) *Stage { return &Stage{t: t, w: s.w} }
