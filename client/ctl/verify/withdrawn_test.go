package verify_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

const withdrawnRelease = verifytest.Product + "/1.0.0"

// revoked is a World in which the first device proved 1.0.0, the offline role withdrew it, and the device boots it again.
func revoked(t *testing.T) (*verifytest.World, api.Report) {
	t.Helper()
	w := verifytest.New()
	first := w.Devices[0]
	first.Scenario.Boot(withdrawnRelease)
	p := w.Appraise(first, verifytest.Noon.Add(4*time.Hour), 1)
	if !bytes.Contains(p.Verdict, []byte(reason.ComponentRevoked)) || !bytes.Contains(w.Appraisals[0].Verdict, []byte(attestation.Affirmed)) {
		t.Fatalf("want affirmed before and component_revoked after, got %s and %s", w.Appraisals[0].Verdict, p.Verdict)
	}
	r := w.Report()
	r.Quarantines = append(r.Quarantines, api.Quarantine{
		ID: "q-" + p.Device, Device: p.Device, Since: p.At, Causes: []reason.Reason{reason.ComponentRevoked},
		Detail: "it booted what was withdrawn", By: "verifier", Evidence: verifytest.AppraisalID(p),
	})
	return w, r
}

func checked(w *verifytest.World, r api.Report) verify.Result {
	return verify.Report(w.Sign(r), w.Trust, verify.Options{EKRoots: w.EKRoots})
}

// The signed metadata has lost the release; the devices that proved it, and the one that booted it again, are explained.
func TestVerifiesAcrossAWithdrawal(t *testing.T) {
	t.Parallel()
	got := checked(revoked(t))
	if got.Outcome != verify.Verified {
		step, says := failing(got)
		t.Fatalf("got %s at %q: %s\nundecided: %q", got.Outcome, step, says, got.Undecided)
	}
	if !slices.Equal(got.Withdrawn, []string{withdrawnRelease}) {
		t.Errorf("withdrawn: got %q, want %q", got.Withdrawn, withdrawnRelease)
	}
}

// A server that lies smuggles in a release that publishers signed, that no metadata has and that nobody withdrew.
func TestRefusesAReleaseThatIsInNoMetadata(t *testing.T) {
	t.Parallel()
	w := verifytest.New()
	extra := w.Smuggle("1.2.0", 3)
	got := checked(w, w.Report())
	if step, says := failing(got); step != verify.StepReleases || !strings.Contains(says, extra+": component system is not in the signed metadata") {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
	if slices.Contains(got.Withdrawn, extra) {
		t.Errorf("%s counts as withdrawn", extra)
	}
}

// The server writes the withdrawal that it needs into a policy.
func TestRefusesAForgedWithdrawal(t *testing.T) {
	t.Parallel()
	forge := func(t *testing.T, w *verifytest.World) (string, []byte) {
		t.Helper()
		extra := w.Smuggle("1.2.0", 3)
		policy, err := artifacts.DecodePolicy(w.Report().Image.Files[artifacts.PolicyPath(verifytest.Product)])
		if err != nil {
			t.Fatal(err)
		}
		policy.Withdrawn = append(policy.Withdrawn, verifytest.Values(extra).Image)
		b, err := policy.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return artifacts.PolicyPath(verifytest.Product), b
	}
	for name, change := range map[string]func(r *api.Report, path string, policy []byte){
		"the current policy": func(r *api.Report, path string, policy []byte) { r.Image.Files[path] = policy },
		"a replaced policy":  func(r *api.Report, path string, policy []byte) { r.Image.Past[0].Files[path] = policy },
		"a policy beside it": func(r *api.Report, _ string, policy []byte) { r.Image.Files["policy/thermostat2.json"] = policy },
		"one more past one": func(r *api.Report, path string, policy []byte) {
			r.Image.Past = append(r.Image.Past, api.PastTargets{Targets: r.Image.Past[0].Targets, Files: map[string][]byte{path: policy}})
		},
		"unsigned targets": func(r *api.Report, path string, policy []byte) {
			r.Image.Past[0] = api.PastTargets{Targets: []byte(`{}`), Files: map[string][]byte{path: policy}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := verifytest.New()
			path, policy := forge(t, w)
			r := w.Report()
			change(&r, path, policy)
			if got := checked(w, r); got.Outcome != verify.Failed {
				t.Errorf("got %s, want failed", got.Outcome)
			} else if step, says := failing(got); step != verify.StepMetadata {
				t.Errorf("got failing step %q: %s, want metadata", step, says)
			}
		})
	}
}

// What another product's policy withdraws says nothing about this one.
func TestRefusesTheWithdrawalOfAnotherProduct(t *testing.T) {
	t.Parallel()
	w := verifytest.New()
	extra := w.Smuggle(verifytest.LabWithdrawn, 3)
	if got := w.Lab().Withdrawn; !slices.Contains(got, verifytest.Values(extra).Image) {
		t.Fatalf("the lab withdraws %v, want the image of %s", got, extra)
	}
	got := checked(w, w.Report())
	if step, says := failing(got); step != verify.StepReleases || !strings.Contains(says, "is not in the signed metadata") {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
}

// A withdrawn release is not free of proof: publishers must have signed it, and its Reference Values are theirs.
func TestAWithdrawnReleaseIsCheckedLikeAnyOther(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(t *testing.T, r *api.Report)
		says   string
	}{
		"a bundle of somebody else": {otherPublisher, "no publisher of the policy"},
		"other Reference Values":    {func(_ *testing.T, r *api.Report) { r.Releases[0].Reference["system"] = []byte(`{}`) }, "Reference Values"},
		"another release":           {func(_ *testing.T, r *api.Report) { r.Releases[0].Release.Recovery = true }, "another release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := copied(t)
			test.change(t, &r)
			got := check(shared().Sign(r))
			if step, says := failing(got); step != verify.StepReleases || !strings.Contains(says, withdrawnRelease+": ") || !strings.Contains(says, test.says) {
				t.Errorf("got %s at %q: %s", got.Outcome, step, says)
			}
			if len(got.Withdrawn) != 0 {
				t.Errorf("withdrawn: got %q, want none that verified", got.Withdrawn)
			}
		})
	}
}

// The server expects a withdrawn release, leaves its boot out of what is revoked, and says that it was published only
// after the appraisal.
func TestAWithdrawnReleaseIsNotExpectedWithoutItsRevocation(t *testing.T) {
	t.Parallel()
	w, r := revoked(t)
	last := len(r.Appraisals) - 1
	r.Releases = slices.Clone(r.Releases)
	r.Releases[0].PublishedAt = verifytest.Noon.Add(20 * time.Hour)
	reappraise(t, &r, last, func(in *attestation.Input) { in.Policy.RevokedBoot = []digest.SHA256{} })
	got := checked(w, r)
	if step, says := failing(got); step != verify.StepAppraisals || !strings.Contains(says, "did not count as withdrawn") {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
}

// No measurement names a withdrawn image that GRUB starts: the server must not expect it at all.
func TestAWithdrawnBootChainIsNotExpected(t *testing.T) {
	t.Parallel()
	image := digest.Of([]byte("disk"))
	r := artifacts.Release{Product: "lamp", Version: "1", Components: []artifacts.Component{{Name: "disk", SHA256: image}}}
	policy := artifacts.Policy{Product: "lamp", Withdrawn: []digest.SHA256{image}}
	for boot, want := range map[string]int{reference.BootChain: 1, reference.BootDirectUKI: 0} { // the UKI is revoked by its measurement
		values := evidencetest.Release("lamp/1")
		values.Boot = boot
		var in attestation.Input
		if d, ok := values.BootDigest(); ok {
			in.Policy.RevokedBoot = []digest.SHA256{d}
		}
		expected := in
		expected.Expected = []attestation.Expectation{{Release: "lamp/1", Values: values}}
		all := map[string]reference.Values{"disk": values}
		if got := verify.Revoked(policy, r, all, api.Appraisal{Input: expected}); len(got) != want {
			t.Errorf("%s, expected: got %v, want %d", boot, got, want)
		}
		if got := verify.Revoked(policy, r, all, api.Appraisal{Input: in}); len(got) != 0 {
			t.Errorf("%s, not expected: got %v", boot, got)
		}
	}
}
