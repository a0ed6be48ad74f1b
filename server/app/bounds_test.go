package app_test

import (
	"testing"

	"github.com/cordon-ota/cordon/server/app"
)

// Whoever sends slowly, or never reads the answer, is let go: on every listener, before and after the handshake. Without a
// bound for writing, anybody could hold any number of metadata files in the server's memory.
func TestEveryListenerBoundsItsPeers(t *testing.T) {
	t.Parallel()
	r := start(t, configured(t, t.TempDir()))
	for _, name := range []string{app.Devices, app.Admin, app.Metrics} {
		s := r.Server(name)
		if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
			t.Errorf("%s: something has no bound: %+v", name, s)
		}
	}
}
