package artifacts_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

func sum(s string) digest.SHA256 { return digest.Of([]byte(s)) }

func release() artifacts.Release {
	return artifacts.Release{
		Product: "thermostat", Version: "1.2.0", Counter: 12, Floor: 10, Requires: 8, MinimumTier: 3, Recovery: true,
		Components: []artifacts.Component{
			{
				Name: "system", HardwareIDs: []string{"rev-b", "rev-a"}, SHA256: sum("system"), Length: 6, Installer: "uki",
				ReferenceValues: sum("values"), ReferenceLength: 6,
				Deltas: []artifacts.Delta{{Base: sum("old"), SHA256: sum("patch"), Length: 5}},
			},
			{Name: "radio", HardwareIDs: []string{"rev-b"}, SHA256: sum("radio"), Length: 5, Installer: "script"},
		},
	}
}

func statement(t testing.TB) artifacts.Statement {
	t.Helper()
	s, err := artifacts.NewStatement(release())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func encode(t testing.TB, s artifacts.Statement) []byte {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStatementSurvivesEncoding(t *testing.T) {
	t.Parallel()
	want := statement(t)
	b := encode(t, want)
	got, err := artifacts.DecodeStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded statement (-want +got):\n%s", diff)
	}
	if again := encode(t, got); !bytes.Equal(again, b) {
		t.Errorf("encoded twice: got %s, want %s", again, b)
	}
	if name := got.Subject[1].Name; name != "thermostat/1.2.0/radio" {
		t.Errorf("subject: got %q, want the target path", name)
	}
}

func TestNewStatementRefusesBrokenReleases(t *testing.T) {
	t.Parallel()
	type breaker = func(*artifacts.Release)
	tests := map[string]struct {
		spoil breaker
		words string
	}{
		"product name":         {func(r *artifacts.Release) { r.Product = "../x" }, "product"},
		"upper-case version":   {func(r *artifacts.Release) { r.Version = "V1" }, "version"},
		"empty version":        {func(r *artifacts.Release) { r.Version = "" }, "version"},
		"counter 0":            {func(r *artifacts.Release) { r.Counter, r.Floor, r.Requires = 0, 0, 0 }, "counter is 0"},
		"counter too high":     {func(r *artifacts.Release) { r.Counter = artifacts.MaxCounter + 1 }, "counter is"},
		"floor above":          {func(r *artifacts.Release) { r.Floor = 13 }, "floor"},
		"requires itself":      {func(r *artifacts.Release) { r.Requires = 12 }, "requires"},
		"tier below":           {func(r *artifacts.Release) { r.MinimumTier = -1 }, "minimum_tier"},
		"tier above":           {func(r *artifacts.Release) { r.MinimumTier = 6 }, "minimum_tier"},
		"no components":        {func(r *artifacts.Release) { r.Components = nil }, "components"},
		"component twice":      {func(r *artifacts.Release) { r.Components[1].Name = "system" }, "twice"},
		"component with slash": {func(r *artifacts.Release) { r.Components[1].Name = "a/b" }, "name"},
		"no hardware":          {func(r *artifacts.Release) { r.Components[0].HardwareIDs = nil }, "hardware"},
		"empty hardware":       {func(r *artifacts.Release) { r.Components[0].HardwareIDs = []string{""} }, "hardware"},
		"hardware twice":       {func(r *artifacts.Release) { r.Components[0].HardwareIDs = []string{"a", "a"} }, "twice"},
		"zero digest":          {func(r *artifacts.Release) { r.Components[0].SHA256 = digest.SHA256{} }, "zero"},
		"length 0":             {func(r *artifacts.Release) { r.Components[0].Length = 0 }, "length"},
		"length above":         {func(r *artifacts.Release) { r.Components[0].Length = artifacts.MaxImageBytes + 1 }, "length"},
		"installer":            {func(r *artifacts.Release) { r.Components[0].Installer = "sh -c" }, "installer"},
		"values, no length":    {func(r *artifacts.Release) { r.Components[0].ReferenceLength = 0 }, "together"},
		"length, no values":    {func(r *artifacts.Release) { r.Components[1].ReferenceLength = 1 }, "together"},
		"negative values":      {func(r *artifacts.Release) { r.Components[0].ReferenceLength = -1 }, "reference_length"},
		"large values":         {func(r *artifacts.Release) { r.Components[0].ReferenceLength = artifacts.MaxReferenceBytes + 1 }, "reference_length"},
		"delta from itself":    {func(r *artifacts.Release) { r.Components[0].Deltas[0].Base = sum("system") }, "delta"},
		"delta zero":           {func(r *artifacts.Release) { r.Components[0].Deltas[0].SHA256 = digest.SHA256{} }, "delta"},
		"delta length":         {func(r *artifacts.Release) { r.Components[0].Deltas[0].Length = 0 }, "delta"},
		"delta base twice": {func(r *artifacts.Release) {
			r.Components[0].Deltas = append(r.Components[0].Deltas, r.Components[0].Deltas[0])
		}, "delta"},
		"too many components": {func(r *artifacts.Release) {
			for i := range artifacts.MaxComponents {
				c := r.Components[1]
				c.Name = fmt.Sprintf("c%d", i)
				r.Components = append(r.Components, c)
			}
		}, "components"},
		"too many hardware ids": {func(r *artifacts.Release) {
			for i := range artifacts.MaxHardwareIDs {
				r.Components[0].HardwareIDs = append(r.Components[0].HardwareIDs, fmt.Sprintf("h%d", i))
			}
		}, "hardware"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := release()
			test.spoil(&r)
			_, err := artifacts.NewStatement(r)
			if !errors.Is(err, artifacts.ErrStatement) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v, want %v with %q", err, artifacts.ErrStatement, test.words)
			}
			// The decoder holds the same rules: a publisher need not use our constructor.
			s := statement(t)
			s.Predicate = r
			s.Subject = nil
			for _, c := range r.Components {
				s.Subject = append(s.Subject, artifacts.Subject{Name: artifacts.TargetPath(r.Product, r.Version, c.Name), Digest: artifacts.SubjectDigest{SHA256: c.SHA256}})
			}
			raw, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := artifacts.DecodeStatement(raw); !errors.Is(err, artifacts.ErrStatement) {
				t.Errorf("decoder: got %v, want %v", err, artifacts.ErrStatement)
			}
		})
	}
}

func TestDecodeStatementIsStrict(t *testing.T) {
	t.Parallel()
	good := string(encode(t, statement(t)))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the statement", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := map[string]string{
		"empty":            "",
		"null":             "null",
		"array":            "[]",
		"trailing":         good + "{}",
		"trailing space":   good + "\n",
		"unknown":          replace(`{"_type"`, `{"extra":1,"_type"`),
		"unknown deep":     replace(`"installer":"uki"`, `"installer":"uki","run":"x"`),
		"repeated":         replace(`"counter":12`, `"counter":12,"counter":13`),
		"other case":       replace(`"counter"`, `"Counter"`),
		"other order":      replace(`"counter":12,"floor":10`, `"floor":10,"counter":12`),
		"missing member":   replace(`"floor":10,`, ``),
		"null member":      replace(`"floor":10`, `"floor":null`),
		"number as text":   replace(`"counter":12`, `"counter":"12"`),
		"number as float":  replace(`"counter":12`, `"counter":12.0`),
		"upper-case hex":   replace(sum("system").String(), strings.ToUpper(sum("system").String())),
		"other type":       replace(artifacts.StatementType, "https://in-toto.io/Statement/v0.1"),
		"other predicate":  replace(artifacts.PredicateType, "https://slsa.dev/provenance/v1"),
		"subject name":     replace(`"name":"thermostat/1.2.0/radio"`, `"name":"thermostat/1.2.1/radio"`),
		"subject digest":   replace(`"digest":{"sha256":"`+sum("radio").String(), `"digest":{"sha256":"`+sum("other").String()),
		"second algorithm": replace(`"digest":{`, `"digest":{"sha512":"00",`),
		"no subjects":      replace(good[strings.Index(good, `"subject":[`):strings.Index(good, `,"predicateType"`)], `"subject":[]`),
		"oversized":        good + strings.Repeat(" ", artifacts.MaxStatementBytes),
	}
	for name, b := range tests {
		if _, err := artifacts.DecodeStatement([]byte(b)); !errors.Is(err, artifacts.ErrStatement) {
			t.Errorf("%s: got %v, want %v", name, err, artifacts.ErrStatement)
		}
	}
}

func TestEncodeRefusesOversizedStatement(t *testing.T) {
	t.Parallel()
	r := release()
	for i := range artifacts.MaxComponents - 2 {
		c := r.Components[1]
		c.Name, c.HardwareIDs = fmt.Sprintf("c%d", i), nil
		for j := range artifacts.MaxHardwareIDs {
			c.HardwareIDs = append(c.HardwareIDs, fmt.Sprintf("h%02d%s", j, strings.Repeat("x", 60)))
		}
		r.Components = append(r.Components, c)
	}
	s, err := artifacts.NewStatement(r)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Encode(); !errors.Is(err, artifacts.ErrStatement) {
		t.Errorf("got %d bytes, %v, want %v", len(b), err, artifacts.ErrStatement)
	}
}

func FuzzDecodeStatement(f *testing.F) {
	f.Add(encode(f, statement(f)))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":null,"predicate":{"components":[{}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := artifacts.DecodeStatement(b)
		if err != nil {
			if !errors.Is(err, artifacts.ErrStatement) {
				t.Errorf("got %v, want %v", err, artifacts.ErrStatement)
			}
			return
		}
		if again := encode(t, s); !bytes.Equal(again, b) {
			t.Errorf("two byte forms of one statement: %s and %s", b, again)
		}
	})
}
