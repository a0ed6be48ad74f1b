package ceremony_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/signer/ceremony"
)

// Verifier keys whose secrets nobody has.
const (
	logKey     = "ota.example/log+c7996195+AVHu8qMLAwopfEvAJcNXm6EfsxsYhc+Twy+ilXPnfOGs"
	witnessKey = "w1.example+867ccc0b+BIIfZ9ZWfxf0/6MaOVal6Dkf8buiRumfvfwzvJfp9bbL"
	otherKey   = "w2.example+855184e7+BEGcYeeMkVgJhEkJCw1muzypBB72LFST3z2wMMogifag"
)

func logPolicy() tlog.Policy {
	return tlog.Policy{
		Origin: "ota.example/log", LogKey: logKey, Quorum: 1,
		Witnesses: []tlog.Witness{{Name: "one", Key: witnessKey, URL: "https://w1.example"}},
	}
}

func TestLogPolicyIsSignedAndKept(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	if _, err := d.Log(); !errors.Is(err, ceremony.ErrNoLog) {
		t.Errorf("Log() error = %v, want ErrNoLog", err)
	}
	if _, err := d.SetLog(logPolicy(), expires); err != nil {
		t.Fatal(err)
	}
	if again, err := d.SetLog(logPolicy(), expires); err != nil || again.Changed {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	if _, err := d.SetPolicy(policy(t), expires); err != nil { // another change keeps it
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	b, err := os.ReadFile(filepath.Join(path, "current", "files", "witness", "log.json"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := tlog.DecodePolicy(b); err != nil || p.LogKey != logKey {
		t.Errorf("current log policy is %+v, %v", p, err)
	}
	bad := logPolicy()
	bad.Quorum = 2
	if _, err := d.SetLog(bad, expires); !errors.Is(err, tlog.ErrPolicy) {
		t.Errorf("quorum above the witnesses: %v, want ErrPolicy", err)
	}
}

// A file that no reader takes must not be signed, even when somebody wrote it into the pending files by hand.
func TestRefusesAWitnessFileThatNobodyReads(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"witness/log.json": `{"version":1}`, "witness/other.json": `{}`} {
		d, path, alice, _ := begin(t)
		if _, err := d.SetLog(logPolicy(), expires); err != nil {
			t.Fatal(err)
		}
		doc, err := os.ReadFile(filepath.Join(path, "pending", ceremony.Targets))
		if err != nil {
			t.Fatal(err)
		}
		spec, err := tufrepo.ParseTargets(doc)
		if err != nil {
			t.Fatal(err)
		}
		spec.Files[name] = tufrepo.File{Length: int64(len(text)), SHA256: digest.Of([]byte(text))}
		if doc, err = tufrepo.TargetsPayload(spec); err != nil {
			t.Fatal(err)
		}
		for file, b := range map[string][]byte{ceremony.Targets: doc, "files/" + name: []byte(text)} {
			if err := os.WriteFile(filepath.Join(path, "pending", file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if signed, err := d.Sign(alice.key); !errors.Is(err, ceremony.ErrInvalid) {
			t.Errorf("%s: signed %v, %v; want ErrInvalid", name, signed, err)
		}
	}
}

// A thief of the server need not take a witness away: those that it adds are as good, when the quorum stays what it was.
func TestReviewWarnsOfWitnessesThatAreAdded(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	if _, err := d.SetLog(logPolicy(), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	more := logPolicy()
	more.Witnesses = append(more.Witnesses, tlog.Witness{Name: "thief", Key: otherKey, URL: "https://w2.example"})
	if _, err := d.SetLog(more, expires); err != nil {
		t.Fatal(err)
	}
	text, err := d.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"! HALF OF THE WITNESSES IS ENOUGH: 1 of 2, before 1 of 1", "! NEW WITNESSES ALONE MAKE THE QUORUM: 1 of them, and 1 have", "TWO HISTORIES CAN EACH HAVE A QUORUM"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestReviewWarnsWhenTheLogLosesProtection(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	if _, err := d.SetLog(logPolicy(), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	weak := logPolicy()
	weak.Origin, weak.LogKey = "ota.example/log2", "ota.example/log2+b1327c70+AdqEd+V5RML/2eu1wPOqjDc8S0AwiwRt+QNDQoIu3/LT"
	weak.Witnesses, weak.Quorum = []tlog.Witness{}, 0
	if _, err := d.SetLog(weak, expires); err != nil {
		t.Fatal(err)
	}
	text, err := d.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"! THE LOG KEY CHANGES", "! FEWER WITNESSES HAVE TO AGREE: 0, before 1", "! A WITNESS GOES AWAY: one", weak.LogKey, logKey} {
		if !strings.Contains(text, want) {
			t.Errorf("the review does not say %q:\n%s", want, text)
		}
	}

	// taking the whole policy away is a change by hand; it is said too
	doc, err := os.ReadFile(filepath.Join(path, "pending", ceremony.Targets))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := tufrepo.ParseTargets(doc)
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Files, tlog.PolicyPath)
	if doc, err = tufrepo.TargetsPayload(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "pending", ceremony.Targets), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(path, "pending", "files", "witness", "log.json")); err != nil {
		t.Fatal(err)
	}
	if text, err = d.Show(); err != nil || !strings.Contains(text, "! THE LOG POLICY GOES AWAY") {
		t.Errorf("the review does not say that the policy goes away: %v\n%s", err, text)
	}
}
