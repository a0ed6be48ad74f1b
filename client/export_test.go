package client

import (
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/client/wire"
)

// RefusalOf opens the parser of problem documents to the fuzzer.
func RefusalOf(status int, body []byte) ([]Refusal, error) {
	return refusalOf("/", answer{status: status, body: body})
}

// NextPoll opens the parser of the header to the fuzzer.
func NextPoll(value string) time.Duration {
	return nextPoll(answer{header: http.Header{wire.HeaderNextPoll: {value}}})
}

// RedirectTarget is the host that a client with this trust bundle goes to for a Location.
func RedirectTarget(trust wire.Trust, location string) (string, error) {
	u, d, err := (&Client{cfg: Config{Trust: trust}}).destination(location)
	if err != nil {
		return "", err
	}
	return u.Scheme + "://" + d.Host, nil
}

// CauseOf is what an error says, the same each time.
func CauseOf(err error) string { return causeOf(err) }
