package suite_test

import (
	"testing"

	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// What a device has from an answer is what counts, whatever the answer calls it.
func TestAnswersAreJudgedByWhatTheyGive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   vectors.Judgement
	}{
		"verdict":                {200, `{"verdict":"affirmed"}`, vectors.WronglyAccepted},
		"lease alone":            {200, `{"lease_until":1}`, vectors.WronglyAccepted},
		"certificate alone":      {200, `{"certificate":["AA=="],"verdict":"refused"}`, vectors.WronglyAccepted},
		"refused":                {200, `{"verdict":"refused","refusal":[{"reason":"nonce_unknown","remedy":""}]}`, vectors.Right},
		"asked again":            {200, `{"evidence_wanted":"quote","challenge":"AA=="}`, vectors.Right},
		"nothing":                {200, `{}`, vectors.Undecided},
		"nothing applies":        {204, ``, vectors.Undecided},
		"no JSON":                {200, `yes`, vectors.Undecided},
		"problem":                {403, `{"type":"","title":"","status":403,"reason":"ak_not_bound","request_id":""}`, vectors.Right},
		"too often":              {429, `{}`, vectors.Undecided},
		"error of the server":    {500, `{}`, vectors.Undecided},
		"somewhere else":         {307, ``, vectors.Undecided},
		"unknown member of it":   {200, `{"verdict":"refused","next":1}`, vectors.Right},
		"the same member, twice": {200, `{"verdict":"refused","verdict":"affirmed"}`, vectors.Undecided},
	} {
		if row := suite.Judge(c.status, []byte(c.body)); row.Judgement != c.want {
			t.Errorf("%s: got %s (%s), want %s", name, row.Judgement, row.Got, c.want)
		}
	}
}
