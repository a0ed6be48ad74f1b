package client_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/client"
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
