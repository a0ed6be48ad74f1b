package verify_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// The server holds a device against the policy of another product, which asks for less, and expects its own releases.
func TestRefusesThePolicyOfAnotherProduct(t *testing.T) {
	t.Parallel()
	r := copied(t)
	lab, err := shared().Lab().Encode()
	if err != nil {
		t.Fatal(err)
	}
	r.Appraisals[2].PolicySHA256 = digest.Of(lab)
	reappraise(t, &r, 2, func(in *attestation.Input) { in.Policy = attestation.Policy{RequiredPCRs: []int{4}} })
	if !bytes.Contains(r.Appraisals[2].Verdict, []byte("affirmed")) {
		t.Fatalf("the lie does not work: %s", r.Appraisals[2].Verdict)
	}
	r.Updates[0].Evidence = verifytest.AppraisalID(r.Appraisals[2])
	got := check(shared().Sign(r))
	if step, says := failing(got); step != verify.StepAppraisals || !strings.Contains(says, `under the policy of product "lab"`) {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
}

// A device that was rolled back is affirmed, since the server expects the release that the device had left. The policy
// that it cites for that had been replaced, too.
func TestRefusesARollbackThatTheServerExpected(t *testing.T) {
	t.Parallel()
	w := verifytest.New()
	first := w.Devices[0]
	first.Scenario.Boot(verifytest.Product + "/1.0.0")
	p := w.Appraise(first, verifytest.Noon.Add(4*time.Hour), 0)
	if !bytes.Contains(p.Verdict, []byte("affirmed")) {
		t.Fatalf("the lie does not work: %s", p.Verdict)
	}
	got := verify.Report(w.Sign(w.Report()), w.Trust, verify.Options{EKRoots: w.EKRoots})
	if step, says := failing(got); step != verify.StepAppraisals || !strings.Contains(says, "had proven counter 2 before") {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
	if said := strings.Join(got.Undecided, "\n"); !strings.Contains(said, "a policy of targets 1, and targets 2 had been used before") {
		t.Errorf("undecided is %q, want the replaced policy in it", said)
	}
}

// A server can show offline targets that were replaced as the newest ones; the auditor is told which it showed.
func TestNamesTheOfflineTargetsThatWereShown(t *testing.T) {
	t.Parallel()
	got := check(shared().Sign(shared().Report()))
	if said := strings.Join(got.Trusted, "\n"); got.Outcome != verify.Verified || !strings.Contains(said, "offline targets 2 as the newest") {
		t.Errorf("got %s, trusted %q; want the number of the targets in it", got.Outcome, said)
	}
}

// A report that is wrong in bytes that are no text is still one whose failure can be told, in JSON too.
func TestFindingsCanAlwaysBeTold(t *testing.T) {
	t.Parallel()
	r := copied(t)
	r.Events[0].Leaf = append(bytes.Clone(r.Events[0].Leaf), 0xff, 0xfe)
	got := check(shared().Sign(r))
	if step, says := failing(got); got.Outcome != verify.Failed || step != verify.StepEvents {
		t.Fatalf("got %s at %q: %s", got.Outcome, step, says)
	}
	r.Events[0] = verifytest.Event(7, verifytest.Noon, "a", "b", "c", `{}`)
	r.Events[0].Subject = "x" + strings.Repeat("\u00e9", 2000)
	r.Updates[0].Device = r.Events[0].Subject
	got = check(shared().Sign(r))
	if _, err := json.Marshal(got); err != nil || got.Outcome != verify.Failed {
		t.Errorf("outcome %s, %v", got.Outcome, err)
	}
}

// One healthy TPM vouches for two devices.
func TestRefusesOneAttestationKeyForTwoDevices(t *testing.T) {
	t.Parallel()
	r := copied(t)
	r.Devices[1].AKPublic = r.Devices[0].AKPublic
	got := check(shared().Sign(r))
	if step, says := failing(got); step != verify.StepDevices || !strings.Contains(says, "its attestation key is that of device") {
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
}

// The server says that a log was not there yet when it decided, and so hides what it had seen.
func TestALogCalledLateHidesNothing(t *testing.T) {
	t.Parallel()
	r := copied(t)
	p := &r.Appraisals[3]
	verdict, err := attestation.Appraise(p.Input) // without its log
	if err != nil {
		t.Fatal(err)
	}
	if p.Verdict, err = verdict.Marshal(); err != nil {
		t.Fatal(err)
	}
	r.Quarantines = []api.Quarantine{}
	got := check(shared().Sign(r))
	if said := strings.Join(got.Undecided, "\n"); got.Outcome != verify.Undecided || !strings.Contains(said, "it proves a wrong state") {
		t.Errorf("got %s, undecided %q; want undecided over the log", got.Outcome, said)
	}
}
