package ceremony_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/signer/ceremony"
	"github.com/cordon-ota/cordon/signer/keys"
)

const signersTOML = `
product = "gateway"
baseline_threshold = 2
[[publisher]]
name = "ci"
key_file = "ci.pub.pem"
[[baseline_signer]]
name = "platform"
key_file = "platform.pub.pem"
[[baseline_signer]]
name = "lab"
issuer = "https://ci.example"
subject = "https://ci.example/platform.yml@refs/heads/main"
`

func TestPolicyFileNamesBaselineSigners(t *testing.T) {
	t.Parallel()
	pems := map[string]string{}
	load := func(name string) (string, error) {
		if pems[name] == "" {
			text, err := keys.EncodePublic(publisherKey(t).Public())
			if err != nil {
				return "", err
			}
			pems[name] = string(text)
		}
		return pems[name], nil
	}
	p, err := ceremony.ParsePolicy([]byte(signersTOML), load)
	if err != nil {
		t.Fatal(err)
	}
	b := p.Baselines
	if b == nil || b.Threshold != 2 || len(b.Signers) != 2 || b.Signers[0].KeyPEM != pems["platform.pub.pem"] || b.Signers[1].Issuer == "" || len(p.Publishers) != 1 {
		t.Fatalf("got %+v", p)
	}
	told := strings.Join(ceremony.DescribePolicy(p), "\n")
	if !strings.Contains(told, "2 of 2 baseline signers must have signed") || !strings.Contains(told, "baseline signer platform: ") {
		t.Errorf("the holders are not told who signs baselines:\n%s", told)
	}
	for name, change := range map[string][2]string{
		"threshold above": {"baseline_threshold = 2", "baseline_threshold = 3"},
		"threshold 0":     {"baseline_threshold = 2", "baseline_threshold = 0"},
		"unknown key":     {"baseline_threshold = 2", "baseline_treshold = 2"},
		"nobody":          {"[[baseline_signer]]", "[[publisher]]"},
	} {
		if _, err := ceremony.ParsePolicy([]byte(strings.ReplaceAll(signersTOML, change[0], change[1])), load); !errors.Is(err, artifacts.ErrPolicy) {
			t.Errorf("%s: got %v, want ErrPolicy", name, err)
		}
	}
}

func TestBaselineIsTakenAway(t *testing.T) {
	t.Parallel()
	d, _, alice, bob := begin(t)
	if _, err := d.SetPolicy(policy(t), expires); err != nil {
		t.Fatal(err)
	}
	quoted := map[int]digest.SHA256{}
	for _, pcr := range reference.PlatformPCRs() {
		quoted[pcr] = digest.Of([]byte{byte(pcr)})
	}
	if _, err := d.SetBaseline("gateway", reference.LearnBaseline("board-a", quoted), expires); err != nil {
		t.Fatal(err)
	}
	sign(t, d, alice, bob)
	apply(t, d)
	change, err := d.RemoveBaseline("gateway", "board-a", expires)
	if err != nil || !change.Changed {
		t.Fatalf("got %+v, %v", change, err)
	}
	text, err := d.Show()
	if err != nil || !strings.Contains(text, "- baseline/gateway/board-a.json") {
		t.Errorf("the holders are not told, %v:\n%s", err, text)
	}
	if change, err := d.RemoveBaseline("gateway", "board-a", expires); err != nil || change.Changed {
		t.Errorf("again: got %+v, %v", change, err)
	}
	if _, err := d.RemoveBaseline("unknown", "board-a", expires); !errors.Is(err, ceremony.ErrNoPolicy) {
		t.Errorf("unknown product: got %v, want ErrNoPolicy", err)
	}
}
