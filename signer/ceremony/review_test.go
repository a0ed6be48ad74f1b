package ceremony_test

import (
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/signer/ceremony"
)

// One holder, below the threshold, edits what the others see as unchanged, so that an own publisher is in the pending
// policy and no difference shows it.
func TestNothingHidesInWhatIsShownAsUnchanged(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	if _, err := d.SetPolicy(policy(t), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	evil, err := policy(t).Encode() // with another key
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(path, "current", ceremony.Targets))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := tufrepo.ParseTargets(doc)
	if err != nil {
		t.Fatal(err)
	}
	name := artifacts.PolicyPath("gateway")
	spec.Files[name] = tufrepo.File{Length: int64(len(evil)), SHA256: digest.Of(evil)}
	forged, err := tufrepo.TargetsPayload(spec)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{ceremony.Targets: forged, "files/" + name: evil} {
		if err := os.WriteFile(filepath.Join(path, "current", file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if d, err = ceremony.Open(path); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Withdraw("gateway", digest.Of([]byte("a bad image")), expires); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Review(); !errors.Is(err, ceremony.ErrTampered) {
		t.Errorf("Review = %v, want ErrTampered; it shows\n%s", err, r.Text)
	}
	if signed, err := d.Sign(bob.key); err == nil {
		t.Errorf("bob signed %v", signed)
	}
}

// A forged base that is consistent needs a root of its own; the text names the root that it counts from.
func TestReviewNamesWhatItComparesWith(t *testing.T) {
	t.Parallel()
	d, path, alice, bob := begin(t)
	if _, err := d.SetPolicy(policy(t), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	if _, err := d.Withdraw("gateway", digest.Of([]byte("a bad image")), expires); err != nil {
		t.Fatal(err)
	}
	r, err := d.Review()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{ceremony.ImageRoot, ceremony.Targets} {
		b, err := os.ReadFile(filepath.Join(path, "current", file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.Text, digest.Of(b).String()) {
			t.Errorf("the text does not name the SHA-256 of %s:\n%s", file, r.Text)
		}
	}
	for _, h := range []crypto.Signer{alice.key, bob.key} {
		if _, err := d.Sign(h); err != nil {
			t.Error(err)
		}
	}
}

// A reusable workflow runs for whoever calls it, under its own subject; only the repository tells them apart.
func TestReviewSaysWhenAnyRepositoryMayPublish(t *testing.T) {
	t.Parallel()
	const shout = "FROM ANY REPOSITORY"
	pipeline := artifacts.Publisher{Name: "ci", Issuer: "https://ci.example", Subject: "https://ci.example/acme/shared/release.yml@refs/heads/main"}
	person := artifacts.Publisher{Name: "ann", Issuer: "https://id.example", Subject: "ann@example.org"}
	bound := pipeline
	bound.SourceRepository = "https://ci.example/acme/firmware"
	for _, c := range []struct {
		publisher artifacts.Publisher
		want      bool
	}{{pipeline, true}, {person, false}, {bound, false}} {
		text := strings.Join(ceremony.DescribePolicy(artifacts.Policy{Publishers: []artifacts.Publisher{c.publisher}}), "\n")
		if got := strings.Contains(text, shout); got != c.want {
			t.Errorf("%s: got %t, want %t:\n%s", c.publisher.Subject, got, c.want, text)
		}
	}
}
