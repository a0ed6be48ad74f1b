package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// learned is the platform of the World in one of two states, the other being a newer firmware.
func learned(t *testing.T, product, profile string, generation uint64) artifacts.BaselineStatement {
	t.Helper()
	sets := []artifacts.BaselineSet{
		{Name: "new", Source: artifacts.BaselineVendor, PCRs: reference.PlatformOf(evidencetest.DirectUKI(evidencetest.Release("any"), evidencetest.Firmware("2.0")).PCRs())},
		{Name: "old", Source: artifacts.BaselineVendor, PCRs: shared().Devices[0].Scenario.Baseline.PCRs},
	}
	s, err := artifacts.NewBaselineStatement(artifacts.PlatformBaseline{Product: product, Profile: profile, Generation: generation, Sets: sets})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(t *testing.T, s artifacts.BaselineStatement, key *ecdsa.PrivateKey) api.SignedBaseline {
	t.Helper()
	payload, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b := s.Predicate
	return api.SignedBaseline{Product: b.Product, Profile: b.Profile, Generation: b.Generation, Bundles: [][]byte{verifytest.Bundle(payload, key)}}
}

// held is a report whose appraisal 2 was decided by the baseline of s, and that carries the given records.
func held(t *testing.T, s artifacts.BaselineStatement, records ...api.SignedBaseline) api.Report {
	t.Helper()
	r := copied(t)
	b := s.Predicate.Baseline()
	reappraise(t, &r, 2, func(in *attestation.Input) { in.Baseline = &b })
	r.Appraisals[2].BaselineSHA256 = s.Subject[0].Digest.SHA256
	r.Updates[0].Evidence = verifytest.AppraisalID(r.Appraisals[2])
	r.Baselines = records
	return r
}

func TestVerifiesVerdictsByABaselineThatItsSignersSigned(t *testing.T) {
	t.Parallel()
	s := learned(t, verifytest.Product, evidencetest.Profile, 4)
	r := held(t, s, record(t, s, shared().Platform))
	got := check(shared().Sign(r))
	if step, says := failing(got); step != "" {
		t.Fatalf("got %s at %q: %s", got.Outcome, step, says)
	}
	if said := strings.Join(got.Trusted, "\n"); !strings.Contains(said, "generation 4 of the baseline") {
		t.Errorf("believed is %q, want the generation in it", said)
	}
}

func TestRefusesBaselinesThatNobodySigned(t *testing.T) {
	t.Parallel()
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := learned(t, verifytest.Product, evidencetest.Profile, 4)
	signed := record(t, good, shared().Platform)
	renamed := func(change func(*api.SignedBaseline)) api.SignedBaseline {
		out := signed
		change(&out)
		return out
	}
	for name, row := range map[string]struct {
		records []api.SignedBaseline
		step    string
		says    string
	}{
		"left out":              {nil, verify.StepAppraisals, "no signed baseline has the digest"},
		"signed by a stranger":  {[]api.SignedBaseline{record(t, good, stranger)}, verify.StepMetadata, "no baseline signer of the policy"},
		"of another profile":    {[]api.SignedBaseline{renamed(func(b *api.SignedBaseline) { b.Profile = "other" })}, verify.StepMetadata, "its signers signed generation 4"},
		"of another generation": {[]api.SignedBaseline{renamed(func(b *api.SignedBaseline) { b.Generation = 9 })}, verify.StepMetadata, "its signers signed generation 4"},
		"of another product":    {[]api.SignedBaseline{renamed(func(b *api.SignedBaseline) { b.Product = verifytest.Lab })}, verify.StepMetadata, "names no baseline signers"},
		"twice":                 {[]api.SignedBaseline{signed, signed}, verify.StepMetadata, "is there twice"},
		"without a bundle":      {[]api.SignedBaseline{renamed(func(b *api.SignedBaseline) { b.Bundles = nil })}, verify.StepMetadata, "0 bundles"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := check(shared().Sign(held(t, good, row.records...)))
			if step, says := failing(got); step != row.step || !strings.Contains(says, row.says) {
				t.Errorf("got %s at %q: %s, want %q at %q", got.Outcome, step, says, row.says, row.step)
			}
		})
	}
	// The signed baseline is in the report, and the verdict was reached with another one under its name.
	r := held(t, good, signed)
	weak := good.Predicate.Baseline()
	weak.Variants = append([]reference.Variant{{Name: "anything", PCRs: reference.PlatformOf(map[int]digest.SHA256{
		0: digest.Of([]byte("0")), 2: digest.Of([]byte("2")), 3: digest.Of([]byte("3")), 7: digest.Of([]byte("7"))})}}, weak.Variants...)
	reappraise(t, &r, 2, func(in *attestation.Input) { in.Baseline = &weak })
	r.Updates[0].Evidence = verifytest.AppraisalID(r.Appraisals[2])
	if step, says := failing(check(shared().Sign(r))); step != verify.StepAppraisals || !strings.Contains(says, "is not the signed one") {
		t.Errorf("another baseline: got %q: %s", step, says)
	}
}
