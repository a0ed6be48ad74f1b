package appraise_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/store"
)

// withoutBaseline is a world where nobody has signed what the platform measures.
func withoutBaseline(t *testing.T) *appraisetest.World {
	t.Helper()
	w := appraisetest.New(t)
	w.Publish("1", 1)
	w.Edit(func(_ *repository.Catalog, p *repository.Product) { p.Baselines = map[string]repository.Baseline{} })
	return w
}

func observations(t *testing.T, w *appraisetest.World) []store.Observation {
	t.Helper()
	out, err := w.Store.Observations(t.Context(), appraisetest.Product, evidencetest.Profile, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKeepsWhatADeviceShowsOfAnUnknownPlatform(t *testing.T) {
	t.Parallel()
	w := withoutBaseline(t)
	d := w.Enrolled(t, "a", "lamp/1")
	wantRefused(t, d.Converse(), reason.PolicyMissing, reason.DeviceUnproven)
	got := observations(t, w)
	if len(got) != 1 || got[0].Device != d.ID || got[0].Release != "lamp/1" || got[0].Evidence.IsZero() {
		t.Fatalf("observations: %+v", got)
	}
	for _, p := range got[0].PCRs {
		if p.Value != d.Regs[p.Index] {
			t.Errorf("PCR %d: got %s", p.Index, p.Value)
		}
	}
	if _, err := w.Store.Log(t.Context(), got[0].LogDigest); err != nil {
		t.Errorf("its log: %v", err)
	}
	// Nothing else came of it.
	if row := d.Row(); row.Standing != fleet.Unproven || row.Accepted != nil || row.Segment != fleet.Restricted || row.Proven != "" {
		t.Errorf("device: %+v", row)
	}
	if events := w.Events(d.ID); slices.Contains(events, "verdict.affirmed") || slices.Contains(events, "certificate.issued") {
		t.Errorf("events: %v", events)
	}
}

// Only what is authentic and boots a release that was published counts: anything else could make itself the norm.
func TestKeepsNothingOfEvidenceThatProvesNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(d *appraisetest.Device){
		"a release that nobody published": func(d *appraisetest.Device) { d.Boot("evil/1") },
		"a register that the log does not explain": func(d *appraisetest.Device) {
			d.Regs[2] = digest.Of([]byte("implant"))
		},
		"another key": func(d *appraisetest.Device) { d.AK = evidencetest.NewAK(evidencetest.Seed("mallory")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := withoutBaseline(t)
			d := w.Enrolled(t, "a", "lamp/1")
			change(d)
			d.Converse()
			if got := observations(t, w); len(got) != 0 {
				t.Errorf("kept %+v", got)
			}
		})
	}
}

// After an update of the vendor's firmware the device is quarantined like any other that differs, and what it shows is
// kept: the next baseline is learned from such devices.
func TestKeepsWhatDiffersFromTheBaseline(t *testing.T) {
	t.Parallel()
	w := appraisetest.New(t)
	d := settled(t, w, "a")
	d.Boot("lamp/1", evidencetest.Firmware("2.0"))
	d.Converse()
	if row := d.Row(); row.Standing != fleet.Refused {
		t.Fatalf("standing: got %s, want refused", row.Standing)
	}
	got := observations(t, w)
	if len(got) != 1 || got[0].Device != d.ID {
		t.Fatalf("observations: %+v", got)
	}

	other := settled(t, w, "b")
	other.Boot("evil/1")
	other.Converse()
	if got := observations(t, w); len(got) != 1 {
		t.Errorf("a device that booted something else was kept: %+v", got)
	}
}

// A TPM signs without end, and nothing stops its owner from extending registers in between: what is kept has a limit.
func TestDeviceCannotFillTheDiskWithObservations(t *testing.T) {
	t.Parallel()
	w := withoutBaseline(t)
	d := w.Enrolled(t, "a", "lamp/1")
	var err error
	polls := 0
	for polls = range 1000 {
		if _, _, err = d.Send(w.Service, d.Body(challenge(w, d), true)); err != nil {
			break
		}
	}
	if polls < 32 {
		t.Errorf("refused after %d polls already", polls)
	}
	wantProblem(t, err, http.StatusTooManyRequests, reason.RateLimited)
}

// Nothing is learned from a TPM that somebody has denied, in whatever way it was named.
func TestKeepsNothingOfADeniedTPM(t *testing.T) {
	t.Parallel()
	probe := settledEndorsed(t, appraisetest.New(t), "probe").Row()
	for name := range ways(t, probe) {
		w := appraisetest.New(t)
		d := settledEndorsed(t, w, "a") // the server has seen its firmware
		w.Edit(func(_ *repository.Catalog, p *repository.Product) { p.Baselines = map[string]repository.Baseline{} })
		deny(t, w, ways(t, d.Row())[name])
		d.Converse()
		if got := observations(t, w); len(got) != 0 {
			t.Errorf("denied by %s: kept %+v", name, got)
		}
	}
}

// The same when no quote has shown the denied firmware before: where no baseline is signed, nothing is ever accepted.
func TestKeepsNothingOfFirmwareThatIsDenied(t *testing.T) {
	t.Parallel()
	for from, want := range map[uint64]int{1: 0, 2: 1} { // the TPM shows version 1
		w := withoutBaseline(t)
		d := w.Enrolled(t, "a", "lamp/1", endorsed)
		deny(t, w, identity.Denial{Manufacturer: d.Row().Manufacturer, FirmwareFrom: from, FirmwareTo: from})
		d.Converse()
		if got := observations(t, w); len(got) != want {
			t.Errorf("version %d is denied: kept %+v, want %d", from, got, want)
		}
	}
}
