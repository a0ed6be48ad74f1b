package provenance_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
)

func TestClaimedProductReadsWhatTheStatementNames(t *testing.T) {
	t.Parallel()
	bundle := signed(t, payload(t, release()), newKey(t))
	if got, err := provenance.ClaimedProduct(bundle); err != nil || got != "thermostat" {
		t.Errorf("got %q, %v", got, err)
	}
	// It is a claim and no more: the signature of nobody names a product just as well, and Verify refuses it.
	res, err := provenance.Verify(bundle, policy(1, keyPublisher(t, "ci", newKey(t))), provenance.Options{})
	wantRefused(t, res, err, "")
}

func TestClaimedProductRefuses(t *testing.T) {
	t.Parallel()
	good := string(signed(t, payload(t, release()), newKey(t)))
	for name, bundle := range map[string]string{
		"empty": "", "no JSON": "bundle", "no envelope": "{}", "empty payload": `{"dsseEnvelope":{"payload":""}}`,
		"payload that is no statement": `{"dsseEnvelope":{"payload":"e30="}}`, "payload that is no base64": `{"dsseEnvelope":{"payload":"?"}}`,
		"envelope twice": `{"dsseEnvelope":{},"dsseEnvelope":{}}`, "trailing bytes": good + "{}", "cut": good[:len(good)/2],
		"too large": good + strings.Repeat(" ", artifacts.MaxBundleBytes),
	} {
		if got, err := provenance.ClaimedProduct([]byte(bundle)); !errors.Is(err, provenance.ErrNoStatement) || got != "" {
			t.Errorf("%s: got %q, %v, want ErrNoStatement", name, got, err)
		}
	}
}

func FuzzClaimedProduct(f *testing.F) {
	good := signed(f, payload(f, release()), newKey(f))
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("dsseEnvelope"), []byte("messageSignature"), 1))
	f.Add([]byte(`{"dsseEnvelope":{"payload":"e30="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := provenance.ClaimedProduct(b)
		switch {
		case err == nil && artifacts.ValidName(name) != nil:
			t.Errorf("%q is no product name", name)
		case err != nil && !errors.Is(err, provenance.ErrNoStatement):
			t.Errorf("error %v is not ErrNoStatement", err)
		}
	})
}
