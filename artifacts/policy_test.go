package artifacts_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// publicKey makes a key of the named kind and returns it as PEM.
func publicKey(t testing.TB, kind string) string {
	t.Helper()
	var public any
	var err error
	switch kind {
	case "P-256":
		var key *ecdsa.PrivateKey
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		public = key.Public()
	case "P-384":
		var key *ecdsa.PrivateKey
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		public = key.Public()
	default:
		public, _, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func keyless() artifacts.Publisher {
	return artifacts.Publisher{Name: "ci", Issuer: "https://ci.example", Subject: "https://ci.example/release.yml@refs/tags/v1",
		SourceRepository: "https://ci.example/acme/firmware", Refs: []string{"refs/tags/v1"}}
}

func policy(t testing.TB) artifacts.Policy {
	t.Helper()
	return artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: "thermostat", Threshold: 2, MinimumCounter: 3, MinimumTier: 1,
		Publishers: []artifacts.Publisher{{Name: "vendor", KeyPEM: publicKey(t, "P-256")}, keyless()},
		Withdrawn:  []digest.SHA256{sum("bad")}, Recovery: []digest.SHA256{sum("system"), sum("radio")},
		Approvals: 2, SecureBoot: true, RequiredPCRs: []int{0, 7, 11},
	}
}

func TestPolicySurvivesEncoding(t *testing.T) {
	t.Parallel()
	want := policy(t)
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := artifacts.DecodePolicy(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded policy (-want +got):\n%s", diff)
	}
}

func TestPolicyRefusesBrokenRules(t *testing.T) {
	t.Parallel()
	second := func(f func(*artifacts.Publisher)) func(*artifacts.Policy) {
		return func(p *artifacts.Policy) {
			q := keyless()
			q.Name = "second"
			f(&q)
			p.Publishers = append(p.Publishers, q)
		}
	}
	first := func(f func(*artifacts.Publisher)) func(*artifacts.Policy) {
		return func(p *artifacts.Policy) { f(&p.Publishers[0]) }
	}
	tests := map[string]struct {
		spoil func(*artifacts.Policy)
		words string
	}{
		"zero":            {func(p *artifacts.Policy) { *p = artifacts.Policy{} }, "version"},
		"version":         {func(p *artifacts.Policy) { p.Version = 2 }, "version"},
		"product":         {func(p *artifacts.Policy) { p.Product = "A" }, "product"},
		"no publishers":   {func(p *artifacts.Policy) { p.Publishers = nil }, "publishers"},
		"threshold 0":     {func(p *artifacts.Policy) { p.Threshold = 0 }, "threshold"},
		"threshold above": {func(p *artifacts.Policy) { p.Threshold = 3 }, "threshold"},
		"counter above":   {func(p *artifacts.Policy) { p.MinimumCounter = artifacts.MaxCounter + 1 }, "minimum_counter"},
		"approvals below": {func(p *artifacts.Policy) { p.Approvals = -1 }, "approvals"},
		"approvals above": {func(p *artifacts.Policy) { p.Approvals = 5 }, "approvals"},
		"tier":            {func(p *artifacts.Policy) { p.MinimumTier = 6 }, "minimum_tier"},
		"PCR 16":          {func(p *artifacts.Policy) { p.RequiredPCRs = []int{16} }, "required_pcrs"},
		"PCR -1":          {func(p *artifacts.Policy) { p.RequiredPCRs = []int{-1} }, "required_pcrs"},
		"PCRs falling":    {func(p *artifacts.Policy) { p.RequiredPCRs = []int{7, 0} }, "required_pcrs"},
		"PCR twice":       {func(p *artifacts.Policy) { p.RequiredPCRs = []int{7, 7} }, "required_pcrs"},
		"zero withdrawn":  {func(p *artifacts.Policy) { p.Withdrawn = []digest.SHA256{{}} }, "withdrawn"},
		"recovery twice":  {func(p *artifacts.Policy) { p.Recovery = append(p.Recovery, p.Recovery[0]) }, "recovery"},
		"publisher name":  {first(func(p *artifacts.Publisher) { p.Name = "" }), "name"},
		"publisher twice": {second(func(p *artifacts.Publisher) { p.Name, p.Subject = "ci", "other" }), "twice"},
		"neither":         {first(func(p *artifacts.Publisher) { p.KeyPEM = "" }), "needs"},
		"issuer only":     {second(func(p *artifacts.Publisher) { p.Subject = "" }), "needs"},
		"subject only":    {second(func(p *artifacts.Publisher) { p.Issuer = "" }), "needs"},
		"key and issuer":  {first(func(p *artifacts.Publisher) { p.Issuer = "x" }), "excludes"},
		"key and refs":    {first(func(p *artifacts.Publisher) { p.Refs = []string{"x"} }), "excludes"},
		"empty ref":       {second(func(p *artifacts.Publisher) { p.Subject, p.Refs = "s", []string{""} }), "ref"},
		"long subject":    {second(func(p *artifacts.Publisher) { p.Subject = strings.Repeat("x", 3000) }), "bytes"},
		"key P-384":       {first(func(p *artifacts.Publisher) { p.KeyPEM = publicKey(t, "P-384") }), "P-256"},
		"key Ed25519":     {first(func(p *artifacts.Publisher) { p.KeyPEM = publicKey(t, "Ed25519") }), "P-256"},
		"two keys":        {first(func(p *artifacts.Publisher) { p.KeyPEM += p.KeyPEM }), "one PEM block"},
		"no PEM":          {first(func(p *artifacts.Publisher) { p.KeyPEM = "x" }), "one PEM block"},
		"same key twice":  {second(func(p *artifacts.Publisher) { *p = artifacts.Publisher{Name: "second"} }), "needs"},
		"same identity":   {second(func(*artifacts.Publisher) {}), "count twice"},
		"same, other ref": {second(func(p *artifacts.Publisher) { p.Refs = []string{"refs/heads/main"} }), "count twice"},
		"same, any repo":  {second(func(p *artifacts.Publisher) { p.SourceRepository = "" }), "count twice"},
		"same key, two names": {func(p *artifacts.Policy) {
			p.Publishers[1] = artifacts.Publisher{Name: "x", KeyPEM: "\n" + p.Publishers[0].KeyPEM}
		}, "count twice"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := policy(t)
			test.spoil(&p)
			err := p.Validate()
			if !errors.Is(err, artifacts.ErrPolicy) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v, want %v with %q", err, artifacts.ErrPolicy, test.words)
			}
			if b, err := p.Encode(); err == nil {
				t.Errorf("Encode gave %s", b)
			}
		})
	}
	ok := policy(t)
	second(func(p *artifacts.Publisher) { p.SourceRepository = "https://ci.example/acme/rebuild" })(&ok)
	if err := ok.Validate(); err != nil {
		t.Errorf("one workflow for two repositories: %v", err)
	}
}

func TestDecodePolicyIsStrict(t *testing.T) {
	t.Parallel()
	encoded, err := policy(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(encoded)
	for name, b := range map[string]string{
		"empty": "", "null": "null", "trailing": good + "x", "unknown": `{"extra":1,` + good[1:],
		"repeated": `{"threshold":1,` + good[1:], "other case": strings.Replace(good, `"threshold"`, `"Threshold"`, 1),
		"oversized": good + strings.Repeat(" ", artifacts.MaxPolicyBytes),
	} {
		if _, err := artifacts.DecodePolicy([]byte(b)); !errors.Is(err, artifacts.ErrPolicy) {
			t.Errorf("%s: got %v, want %v", name, err, artifacts.ErrPolicy)
		}
	}
}

func TestValidStoredNameAndNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a..b", "..", ".a", "-a", "A", "a/b", "a b", strings.Repeat("a", 64)} {
		if err := artifacts.ValidName(name); !errors.Is(err, artifacts.ErrName) {
			t.Errorf("ValidName(%q): got %v", name, err)
		}
	}
	if err := artifacts.ValidStoredName("image/1.root.json"); err != nil {
		t.Error(err)
	}
	if err := artifacts.ValidStoredName("image/../x"); !errors.Is(err, artifacts.ErrStoredName) {
		t.Errorf("got %v, want %v", err, artifacts.ErrStoredName)
	}
}

func FuzzDecodePolicy(f *testing.F) {
	b, err := policy(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"product":"a","publishers":[{"name":"a","key_pem":"-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n"}],"threshold":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := artifacts.DecodePolicy(b)
		if err != nil {
			if !errors.Is(err, artifacts.ErrPolicy) {
				t.Errorf("got %v, want %v", err, artifacts.ErrPolicy)
			}
			return
		}
		if p.Threshold < 1 || len(p.Publishers) < p.Threshold {
			t.Errorf("a policy that asks for nobody was accepted: %s", b)
		}
		once, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := artifacts.DecodePolicy(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("encoding is not stable: %s and %s, %v", once, twice, err)
		}
	})
}

func FuzzValidStoredName(f *testing.F) {
	f.Add("image/1.root.json")
	f.Add("../../x")
	f.Fuzz(func(t *testing.T, name string) {
		if artifacts.ValidStoredName(name) != nil {
			return
		}
		if clean := fmt.Sprintf("/%s/", name); strings.Contains(clean, "/../") || strings.Contains(clean, "/./") || strings.Contains(clean, "//") {
			t.Errorf("accepted %q", name)
		}
	})
}
