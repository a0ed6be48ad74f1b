package deviceapi_test

import (
	"net/http"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// A device without an attestation key has to enroll before it may read anything, in quarantine too.
func TestDoorRefusesADeviceWhoseKeyWasForgotten(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	paths := map[string]string{}
	for _, release := range []string{"lamp/2", "lamp/rescue"} {
		paths[release] = wire.PathArtifacts + "/" + appraisetest.Image(release).String()
		if res := c.do(t, s, http.MethodGet, paths[release], nil); res.StatusCode != http.StatusOK {
			t.Fatalf("%s before: got %d", release, res.StatusCode)
		}
	}
	row := d.Row()
	row.AKPublic, row.AKName, row.AKQualifiedSigner = nil, nil, nil
	q := fleet.Quarantine{ID: "q", Device: d.ID, Since: s.Now(), Causes: []reason.Reason{reason.PCRMismatch}, By: "verifier"}
	for _, writes := range [][]store.Write{{store.PutDevice{Device: row}}, {store.PutQuarantine{Quarantine: q}}} {
		if err := s.Store.Commit(t.Context(), store.Change{Writes: writes}); err != nil {
			t.Fatal(err)
		}
		for release, path := range paths {
			wantProblem(t, release, c.do(t, s, http.MethodGet, path, nil), http.StatusForbidden, reason.AKUnknown)
		}
	}
}
