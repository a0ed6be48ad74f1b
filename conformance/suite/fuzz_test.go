package suite_test

import (
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// A server under test may answer anything: judging it ends well, in bounded memory, and never calls a lease a refusal.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"verdict":"affirmed","lease_until":1,"certificate":["AA=="]}`))
	f.Add(200, []byte(`{"verdict":"refused","refusal":[{"reason":"nonce_unknown","remedy":""}]}`))
	f.Add(403, []byte(`{"type":"","title":"","status":403,"reason":"ak_not_bound","request_id":""}`))
	f.Add(204, []byte{})
	f.Add(200, []byte(`{"signed":{"targets":{"gateway/1.0/system":{"custom":{},"hashes":{"sha256":"00"}}},"meta":{"x":{"version":1}}}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		var row suite.Row
		evidencetest.Bounded(t, len(body), func() { row = suite.Judge(status, body) })
		if row.Judgement == "" || row.Got == "" {
			t.Errorf("no judgement of %d %q", status, body)
		}
		if row.Got == vectors.Affirmed && row.Judgement != vectors.WronglyAccepted {
			t.Errorf("%s is called %s", row.Got, row.Judgement)
		}
		suite.Components(body)
	})
}
