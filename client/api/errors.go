package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
)

// Errors of a Client that a caller tests for.
var (
	ErrUnreachable = errors.New("server cannot be reached")
	ErrCA          = errors.New("server is not the one that the CA stands for")
	ErrAnswer      = errors.New("answer of the server cannot be understood")
)

// Error is a problem document (RFC 9457) that the server answered with.
type Error struct {
	wire.Problem
	RetryAfter time.Duration // 0: the server did not say
}

// Error says what was refused and why.
func (e *Error) Error() string {
	text := e.Title
	if e.Detail != "" && e.Detail != e.Title {
		text += ": " + e.Detail
	}
	if e.Reason != "" {
		text += " (" + string(e.Reason) + ")"
	}
	if e.RequestID != "" {
		text += " [request " + e.RequestID + "]"
	}
	return text
}

// ReasonOf returns the reason of the problem document in err's tree, or "" if there is none.
func ReasonOf(err error) reason.Reason {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}

// problemOf reads the problem document of a response. A body that is none (a proxy's page) is not shown: only the
// status is.
func problemOf(res *http.Response) error {
	e := &Error{RetryAfter: retryAfter(res.Header)}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxProblemBytes+1))
	if err != nil || len(b) > maxProblemBytes || json.Unmarshal(b, &e.Problem) != nil {
		e.Problem = wire.Problem{}
	}
	if e.Title == "" {
		e.Title = fmt.Sprintf("the server answered %d %s", res.StatusCode, http.StatusText(res.StatusCode))
	}
	e.Status = res.StatusCode
	return e
}

// connectionError tells a server that cannot be proven from one that cannot be reached.
func connectionError(base string, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	var untrusted *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.Is(err, ErrCA):
		return fmt.Errorf("%s: %w", base, err)
	case errors.As(err, &untrusted), errors.As(err, &unknown), errors.As(err, &name):
		return fmt.Errorf("%s: %w: %w", base, ErrCA, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, base, err)
}
