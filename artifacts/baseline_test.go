package artifacts_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

func platformOf(state string) []reference.Platform {
	var out []reference.Platform
	for _, pcr := range reference.PlatformPCRs() {
		out = append(out, reference.Platform{Index: pcr, Value: digest.Of([]byte{byte(pcr), state[0]})})
	}
	return out
}

func platformBaseline() artifacts.PlatformBaseline {
	return artifacts.PlatformBaseline{Product: "thermostat", Profile: "board-a", Generation: 3, Sets: []artifacts.BaselineSet{
		{Name: "g3", Source: artifacts.BaselineLearned, PCRs: platformOf("b"), Devices: []artifacts.BaselineDevice{
			{Device: "aaaa", Evidence: sum("evidence a"), Log: sum("log a")}, {Device: "bbbb", Evidence: sum("evidence b"), Log: sum("log b")},
		}},
		{Name: "bios-1.0", Source: artifacts.BaselineVendor, Origin: "the vendor's sheet, page 7", PCRs: platformOf("a")},
	}}
}

func baselineBytes(t testing.TB, b artifacts.PlatformBaseline) []byte {
	t.Helper()
	s, err := artifacts.NewBaselineStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBaselineStatementSurvivesEncoding(t *testing.T) {
	t.Parallel()
	want := platformBaseline()
	s, err := artifacts.DecodeBaselineStatement(baselineBytes(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, s.Predicate); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	doc, err := s.Predicate.Baseline().Encode()
	if err != nil || s.Subject[0].Digest.SHA256 != digest.Of(doc) || s.Subject[0].Name != "baseline/thermostat/board-a.json" {
		t.Errorf("subject: %+v, %v", s.Subject, err)
	}
}

func TestBaselineStatementRefusesBrokenRules(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*artifacts.PlatformBaseline){
		"no product":            func(b *artifacts.PlatformBaseline) { b.Product = "" },
		"path in the profile":   func(b *artifacts.PlatformBaseline) { b.Profile = "../x" },
		"generation 0":          func(b *artifacts.PlatformBaseline) { b.Generation = 0 },
		"endless generation":    func(b *artifacts.PlatformBaseline) { b.Generation = 1 << 60 },
		"no sets":               func(b *artifacts.PlatformBaseline) { b.Sets = nil },
		"set without name":      func(b *artifacts.PlatformBaseline) { b.Sets[0].Name = "" },
		"sets of one name":      func(b *artifacts.PlatformBaseline) { b.Sets[1].Name = "g3" },
		"sets of one state":     func(b *artifacts.PlatformBaseline) { b.Sets[1].PCRs = b.Sets[0].PCRs },
		"without PCR 7":         func(b *artifacts.PlatformBaseline) { b.Sets[0].PCRs = b.Sets[0].PCRs[:3] },
		"learned from nobody":   func(b *artifacts.PlatformBaseline) { b.Sets[0].Devices = nil },
		"vendor with devices":   func(b *artifacts.PlatformBaseline) { b.Sets[1].Devices = b.Sets[0].Devices },
		"unknown source":        func(b *artifacts.PlatformBaseline) { b.Sets[1].Source = "guessed" },
		"one device twice":      func(b *artifacts.PlatformBaseline) { b.Sets[0].Devices[1].Device = "aaaa" },
		"devices out of order":  func(b *artifacts.PlatformBaseline) { b.Sets[0].Devices[0].Device = "cccc" },
		"device without log":    func(b *artifacts.PlatformBaseline) { b.Sets[0].Devices[0].Log = digest.SHA256{} },
		"origin moves a cursor": func(b *artifacts.PlatformBaseline) { b.Sets[1].Origin = "\x1b[2J" },
		"long origin":           func(b *artifacts.PlatformBaseline) { b.Sets[1].Origin = strings.Repeat("x", 257) },
	} {
		b := platformBaseline()
		change(&b)
		if _, err := artifacts.NewBaselineStatement(b); !errors.Is(err, artifacts.ErrBaseline) {
			t.Errorf("%s: got %v, want ErrBaseline", name, err)
		}
	}
}

// The subject is what other verifiers look at: it has to be the document that counts.
func TestBaselineStatementIsStrict(t *testing.T) {
	t.Parallel()
	good := baselineBytes(t, platformBaseline())
	for name, b := range map[string][]byte{
		"other predicate type": bytes.Replace(good, []byte("/baseline/v1"), []byte("/release/v1"), 1),
		"unknown member":       bytes.Replace(good, []byte(`"generation"`), []byte(`"note":"x","generation"`), 1),
		"a space":              append([]byte(" "), good...),
		"trailing bytes":       append(bytes.Clone(good), '{'),
		"other generation":     nil,
		"other values":         bytes.Replace(good, []byte(platformOf("a")[0].Value.String()), []byte(platformOf("c")[0].Value.String()), 1),
		"subject of another":   bytes.Replace(good, []byte(`"baseline/thermostat/board-a.json"`), []byte(`"baseline/thermostat/board-b.json"`), 1),
	} {
		if _, err := artifacts.DecodeBaselineStatement(b); !errors.Is(err, artifacts.ErrBaseline) {
			t.Errorf("%s: got %v, want ErrBaseline", name, err)
		}
	}
}

func TestPolicyNamesBaselineSigners(t *testing.T) {
	t.Parallel()
	p := policy(t)
	p.Baselines = &artifacts.BaselinePolicy{Signers: []artifacts.Publisher{{Name: "platform", KeyPEM: publicKey(t, "P-256")}, keyless()}, Threshold: 2}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := artifacts.DecodePolicy(b)
	if err != nil || cmp.Diff(p, got) != "" {
		t.Errorf("decoded: %v\n%s", err, cmp.Diff(p, got))
	}
	for name, change := range map[string]func(*artifacts.BaselinePolicy){
		"no signers":    func(b *artifacts.BaselinePolicy) { b.Signers = nil },
		"threshold 0":   func(b *artifacts.BaselinePolicy) { b.Threshold = 0 },
		"threshold 3":   func(b *artifacts.BaselinePolicy) { b.Threshold = 3 },
		"one key twice": func(b *artifacts.BaselinePolicy) { b.Signers[1] = b.Signers[0]; b.Signers[1].Name = "again" },
		"weak key":      func(b *artifacts.BaselinePolicy) { b.Signers[0].KeyPEM = publicKey(t, "Ed25519") },
		"nobody at all": func(b *artifacts.BaselinePolicy) { *b = artifacts.BaselinePolicy{} },
		"nameless":      func(b *artifacts.BaselinePolicy) { b.Signers[0].Name = "" },
		"any at issuer": func(b *artifacts.BaselinePolicy) { b.Signers[1].Subject = "" },
	} {
		broken := p
		signers := *p.Baselines
		signers.Signers = append([]artifacts.Publisher{}, p.Baselines.Signers...)
		broken.Baselines = &signers
		change(&signers)
		if err := broken.Validate(); !errors.Is(err, artifacts.ErrPolicy) {
			t.Errorf("%s: got %v, want ErrPolicy", name, err)
		}
	}
}

func FuzzDecodeBaselineStatement(f *testing.F) {
	f.Add(baselineBytes(f, platformBaseline()))
	one := platformBaseline()
	one.Sets = one.Sets[1:]
	f.Add(baselineBytes(f, one))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := artifacts.DecodeBaselineStatement(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("two byte forms of one statement: %v", err)
		}
	})
}
