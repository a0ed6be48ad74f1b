package storetest

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/server/store"
)

func keepsBaselines(t *testing.T, s *store.Store) {
	ctx := t.Context()
	baseline := func(product, profile string, generation uint64) store.Baseline {
		return store.Baseline{Product: product, Profile: profile, Generation: generation, Digest: sum(product, profile, generation),
			Bundles: [][]byte{[]byte("{}"), []byte(`{"a":1}`)}, By: "ada", At: at(int(generation))}
	}
	a1, a2, b9 := baseline("lamp", "a", 1), baseline("lamp", "a", 2), baseline("lamp", "b", 9)
	other := baseline("lock", "a", 7)
	for _, b := range []store.Baseline{a1, b9, a2, other} {
		write(t, s, store.AddBaseline{Baseline: b})
	}
	again := a2
	again.Digest, again.By = sum("forged"), "eve"
	wantConflict(t, s, "same generation", store.Change{Writes: []store.Write{store.AddBaseline{Baseline: again}}})
	got(s.CurrentBaselines(ctx, "lamp"))(t, "CurrentBaselines", []store.Baseline{a2, b9})
	got(s.CurrentBaselines(ctx, "door"))(t, "of an unknown product", nil)
	got(s.Baselines(ctx, "", "", 0))(t, "Baselines", []store.Baseline{a2, a1, b9, other})
	got(s.Baselines(ctx, "lamp", "a", 1))(t, "of a profile", []store.Baseline{a2})
	got(s.Baselines(ctx, "", "a", 0))(t, "of a profile in all products", []store.Baseline{a2, a1, other})
}

func keepsObservations(t *testing.T, s *store.Store) {
	ctx := t.Context()
	observation := func(device, profile string) store.Observation {
		return store.Observation{Device: device, Product: "lamp", Profile: profile, At: at(1), Release: "lamp/1.0",
			Evidence: sum("evidence", device), LogDigest: sum("log", device), PCRs: []attestation.PCR{{Index: 7, Value: sum(device)}}}
	}
	b, a, other := observation("b", "uefi"), observation("a", "uefi"), observation("c", "coreboot")
	for _, o := range []store.Observation{b, a, other} {
		write(t, s, store.PutObservation{Observation: o})
	}
	got(s.Observations(ctx, "lamp", "uefi", 0))(t, "Observations", []store.Observation{a, b})
	b.At, b.Release, b.Evidence, b.PCRs = at(2), "lamp/1.1", sum("new"), []attestation.PCR{{Index: 0, Value: sum("new")}}
	a.Profile = "coreboot"
	write(t, s, store.PutObservation{Observation: b}, store.PutObservation{Observation: a})
	got(s.Observations(ctx, "lamp", "uefi", 0))(t, "the newest of each device", []store.Observation{b})
	got(s.Observations(ctx, "lamp", "coreboot", 1))(t, "one page", []store.Observation{a})
	got(s.Observations(ctx, "lock", "uefi", 0))(t, "another product", nil)
}
