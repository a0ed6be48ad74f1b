package api

import (
	"bytes"
	"io"
	"net/http"
)

// ProblemOf reads a body as that of a refused request, for fuzzing.
func ProblemOf(body []byte) error {
	return problemOf(&http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))})
}
