package provenance

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
)

// ErrNoStatement is returned for a document that carries no release statement.
var ErrNoStatement = errors.New("the bundle carries no release statement")

// ClaimedProduct reads which product a bundle claims to be for, so that the right policy can be found. Nothing is
// verified: whoever uses the name must hold the verified statement against it.
func ClaimedProduct(bundleJSON []byte) (string, error) {
	if len(bundleJSON) > artifacts.MaxBundleBytes {
		return "", fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrNoStatement, len(bundleJSON), artifacts.MaxBundleBytes)
	}
	var b struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(bundleJSON, &b); err != nil {
		return "", fmt.Errorf("%w: %v", ErrNoStatement, err)
	}
	statement, err := artifacts.DecodeStatement(b.Envelope.Payload)
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrNoStatement, err)
	}
	return statement.Predicate.Product, nil
}
