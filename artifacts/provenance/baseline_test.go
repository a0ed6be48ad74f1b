package provenance_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

func baselinePayload(t testing.TB, product string) []byte {
	t.Helper()
	set := artifacts.BaselineSet{Name: "bios-1", Source: artifacts.BaselineVendor}
	for _, pcr := range reference.PlatformPCRs() {
		set.PCRs = append(set.PCRs, reference.Platform{Index: pcr, Value: digest.Of([]byte{byte(pcr)})})
	}
	s, err := artifacts.NewBaselineStatement(artifacts.PlatformBaseline{Product: product, Profile: "board", Generation: 1, Sets: []artifacts.BaselineSet{set}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBaselineNeedsItsSigners(t *testing.T) {
	t.Parallel()
	ci, platform, second := newKey(t), newKey(t), newKey(t)
	p := policy(1, keyPublisher(t, "ci", ci))
	p.Baselines = &artifacts.BaselinePolicy{Threshold: 2, Signers: []artifacts.Publisher{keyPublisher(t, "platform", platform), keyPublisher(t, "second", second)}}
	good := baselinePayload(t, "thermostat")
	none := p
	none.Baselines = nil
	for name, row := range map[string]struct {
		policy  artifacts.Policy
		bundles [][]byte
		want    string // "" is accepted
	}{
		"both signers":           {p, [][]byte{signed(t, good, platform), signed(t, good, second)}, ""},
		"one of two":             {p, [][]byte{signed(t, good, platform)}, "1 of the 2"},
		"one signer twice":       {p, [][]byte{signed(t, good, platform), signed(t, good, platform)}, "1 of the 2"},
		"nobody":                 {p, nil, "0 bundles"},
		"publisher":              {p, [][]byte{signed(t, good, ci), signed(t, good, second)}, "no baseline signer of the policy"},
		"stranger":               {p, [][]byte{signed(t, good, newKey(t)), signed(t, good, second)}, "no baseline signer of the policy"},
		"policy without signers": {none, [][]byte{signed(t, good, ci)}, "names no baseline signers"},
		"other product":          {p, [][]byte{signed(t, baselinePayload(t, "boiler"), platform), signed(t, baselinePayload(t, "boiler"), second)}, `product "boiler"`},
		"a release":              {p, [][]byte{signed(t, payload(t, release()), platform), signed(t, payload(t, release()), second)}, "does not sign a baseline statement"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := provenance.VerifyBaseline(row.bundles, row.policy, provenance.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if row.want == "" {
				if len(res.Refusals) > 0 || res.Statement.Predicate.Profile != "board" || len(res.Signers) != 2 {
					t.Errorf("got %+v, want it accepted", res)
				}
				return
			}
			if len(res.Refusals) == 0 || res.Refusals[0].Reason != reason.BaselineRefused || !strings.Contains(res.Refusals[0].Detail, row.want) {
				t.Errorf("got %+v, want baseline_refused with %q", res.Refusals, row.want)
			}
			if len(res.Statement.Subject) > 0 {
				t.Error("a refused statement is shown")
			}
		})
	}
}

// A baseline signer is no publisher: who may say what firmware measures must not release any.
func TestBaselineSignerPublishesNothing(t *testing.T) {
	t.Parallel()
	ci, platform := newKey(t), newKey(t)
	p := policy(1, keyPublisher(t, "ci", ci))
	p.Baselines = &artifacts.BaselinePolicy{Threshold: 1, Signers: []artifacts.Publisher{keyPublisher(t, "platform", platform)}}
	res, err := provenance.VerifyAll([][]byte{signed(t, payload(t, release()), platform)}, p, provenance.Options{})
	wantRefused(t, res, err, "no publisher of the policy")
	res, err = provenance.VerifyAll([][]byte{signed(t, baselinePayload(t, "thermostat"), ci)}, p, provenance.Options{})
	wantRefused(t, res, err, "does not sign a release statement")
}

func FuzzClaimedBaseline(f *testing.F) {
	f.Add(signed(f, baselinePayload(f, "thermostat"), newKey(f)))
	f.Add([]byte(`{"dsseEnvelope":{"payload":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := provenance.ClaimedBaseline(b)
		if err == nil && s.Predicate.Product == "" {
			t.Fatal("a statement without a product")
		}
	})
}
