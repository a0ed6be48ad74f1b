package client_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

// FuzzStateDirectory puts hostile bytes into the files that are read without a signature.
func FuzzStateDirectory(f *testing.F) {
	f.Add([]byte(`{"device":"aaaaaaaaaaaaaaaaaaaaaaaaaa","enrolled":true,"events":[{"detail":"x","time":1}]}`),
		[]byte(`{"step":"staged","product":"thermostat","version":"1.0.0","parts":[{"component":"system","installer":"ab","length":1,"offset":1}]}`))
	f.Add([]byte(`null`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, state, journal []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"state.json": state, "journal.json": journal} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := client.ReadStatus(dir)
		if err != nil {
			t.Fatalf("ReadStatus: %v", err)
		}
		if len(s.Update) > 200 {
			t.Errorf("update %q came through", s.Update)
		}
	})
}

// FuzzAnswer feeds hostile answers of the server to the parser of problems and of the next poll.
func FuzzAnswer(f *testing.F) {
	f.Add(409, "900", []byte(`{"type":"about:blank","title":"x","status":409,"reason":"device_pending","request_id":"1"}`))
	f.Add(200, "-1", []byte(`{"reason":"a","reason":"b"}`))
	f.Fuzz(func(t *testing.T, status int, next string, body []byte) {
		refusals, err := client.RefusalOf(status, body)
		if (err == nil) == (len(refusals) == 0) {
			t.Errorf("%d refusals and error %v: it must be one or the other", len(refusals), err)
		}
		if d := client.NextPoll(next); d < 0 {
			t.Errorf("next poll in %v", d)
		}
	})
}

// Whatever a server sends as Location: a client goes to the servers of its trust bundle over TLS, or nowhere.
func FuzzLocation(f *testing.F) {
	for _, s := range []string{"https://s3.example/bucket/blobs/ab?X-Amz-Signature=1", "https://s3.example:443/x", "https://S3.example/x", "http://s3.example/x",
		"https://s3.example:444/x", "https://user:pass@s3.example/x", "https://s3.example.evil.example/x", "//s3.example/x", "https:s3.example", "https://[::1]/x", "https://s3.example/x#y", ""} {
		f.Add(s)
	}
	trust := wire.Trust{Downloads: []wire.Download{{Host: "s3.example:443"}}}
	f.Fuzz(func(t *testing.T, location string) {
		got, err := client.RedirectTarget(trust, location)
		if err == nil && got != "https://s3.example:443" || err != nil && got != "" {
			t.Errorf("%q leads to %q, %v", location, got, err)
		}
	})
}
