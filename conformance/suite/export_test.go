package suite

import (
	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/vectors"
)

// Judge is what a poll that must be refused makes of an answer.
func Judge(status int, body []byte) Row {
	return Row{Case: "N00", Outcome: vectors.Refused}.polled(answer{status: status, body: body})
}

// Components reads product metadata.
func Components(body []byte) {
	var d document
	if json.Unmarshal(body, &d) == nil {
		components(d, "")
	}
}
