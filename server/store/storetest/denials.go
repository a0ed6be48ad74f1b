package storetest

import (
	"math"
	"testing"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

func keepsDenials(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Denial(ctx, "d-1")
	wantError(t, "no denial", err, store.ErrNotFound)
	got(s.DenialsInForce(ctx))(t, "an empty list", []fleet.Denial(nil))
	key := fleet.Denial{ID: "d-1", Denial: identity.Denial{Key: "00ff", Why: "it leaked, 'ü'"}, By: "ada", At: at(1)}
	firmware := fleet.Denial{ID: "d-2", By: "bob", At: at(2), Denial: identity.Denial{
		Manufacturer: "id:49465800", FirmwareFrom: 1<<63 + 1, FirmwareTo: math.MaxUint64, Why: "a hole",
	}}
	write(t, s, store.PutDenial{Denial: firmware}, store.PutDenial{Denial: key})
	key.Version, firmware.Version = 1, 1
	got(s.Denial(ctx, "d-2"))(t, "Denial", firmware)
	got(s.DenialsInForce(ctx))(t, "DenialsInForce", []fleet.Denial{key, firmware})
	key.LiftedAt = at(3)
	commit(t, s, store.Change{Expect: []store.Expect{{Table: store.Denials, Key: "d-1", Version: 1}}, Writes: []store.Write{store.PutDenial{Denial: key}}})
	key.Version = 2
	got(s.DenialsInForce(ctx))(t, "DenialsInForce without the lifted one", []fleet.Denial{firmware})
	got(s.ListDenials(ctx, "", 0))(t, "ListDenials", []fleet.Denial{firmware, key})
	same := fleet.Denial{ID: "d-3", Denial: identity.Denial{Key: "11ff", Why: "at the same time"}, By: "ada", At: at(2)}
	write(t, s, store.PutDenial{Denial: same})
	same.Version = 1
	got(s.ListDenials(ctx, "", 1))(t, "the first page", []fleet.Denial{same})
	got(s.ListDenials(ctx, "d-3", 1))(t, "the second page", []fleet.Denial{firmware})
	got(s.ListDenials(ctx, "d-2", 2))(t, "the last page", []fleet.Denial{key})
	got(s.ListDenials(ctx, "d-1", 2))(t, "after the last page", []fleet.Denial(nil))
}
