package keyless_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/signer/keyless"
)

func service(url string, version int) string {
	return fmt.Sprintf(`[{"url":%q,"majorApiVersion":%d,"validFor":{"start":"2026-01-01T00:00:00Z"},"operator":"acme"}]`, url, version)
}

// signingConfig is one with these URLs of CA, log and timestamp authority.
func signingConfig(ca, log, tsa string) string {
	return fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":%s,"rekorTlogUrls":%s,"tsaUrls":%s,
		"rekorTlogConfig":{"selector":"ANY"},"tsaConfig":{"selector":"ANY"}}`, service(ca, 1), service(log, 2), service(tsa, 1))
}

func TestParseInstance(t *testing.T) {
	t.Parallel()
	good := signingConfig("https://ca.example", "https://log.example", "https://tsa.example/api/v1/timestamp")
	tests := map[string]struct {
		config string
		words  string // of the error; empty: it is good
	}{
		"good":              {good, ""},
		"this machine":      {signingConfig("http://127.0.0.1:5555", "http://localhost:3000", "http://[::1]:3004/t"), ""},
		"CA in the clear":   {signingConfig("http://ca.example", "https://log.example", "https://tsa.example"), "CA: \"http://ca.example\" is no https URL"},
		"log in the clear":  {signingConfig("https://ca.example", "http://log.example", "https://tsa.example"), "transparency log:"},
		"TSA in the clear":  {signingConfig("https://ca.example", "https://log.example", "http://tsa.example"), "timestamp authority:"},
		"password in a URL": {signingConfig("https://u:p@ca.example", "https://log.example", "https://tsa.example"), "CA:"},
		"no CA":             {strings.Replace(good, `"caUrls":`+service("https://ca.example", 1), `"caUrls":[]`, 1), "it names no CA"},
		"no log":            {strings.Replace(good, `"rekorTlogUrls":`+service("https://log.example", 2), `"rekorTlogUrls":[]`, 1), "it names no transparency log"},
		"no TSA":            {strings.Replace(good, `"tsaUrls":`+service("https://tsa.example/api/v1/timestamp", 1), `"tsaUrls":[]`, 1), "it names no timestamp authority"},
		"no selectors":      {strings.NewReplacer(`"rekorTlogConfig":{"selector":"ANY"},`, "", `"tsaConfig":{"selector":"ANY"}`, `"oidcUrls":[]`).Replace(good), "rekorTlogConfig and tsaConfig must be there"},
		"not valid yet":     {strings.ReplaceAll(good, "2026-01-01", "2027-01-01"), "valid now"},
		"other media type":  {strings.Replace(good, "v0.2+json", "v0.1+json", 1), "v0.2"},
		"unknown key":       {strings.Replace(good, `"mediaType"`, `"colour":"red","mediaType"`, 1), "colour"},
		"no JSON":           {"signing: config", "v0.2"},
		"empty":             {"", "v0.2"},
		"endless":           {strings.Repeat(" ", keyless.MaxSigningConfigBytes+1), "at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := keyless.ParseInstance([]byte(test.config), now)
			if test.words == "" {
				if err != nil {
					t.Errorf("error = %v", err)
				}
				return
			}
			if !errors.Is(err, keyless.ErrSigningConfig) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error = %v, want ErrSigningConfig with %q", err, test.words)
			}
		})
	}
}

func FuzzParseInstance(f *testing.F) {
	f.Add([]byte(signingConfig("https://ca.example", "https://log.example", "https://tsa.example")))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":[{}],"tsaConfig":{"selector":"EXACT"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keyless.ParseInstance(b, now); err != nil && !errors.Is(err, keyless.ErrSigningConfig) {
			t.Errorf("error = %v", err)
		}
	})
}
