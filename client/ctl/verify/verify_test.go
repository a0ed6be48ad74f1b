package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// shared is one world for tests that do not change it.
var shared = sync.OnceValue(verifytest.New)

// copied is a deep copy of the honest report, to be changed by one test.
func copied(t testing.TB) api.Report {
	t.Helper()
	b, err := json.Marshal(shared().Report(), json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	var r api.Report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func check(doc []byte) verify.Result {
	return verify.Report(doc, shared().Trust, verify.Options{EKRoots: shared().EKRoots})
}

// failing returns the name of the first step that failed, with its findings.
func failing(r verify.Result) (string, string) {
	for _, s := range r.Steps {
		if !s.OK && s.Done {
			return s.Name, strings.Join(s.Findings, "\n")
		}
	}
	return "", ""
}

func TestVerifiesAnHonestReport(t *testing.T) {
	t.Parallel()
	got := check(shared().Sign(shared().Report()))
	if got.Outcome != verify.Verified {
		for _, s := range got.Steps {
			t.Errorf("%s: done %t, ok %t: %s", s.Name, s.Done, s.OK, strings.Join(s.Findings, "\n"))
		}
		t.Fatalf("got %s, want verified; undecided: %q", got.Outcome, got.Undecided)
	}
	for _, s := range got.Steps {
		if s.Checked == 0 {
			t.Errorf("step %s looked at nothing", s.Name)
		}
	}
	if got.Report == nil || len(got.Trusted) == 0 {
		t.Error("want the report and what had to be trusted")
	}
}

func TestSaysThatEKChainsWereBelieved(t *testing.T) {
	t.Parallel()
	doc := shared().Sign(shared().Report())
	with, without := check(doc), verify.Report(doc, shared().Trust, verify.Options{})
	if without.Outcome != verify.Verified || len(without.Trusted) != len(with.Trusted)+1 {
		t.Errorf("got %s with %d trusted, want verified with one more than %d", without.Outcome, len(without.Trusted), len(with.Trusted))
	}
	foreign := verify.Report(doc, shared().Trust, verify.Options{EKRoots: evidencetest.NewCA("somebody").Pool()})
	if step, _ := failing(foreign); step != verify.StepDevices {
		t.Errorf("foreign manufacturer: got failing step %q, want devices", step)
	}
}

// TestRefusesEveryChangedByte flips one bit at a time at positions all over the file, in every kind of place.
func TestRefusesEveryChangedByte(t *testing.T) {
	t.Parallel()
	doc := shared().Sign(shared().Report())
	positions := map[int]bool{}
	for i := 0; i < len(doc); i += 1 + len(doc)/400 {
		positions[i] = true
	}
	for i := range 64 {
		positions[i], positions[len(doc)-1-i] = true, true
	}
	for _, mark := range []string{`"leaf":"`, `"verdict":{`, `"at":"`, `"bundles":["`, `"certificate":"`, `"},"signature":`, `"signature":"`, `==`} {
		at := bytes.LastIndex(doc, []byte(mark))
		for i := max(0, at-2); i < min(len(doc), at+len(mark)+2); i++ {
			positions[i] = true
		}
	}
	for i := range positions {
		for _, bit := range []byte{0x01, 0x20} {
			changed := bytes.Clone(doc)
			changed[i] ^= bit
			if got := check(changed); got.Outcome != verify.Failed {
				t.Errorf("byte %d of %d, %q for %q: got %s, want failed", i, len(doc), changed[i], doc[i], got.Outcome)
			}
		}
	}
}

func TestRefusesAddedBytes(t *testing.T) {
	t.Parallel()
	doc := shared().Sign(shared().Report())
	for name, changed := range map[string][]byte{
		"newline at the end": append(bytes.Clone(doc), '\n'),
		"space at the start": append([]byte(" "), doc...),
		"space after colon":  bytes.Replace(doc, []byte(`"signature":`), []byte(`"signature": `), 1),
		"unknown member":     append(bytes.Clone(doc[:len(doc)-1]), `,"note":1}`...),
		"second report":      append(bytes.Clone(doc[:len(doc)-1]), `,"report":{}}`...),
		"nothing":            {},
	} {
		got := check(changed)
		if step, _ := failing(got); got.Outcome != verify.Failed || step != verify.StepFormat && step != verify.StepSignature {
			t.Errorf("%s: got %s at step %q, want failed at format or signature", name, got.Outcome, step)
		}
	}
}

func TestRefusesOtherSigners(t *testing.T) {
	t.Parallel()
	w := shared()
	body, err := json.Marshal(w.Report(), json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other := verifytest.New()
	for name, doc := range map[string][]byte{
		"another key under the certificate": w.SignBytes(body, key, w.Certificate),
		"another CA":                        other.SignBytes(body, other.ReportKey, other.Certificate),
		"a server certificate":              w.SignBytes(body, key, w.Leaf("spiffe://fleet.example/server", key.Public())),
		"a device certificate":              w.SignBytes(body, key, w.Leaf("spiffe://fleet.example/device/x", key.Public())),
		"another trust domain":              w.SignBytes(body, key, w.Leaf("spiffe://other.example/report", key.Public())),
		"another curve":                     w.SignBytes(body, p384, w.Leaf(verifytest.Purpose, p384.Public())),
		"no certificate":                    w.SignBytes(body, key, nil),
	} {
		if step, _ := failing(check(doc)); step != verify.StepSignature {
			t.Errorf("%s: got failing step %q, want signature", name, step)
		}
	}
}

// TestRefusesALyingServer: the server signs whatever it likes, and still cannot make up what others signed.
func TestRefusesALyingServer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(t *testing.T, r *api.Report)
		step   string
		says   string
	}{
		{"a version of tomorrow", func(_ *testing.T, r *api.Report) { r.Version++ }, verify.StepFormat, "version"},
		{"another trust domain", func(_ *testing.T, r *api.Report) { r.TrustDomain = "x.example" }, verify.StepSignature, "trust domain"},
		{"a certificate that was not valid then", func(_ *testing.T, r *api.Report) { r.CreatedAt = verifytest.Noon.AddDate(20, 0, 0) }, verify.StepSignature, "chain"},
		{"a root of its own", func(_ *testing.T, r *api.Report) { r.Image.Roots = [][]byte{verifytest.New().Metadata["1.root.json"]} }, verify.StepMetadata, "not the one of the trust bundle"},
		{"roots left out", func(_ *testing.T, r *api.Report) { r.Image.Roots = r.Image.Roots[:1] }, verify.StepMetadata, "timestamp"},
		{"a policy of its own", func(_ *testing.T, r *api.Report) { r.Image.Files["policy/thermostat.json"] = []byte(`{}`) }, verify.StepMetadata, "policy/thermostat.json is not the file"},
		{"a file that nobody signed", func(_ *testing.T, r *api.Report) { r.Image.Files["policy/other.json"] = []byte(`{}`) }, verify.StepMetadata, "not a target"},
		{"a signed file left out", func(_ *testing.T, r *api.Report) { clear(r.Image.Files) }, verify.StepMetadata, "is not in the report"},
		{"the current targets as replaced", func(_ *testing.T, r *api.Report) { r.Image.Past[0].Targets = r.Image.Targets }, verify.StepMetadata, "current one"},
		{"replaced targets of its own", func(_ *testing.T, r *api.Report) {
			r.Image.Past[0].Targets = verifytest.New().Metadata["1.targets.json"]
		}, verify.StepMetadata, "replaced targets"},
		{"replaced policy of its own", func(_ *testing.T, r *api.Report) { r.Image.Past[0].Files["policy/thermostat.json"] = []byte(`{}`) }, verify.StepMetadata, "not the file that targets 1 names"},
		{"a bundle of somebody else", otherPublisher, verify.StepReleases, "no publisher of the policy"},
		{"another release than was signed", func(_ *testing.T, r *api.Report) { r.Releases[0].Release.Floor = 1 }, verify.StepReleases, "another release"},
		{"other Reference Values", func(_ *testing.T, r *api.Report) { r.Releases[1].Reference["system"] = []byte(`{}`) }, verify.StepReleases, "Reference Values"},
		{"a device under another name", func(_ *testing.T, r *api.Report) { r.Devices[0].Device.ID = r.Devices[1].Device.ID[:25] + "a" }, verify.StepDevices, "endorsement key"},
		{"an attestation key that is none", func(_ *testing.T, r *api.Report) {
			r.Devices[0].AKPublic = evidencetest.NewTLSKey(evidencetest.Seed("tls")).Public
		}, verify.StepDevices, "attestation key"},
		{"a refusal turned into a pass", func(_ *testing.T, r *api.Report) {
			r.Appraisals[3].Verdict = jsontext.Value(bytes.Replace(r.Appraisals[3].Verdict, []byte("refused"), []byte("affirmed"), 1))
		}, verify.StepAppraisals, "appraising the Evidence again gives"},
		{"Evidence of another boot", func(_ *testing.T, r *api.Report) {
			r.Appraisals[3].Input.Evidence = r.Appraisals[2].Input.Evidence
		}, verify.StepAppraisals, "appraising the Evidence again gives"},
		{"expectations of its own", expectEvil, verify.StepAppraisals, "not those that the publishers signed"},
		{"an unpublished release expected", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 3, func(in *attestation.Input) {
				in.Expected = append(in.Expected, attestation.Expectation{Release: "thermostat/evil", Values: evidencetest.Release("thermostat/evil")})
			})
		}, verify.StepAppraisals, "no verified release"},
		{"a baseline of its own", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 2, func(in *attestation.Input) { in.Baseline.Profile = "other" })
		}, verify.StepAppraisals, "baseline is not the signed one"},
		{"fewer PCRs than the policy asks for", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 2, func(in *attestation.Input) { in.Policy.RequiredPCRs = []int{4} })
		}, verify.StepAppraisals, "other PCRs"},
		{"a withdrawal overlooked", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 2, func(in *attestation.Input) { in.Policy.RevokedBoot = nil })
		}, verify.StepAppraisals, "did not count as withdrawn"},
		{"a withdrawal made up", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 0, func(in *attestation.Input) { in.Policy.RevokedBoot = []digest.SHA256{digest.Of([]byte("x"))} })
		}, verify.StepAppraisals, "no signed policy withdraws it"},
		{"a PCR less than every build asks for", func(t *testing.T, r *api.Report) {
			reappraise(t, r, 2, func(in *attestation.Input) { in.Policy.RequiredPCRs = in.Policy.RequiredPCRs[1:] })
		}, verify.StepAppraisals, "other PCRs"},
		{"a policy that nobody signed", func(_ *testing.T, r *api.Report) { r.Appraisals[0].PolicySHA256 = digest.Of(nil) }, verify.StepAppraisals, "no signed policy"},
		{"a baseline that nobody signed", func(_ *testing.T, r *api.Report) { r.Appraisals[0].BaselineSHA256 = digest.Of(nil) }, verify.StepAppraisals, "no signed baseline"},
		{"another attestation key", func(_ *testing.T, r *api.Report) {
			r.Devices[0].AKPublic, r.Devices[1].AKPublic = r.Devices[1].AKPublic, r.Devices[0].AKPublic
		}, verify.StepAppraisals, "another attestation key"},
		{"an appraisal for another device", func(_ *testing.T, r *api.Report) { r.Appraisals[2].Device = r.Devices[1].Device.ID }, verify.StepAppraisals, "transcript is for device"},
		{"no record of the device", func(_ *testing.T, r *api.Report) { r.Devices = r.Devices[1:] }, verify.StepAppraisals, "no record of the device"},
		{"a log under another name", func(_ *testing.T, r *api.Report) {
			r.Logs[r.Appraisals[0].Input.Evidence.LogDigest.String()] = r.Logs[r.Appraisals[3].Input.Evidence.LogDigest.String()]
		}, verify.StepAppraisals, "other bytes than its name"},
		{"logs left out", func(_ *testing.T, r *api.Report) { clear(r.Logs) }, verify.StepAppraisals, "eventlog_missing"},
		{"a beacon left out", func(_ *testing.T, r *api.Report) { clear(r.Beacons) }, verify.StepAppraisals, "does not have the timestamp"},
		{"a beacon of its own", func(_ *testing.T, r *api.Report) {
			for name := range r.Beacons {
				r.Beacons[name] = []byte(`{}`)
			}
		}, verify.StepAppraisals, "other bytes than its name"},
		{"one quote shown twice", func(_ *testing.T, r *api.Report) {
			again := r.Appraisals[2]
			again.Number, again.At = 9, again.At.Add(time.Hour)
			r.Appraisals = append(r.Appraisals, again)
		}, verify.StepAppraisals, "does not continue from appraisal 3"},
		{"one quote shown twice, from the start", func(t *testing.T, r *api.Report) {
			again := r.Appraisals[0]
			again.Number, again.At = 9, verifytest.Noon.Add(20*time.Hour)
			r.Appraisals = append(r.Appraisals, again)
		}, verify.StepAppraisals, "starts over after appraisal 3"},
		{"appraisals out of order", func(_ *testing.T, r *api.Report) { r.Appraisals[0].Number = 2 }, verify.StepAppraisals, "follows"},
		{"an event shown otherwise", func(_ *testing.T, r *api.Report) { r.Events[1].Actor = "somebody" }, verify.StepEvents, "shown otherwise"},
		{"an event with other data", func(_ *testing.T, r *api.Report) { r.Events[1].Data = jsontext.Value(`{}`) }, verify.StepEvents, "shown otherwise"},
		{"an event left out", func(_ *testing.T, r *api.Report) { r.Events = append(r.Events[:1], r.Events[2:]...) }, verify.StepEvents, "events 8 to 8 are missing"},
		{"events out of order", func(_ *testing.T, r *api.Report) { r.Events[0], r.Events[1] = r.Events[1], r.Events[0] }, verify.StepEvents, "follows"},
		{"a quarantine without a verdict", func(_ *testing.T, r *api.Report) { r.Quarantines[0].Evidence = digest.Of(nil) }, verify.StepDecisions, "was not reached again"},
		{"a quarantine over a good verdict", func(_ *testing.T, r *api.Report) {
			r.Quarantines[0].Evidence = verifytest.AppraisalID(r.Appraisals[2])
		}, verify.StepDecisions, "says affirmed"},
		{"no quarantine after a proof", func(_ *testing.T, r *api.Report) { r.Quarantines = nil }, verify.StepDecisions, "no quarantine followed"},
		{"a quarantine that one person ended", func(_ *testing.T, r *api.Report) {
			at := r.Quarantines[0].Since.Add(time.Hour)
			r.Quarantines[0].RecoveredAt, r.Quarantines[0].EndedAt = &at, &at
			r.Quarantines[0].Approvals = []api.Approval{{Person: "ann", At: at}, {Person: "ann", At: at}}
		}, verify.StepDecisions, "1 people let it end"},
		{"a quarantine that ended without proof", func(_ *testing.T, r *api.Report) {
			at := r.Quarantines[0].Since.Add(time.Hour)
			r.Quarantines[0].EndedAt = &at
			r.Quarantines[0].Approvals = []api.Approval{{Person: "ann", At: at}, {Person: "bob", At: at}}
		}, verify.StepDecisions, "without a fresh proof"},
		{"an update that was not proven", func(_ *testing.T, r *api.Report) { r.Updates[0].To = "thermostat/9.0.0" }, verify.StepDecisions, "which proves thermostat/1.1.0"},
		{"better coverage", func(_ *testing.T, r *api.Report) { r.Coverage.Proven++ }, verify.StepDecisions, "counted are"},
		{"a device excluded", func(_ *testing.T, r *api.Report) {
			r.Coverage = api.Coverage{InScope: 1, Proven: 1, Excluded: []api.ExcludedDevice{{Device: r.Devices[1].Device.ID, Reason: "device_retired"}}}
		}, verify.StepDecisions, "its record says otherwise"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := copied(t)
			test.change(t, &r)
			got := check(shared().Sign(r))
			step, says := failing(got)
			if got.Outcome != verify.Failed || step != test.step || !strings.Contains(says, test.says) {
				t.Errorf("got %s at %q: %.600s\nwant failed at %q, with %q", got.Outcome, step, says, test.step, test.says)
			}
		})
	}
}

// reappraise is what a server does that lies consistently: it changes the Input and stores the verdict that follows.
func reappraise(t *testing.T, r *api.Report, i int, change func(*attestation.Input)) {
	t.Helper()
	p := &r.Appraisals[i]
	change(&p.Input)
	in := p.Input
	in.Log = r.Logs[in.Evidence.LogDigest.String()]
	verdict, err := attestation.Appraise(in)
	if err != nil {
		t.Fatal(err)
	}
	if p.Verdict, err = verdict.Marshal(); err != nil {
		t.Fatal(err)
	}
}

// expectEvil lets the second device pass by exchanging the Reference Values under a published name.
func expectEvil(t *testing.T, r *api.Report) {
	reappraise(t, r, 3, func(in *attestation.Input) {
		in.Expected = []attestation.Expectation{{Release: "thermostat/1.1.0", Values: evidencetest.Release("thermostat/evil")}}
	})
	if !bytes.Contains(r.Appraisals[3].Verdict, []byte("affirmed")) {
		t.Fatalf("the lie does not work: %s", r.Appraisals[3].Verdict)
	}
}

func otherPublisher(t *testing.T, r *api.Report) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := artifacts.NewStatement(r.Releases[0].Release)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := statement.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r.Releases[0].Bundles = [][]byte{verifytest.Bundle(payload, key)}
}

func TestReactivationIsAnEvent(t *testing.T) {
	t.Parallel()
	r := copied(t)
	reappraise(t, &r, 2, func(in *attestation.Input) { in.Last = nil })
	r.Updates[0].Evidence = verifytest.AppraisalID(r.Appraisals[2])
	if step, says := failing(check(shared().Sign(r))); step != verify.StepAppraisals {
		t.Fatalf("without the event: got %q %s, want appraisals to fail", step, says)
	}
	r.Events = append(r.Events[:1], append([]api.Event{
		verifytest.Event(8, verifytest.Noon.Add(time.Hour), "device.reactivated", r.Appraisals[2].Device, r.Appraisals[2].Device, `{}`),
	}, r.Events[2:]...)...)
	shared().Relog(&r)
	if got := check(shared().Sign(r)); got.Outcome != verify.Verified {
		step, says := failing(got)
		t.Errorf("with the event: got %s at %q: %s", got.Outcome, step, says)
	}
}

func TestLogThatCameLater(t *testing.T) {
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
	r.Quarantines[0].By, r.Quarantines[0].Evidence = "ann", digest.SHA256{}
	if got := check(shared().Sign(r)); got.Outcome != verify.Verified {
		step, says := failing(got)
		t.Errorf("got %s at %q: %s", got.Outcome, step, says)
	}
}

func TestACutReportIsUndecided(t *testing.T) {
	t.Parallel()
	r := copied(t)
	r.Coverage.Truncated = true
	r.Appraisals = r.Appraisals[:2]
	got := check(shared().Sign(r))
	if got.Outcome != verify.Undecided || len(got.Undecided) < 2 {
		step, says := failing(got)
		t.Errorf("got %s, %q, failing %q: %s; want undecided", got.Outcome, got.Undecided, step, says)
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	r := copied(t)
	b, same, err := verify.Again(r.Appraisals[3], r.Logs)
	if err != nil || !same || !bytes.Equal(b, r.Appraisals[3].Verdict) {
		t.Errorf("got %s, %t, %v", b, same, err)
	}
	r.Appraisals[3].Verdict = jsontext.Value(`{}`)
	if b, same, err = verify.Again(r.Appraisals[3], r.Logs); err != nil || same || !bytes.Contains(b, []byte("refused")) {
		t.Errorf("changed verdict: got %s, %t, %v", b, same, err)
	}
}

func TestNeedsTheRightTrustBundle(t *testing.T) {
	t.Parallel()
	other := verifytest.New()
	trust := other.Trust
	trust.ServerCA = shared().Trust.ServerCA // the right server, other offline roots
	got := verify.Report(shared().Sign(shared().Report()), trust, verify.Options{})
	if step, _ := failing(got); step != verify.StepMetadata {
		t.Errorf("got failing step %q, want metadata", step)
	}
	pool := x509.NewCertPool()
	got = verify.Report(other.Sign(other.Report()), shared().Trust, verify.Options{EKRoots: pool})
	if step, _ := failing(got); step != verify.StepSignature {
		t.Errorf("got failing step %q, want signature", step)
	}
}

func FuzzDecode(f *testing.F) {
	r := shared().Report()
	f.Add(shared().Sign(r)[:4096])
	r.Appraisals, r.Logs, r.Releases, r.Image = r.Appraisals[:0], nil, nil, api.ImageMetadata{}
	f.Add(shared().Sign(r))
	f.Add([]byte(`{"report":{"version":1},"signature":{"certificate":"","signature":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := check(b); got.Outcome == verify.Verified {
			t.Error("it verified") // no seed does, and nobody else has the key
		}
	})
}
