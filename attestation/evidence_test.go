package attestation_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

func goodEvidence() attestation.Evidence {
	in := scenario().Input()
	in.Evidence.Log = in.Log
	return in.Evidence
}

func TestEvidenceSurvivesItsWire(t *testing.T) {
	t.Parallel()
	want := goodEvidence()
	b, err := attestation.EncodeEvidence(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := attestation.DecodeEvidence(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDigestIgnoresTheLogOnly(t *testing.T) {
	t.Parallel()
	e := goodEvidence()
	want := attestation.DigestEvidence(e)
	e.Log = nil
	if got := attestation.DigestEvidence(e); got != want {
		t.Errorf("without log: got %s, want %s", got, want)
	}
	e.LogDigest[0] ^= 1
	if got := attestation.DigestEvidence(e); got == want {
		t.Error("another log digest gives the same digest")
	}
}

// marshalled is what DigestEvidence is defined by.
func marshalled(t *testing.T, e attestation.Evidence) digest.SHA256 {
	t.Helper()
	e.Log = nil
	b, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return digest.Of(b)
}

// Records name Evidence by the digest of its JSON. A field that is added to Evidence has to be written there as well.
func TestDigestIsThatOfTheJSON(t *testing.T) {
	t.Parallel()
	large := goodEvidence()
	large.Quote, large.Signature = bytes.Repeat([]byte{0xfb, 0xff}, 3000), make([]byte, 1)
	for range 100 {
		large.PCRs = append(large.PCRs, large.PCRs[0])
	}
	whole := reflect.New(reflect.TypeFor[attestation.Evidence]()).Elem()
	for i := range whole.NumField() {
		switch f := whole.Field(i); f.Kind() {
		case reflect.Int:
			f.SetInt(-7)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 2, 2))
		}
	}
	for name, e := range map[string]attestation.Evidence{
		"genuine": goodEvidence(), "empty": {}, "large": large, "every field": whole.Interface().(attestation.Evidence),
		"negative": {Version: math.MinInt, PCRs: []attestation.PCR{{Index: math.MaxInt}, {Index: -1}}},
	} {
		if got, want := attestation.DigestEvidence(e), marshalled(t, e); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func FuzzDigestEvidence(f *testing.F) {
	good := goodEvidence()
	f.Add(1, good.Quote, good.Signature, 0, good.PCRs[0].Value[:], good.LogDigest[:], uint8(24))
	f.Fuzz(func(t *testing.T, version int, quote, signature []byte, index int, value, log []byte, registers uint8) {
		e := attestation.Evidence{Version: version, Quote: quote, Signature: signature}
		copy(e.LogDigest[:], log)
		for i := range int(registers) {
			p := attestation.PCR{Index: index + i}
			copy(p.Value[:], value)
			e.PCRs = append(e.PCRs, p)
		}
		if got, want := attestation.DigestEvidence(e), marshalled(t, e); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestRefusesEvidence(t *testing.T) {
	t.Parallel()
	good, err := attestation.EncodeEvidence(goodEvidence())
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	replace := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in %.200s", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
	long := base64.StdEncoding.EncodeToString(make([]byte, attestation.MaxQuoteBytes+1))
	tests := []struct {
		name, in string
		want     error
	}{
		{"too large", strings.Repeat(" ", attestation.MaxEvidenceBytes+1), attestation.ErrTooLarge},
		{"large quote", replace(`"quote":"`, `"quote":"`+long[:len(long)-4]), attestation.ErrTooLarge},
		{"empty", "", attestation.ErrMalformed},
		{"null", "null", attestation.ErrMalformed},
		{"empty object", "{}", attestation.ErrMalformed},
		{"array", "[]", attestation.ErrMalformed},
		{"unknown member", replace(`{"version"`, `{"x":1,"version"`), attestation.ErrMalformed},
		{"N12 duplicate member", replace(`{"version":1`, `{"version":1,"version":1`), attestation.ErrMalformed},
		{"other case", replace(`"version"`, `"Version"`), attestation.ErrMalformed},
		{"trailing bytes", text + "{}", attestation.ErrMalformed},
		{"version 0", replace(`"version":1`, `"version":0`), attestation.ErrMalformed},
		{"version 2", replace(`"version":1`, `"version":2`), attestation.ErrMalformed},
		{"version as text", replace(`"version":1`, `"version":"1"`), attestation.ErrMalformed},
		{"null quote", replace(`"quote":"`, `"quote":null,"x":"`), attestation.ErrMalformed},
		{"repeated PCR", replace(`"index":1,`, `"index":0,`), attestation.ErrMalformed},
		{"PCR 24", replace(`"index":12,`, `"index":24,`), attestation.ErrMalformed},
		{"PCR -1", replace(`"index":0,`, `"index":-1,`), attestation.ErrMalformed},
		{"PCR 1.5", replace(`"index":1,`, `"index":1.5,`), attestation.ErrMalformed},
		{"unknown PCR member", replace(`"index":1,`, `"index":1,"sha1":"",`), attestation.ErrMalformed},
		{"upper-case digest", replace(`"log_digest":"`+goodEvidence().LogDigest.String(), `"log_digest":"`+strings.ToUpper(goodEvidence().LogDigest.String())), attestation.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := attestation.DecodeEvidence([]byte(tt.in)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := attestation.EncodeEvidence(attestation.Evidence{}); !errors.Is(err, attestation.ErrMalformed) {
		t.Errorf("encoding the zero value: got %v, want ErrMalformed", err)
	}
}

func TestTranscriptVector(t *testing.T) {
	t.Parallel()
	b := attestation.Binding{
		Purpose: attestation.PurposePoll, Nonce: bytes.Repeat([]byte{1}, 32), Device: "abcdefghijklmnopqrstuvwxyz",
		Exporter: bytes.Repeat([]byte{2}, 32), LogDigests: []digest.SHA256{digest.Of([]byte("log"))}, Claims: digest.Of([]byte("{}")),
	}
	if got, want := attestation.Transcript(b).String(), "6ba8c3066fae6fd4cde7521df0d14897c5839c84cbd64683ddc48d8994b85b8a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := attestation.Transcript(attestation.Binding{}).String(), "6c7f86e0142f81d2ffa2feb7339cc59c4fd8add3ef61260c412ad7370998c02c"; got != want {
		t.Errorf("zero value: got %s, want %s", got, want)
	}
}

// Moving a byte over the border between two fields must change the hash.
func TestTranscriptIsUnambiguous(t *testing.T) {
	t.Parallel()
	one, two := digest.Of([]byte("1")), digest.Of([]byte("2"))
	bindings := []attestation.Binding{
		{},
		{Purpose: "ab", Nonce: []byte("c")},
		{Purpose: "a", Nonce: []byte("bc")},
		{Nonce: []byte("abc")},
		{Device: "abc"},
		{Device: "ab", Exporter: []byte("c")},
		{Exporter: []byte("abc")},
		{LogDigests: []digest.SHA256{one}},
		{LogDigests: []digest.SHA256{two}},
		{LogDigests: []digest.SHA256{one, two}},
		{LogDigests: []digest.SHA256{two, one}},
		{LogDigests: []digest.SHA256{one}, Claims: two},
		{LogDigests: []digest.SHA256{one, {}}},
		{LogDigests: []digest.SHA256{{}}},
		{Claims: one},
		{Exporter: one[:]},
	}
	seen := map[digest.SHA256]int{}
	for i, b := range bindings {
		d := attestation.Transcript(b)
		if j, ok := seen[d]; ok {
			t.Errorf("bindings %d and %d have the same transcript", i, j)
		}
		seen[d] = i
	}
}

func FuzzDecodeEvidence(f *testing.F) {
	good, err := attestation.EncodeEvidence(goodEvidence())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"quote":"AA==","signature":"AA==","pcrs":[{"index":0,"sha256":"` + strings.Repeat("0", 64) + `"}],"log_digest":"` + strings.Repeat("1", 64) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = attestation.DecodeEvidence(b) })
		e, err := attestation.DecodeEvidence(b)
		if err != nil {
			if !errors.Is(err, attestation.ErrMalformed) && !errors.Is(err, attestation.ErrTooLarge) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		again, err := attestation.EncodeEvidence(e)
		if err != nil {
			t.Fatal(err)
		}
		e2, err := attestation.DecodeEvidence(again)
		if err != nil || !cmp.Equal(e, e2) {
			t.Errorf("does not survive a round: %v", err)
		}
	})
}
