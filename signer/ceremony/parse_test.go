package ceremony_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/signer/ceremony"
)

const (
	pcr0 = "177e29c417b6b61c7cf46ed30b4468931f58642527a268b556254e39b941ec6a"
	pcr7 = "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"
)

const tpm2PCRRead = "  sha1:\n    0 : 0x0F2D3A2A1ADAA479AEECA8F5DF76AADC41B862EA\n  sha256:\n    0 : 0x" + pcr0 + "\n    7 : 0x" + pcr7 + "\n"

func TestParsePCRs(t *testing.T) {
	t.Parallel()
	want := map[int]digest.SHA256{}
	for index, text := range map[int]string{0: pcr0, 7: pcr7} {
		d, err := digest.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		want[index] = d
	}
	for name, text := range map[string]string{
		"tpm2_pcrread":  tpm2PCRRead,
		"upper case":    strings.ToUpper(strings.ReplaceAll(strings.ReplaceAll(tpm2PCRRead, "0x", ""), "sha1", "sha1")),
		"one per line":  "SHA256 PCR00 " + pcr0 + "\nSHA256 PCR07 " + pcr7 + "\n",
		"bare":          "# boot of today\n0 " + pcr0 + "\n7: " + pcr7,
		"windows lines": "0 " + pcr0 + "\r\n7 " + pcr7 + "\r\n",
	} {
		got, err := ceremony.ParsePCRs([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	got, err := ceremony.ParsePCRsJSON([]byte(`{"events":[],"pcrs":{"sha256":{"0":"` + pcr0 + `","7":"` + pcr7 + `"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParsePCRsRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":        "",
		"other bank":     "sha1:\n 0 : 0x0F2D3A2A1ADAA479AEECA8F5DF76AADC41B862EA\n",
		"twice":          "0 " + pcr0 + "\n0 " + pcr7,
		"no such PCR":    "24 " + pcr0,
		"not a value":    "0 " + pcr0[1:],
		"something else": "hello",
	} {
		if _, err := ceremony.ParsePCRs([]byte(text)); !errors.Is(err, ceremony.ErrPCRs) {
			t.Errorf("%s: error = %v, want ErrPCRs", name, err)
		}
	}
}

const policyTOML = `product = "gateway"
threshold = 1
approvals = 1
minimum_counter = 3
secure_boot = true

[[publisher]]
name = "ci"
issuer = "https://token.actions.githubusercontent.com"
subject = "https://github.com/acme/gateway/.github/workflows/release.yml@refs/heads/main"
source_repository = "https://github.com/acme/gateway"
refs = ["refs/heads/main"]
`

func noKey(string) (string, error) { return "", errors.New("no key file expected") }

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	got, err := ceremony.ParsePolicy([]byte(policyTOML), noKey)
	if err != nil {
		t.Fatal(err)
	}
	want := artifacts.Policy{
		Version: 1, Product: "gateway", Threshold: 1, Approvals: 1, MinimumCounter: 3, SecureBoot: true,
		Publishers: []artifacts.Publisher{{
			Name: "ci", Issuer: "https://token.actions.githubusercontent.com",
			Subject:          "https://github.com/acme/gateway/.github/workflows/release.yml@refs/heads/main",
			SourceRepository: "https://github.com/acme/gateway", Refs: []string{"refs/heads/main"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown key":           policyTOML + "colour = \"red\"\n",
		"withdrawn in the file": "withdrawn = []\n" + policyTOML,
		"key twice":             "product = \"x\"\n" + policyTOML,
		"no publisher":          "product = \"gateway\"\n",
		"threshold too high":    strings.Replace(policyTOML, "threshold = 1", "threshold = 2", 1),
		"wrong type":            strings.Replace(policyTOML, "threshold = 1", "threshold = \"1\"", 1),
		"too large":             policyTOML + strings.Repeat("#", artifacts.MaxPolicyBytes),
	} {
		if _, err := ceremony.ParsePolicy([]byte(text), noKey); !errors.Is(err, artifacts.ErrPolicy) {
			t.Errorf("%s: error = %v, want ErrPolicy", name, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(policyTOML))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ceremony.ParsePolicy(b, noKey)
		if err == nil && p.Validate() != nil {
			t.Errorf("ParsePolicy let an invalid policy through: %v", p)
		}
	})
}

func FuzzParsePCRs(f *testing.F) {
	f.Add([]byte(tpm2PCRRead))
	f.Add([]byte(`{"pcrs":{"sha256":{"0":"` + pcr0 + `"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (map[int]digest.SHA256, error){ceremony.ParsePCRs, ceremony.ParsePCRsJSON} {
			if got, err := parse(b); (err == nil) != (len(got) > 0) {
				t.Errorf("%d values and error %v", len(got), err)
			}
		}
	})
}

func FuzzDecodeSignature(f *testing.F) {
	f.Add([]byte(`{"document":"targets.json","payload_sha256":"` + pcr0 + `","key_id":"` + pcr7 + `","signature":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := ceremony.DecodeSignature(b); err != nil && !errors.Is(err, ceremony.ErrInvalid) {
			t.Errorf("error = %v, want ErrInvalid", err)
		}
	})
}
