package reference_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

func encoded(t testing.TB, v interface{ Encode() ([]byte, error) }) []byte {
	t.Helper()
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestValuesSurviveTheRoundTrip(t *testing.T) {
	t.Parallel()
	v := predict(t, uki())
	b := encoded(t, v)
	got, err := reference.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if again := encoded(t, got); !bytes.Equal(b, again) {
		t.Error("equal values gave different bytes")
	}
}

func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	v := predict(t, uki())
	good := string(encoded(t, v))
	value := v.PCRs[0].Value.String()
	replace := func(old, text string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the document has no %q", old)
		}
		return strings.Replace(good, old, text, 1)
	}
	rows := map[string]string{
		"empty":              "",
		"null":               "null",
		"trailing bytes":     good + "{}",
		"unknown member":     replace(`"version":1`, `"version":1,"note":"x"`),
		"repeated member":    replace(`"version":1`, `"version":1,"version":1`),
		"folded case":        replace(`"version"`, `"Version"`),
		"version 2":          replace(`"version":1`, `"version":2`),
		"another boot path":  replace(`"direct-uki"`, `"other"`),
		"no image":           replace(v.Image.String(), strings.Repeat("0", 64)),
		"upper case digest":  replace(value, strings.ToUpper(value)),
		"another value":      replace(value, digest.Of(nil).String()),
		"another event":      replace(v.PCRs[2].Events[3].Digest.String(), digest.Of(nil).String()),
		"repeated index":     replace(`"index":9`, `"index":4`),
		"falling index":      replace(`"index":4`, `"index":10`),
		"index 24":           replace(`"index":12`, `"index":24`),
		"negative index":     replace(`"index":4`, `"index":-4`),
		"other PCR":          replace(`"index":12`, `"index":13`),
		"long description":   replace("separator", strings.Repeat("x", 300)),
		"control characters": replace("separator", `a\u001b[2Jb`),
		"too large":          good + strings.Repeat(" ", reference.MaxBytes),
	}
	for name, text := range rows {
		if _, err := reference.Decode([]byte(text)); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	if _, err := (reference.Values{}).Encode(); !errors.Is(err, reference.ErrMalformed) {
		t.Errorf("zero values: got %v, want ErrMalformed", err)
	}
}

func baseline() reference.Baseline {
	quoted := map[int]digest.SHA256{}
	for pcr := range 24 {
		quoted[pcr] = digest.Of([]byte{byte(pcr)})
	}
	return reference.LearnBaseline("vm/ovmf", quoted)
}

func TestBaselineNamesThePlatformPCRs(t *testing.T) {
	t.Parallel()
	b := baseline()
	got, err := reference.DecodeBaseline(encoded(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	good := string(encoded(t, b))
	for name, text := range map[string]string{
		"null":           "null",
		"trailing bytes": good + " x",
		"unknown member": strings.Replace(good, `"version"`, `"x":1,"version"`, 1),
		"no profile":     strings.Replace(good, "vm/ovmf", "", 1),
		"falling index":  strings.Replace(good, `"index":0`, `"index":6`, 1),
		"a zero value":   strings.Replace(good, b.PCRs[0].Value.String(), strings.Repeat("0", 64), 1),
		"version 0":      strings.Replace(good, `"version":1`, `"version":0`, 1),
	} {
		if _, err := reference.DecodeBaseline([]byte(text)); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	for i, p := range b.PCRs {
		less := b
		less.PCRs = slices.Delete(slices.Clone(b.PCRs), i, i+1)
		if _, err := less.Encode(); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("without PCR %d: got %v, want ErrMalformed", p.Index, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, predict(f, uki())))
	f.Add(encoded(f, baseline()))
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = reference.Decode(b) })
		if v, err := reference.Decode(b); err == nil {
			again, err := reference.Decode(encoded(t, v))
			if err != nil || !cmp.Equal(v, again) {
				t.Fatalf("not stable: %v", err)
			}
		}
		if base, err := reference.DecodeBaseline(b); err == nil {
			again, err := reference.DecodeBaseline(encoded(t, base))
			if err != nil || !cmp.Equal(base, again) {
				t.Fatalf("not stable: %v", err)
			}
		}
	})
}
