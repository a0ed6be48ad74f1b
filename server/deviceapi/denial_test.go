package deviceapi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// The door asks the deny list itself: neither sweeper nor poll has seen the device yet.
func TestDoorRefusesADeniedDevice(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	path := wire.PathArtifacts + "/" + appraisetest.Image("lamp/2").String()
	if res := c.do(t, s, http.MethodGet, path, nil); res.StatusCode != http.StatusOK {
		t.Fatalf("before: got %d", res.StatusCode)
	}
	ek := evidencetest.NewCA("TPM maker").NewEK(nil)
	row := d.Row()
	row.EKCertificate = ek.Certificate
	key := sha256.Sum256(ek.SPKI)
	n := fleet.Denial{ID: "d-1", Denial: identity.Denial{Key: hex.EncodeToString(key[:]), Why: "sold at an auction"}, By: "ann", At: s.Now()}
	if err := s.Store.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: row}, store.PutDenial{Denial: n}}}); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "denied", c.do(t, s, http.MethodGet, path, nil), http.StatusForbidden, reason.EKRevoked)
}
