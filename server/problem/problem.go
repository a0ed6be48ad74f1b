// Package problem turns errors into RFC 9457 problem documents, in one place.
//
// Handlers return errors. A *Error says what the caller may know; any other error is "internal": the caller sees a fixed
// sentence and the request id, the log has the rest. Trusted: it decides what leaks.
package problem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/store"
)

// ContentType of a problem document.
const ContentType = "application/problem+json"

// Error is a refusal or failure that the caller may see.
type Error struct {
	Status     int
	Reason     reason.Reason
	Detail     string        // one sentence for the caller; may be empty
	RetryAfter time.Duration // 0: no header
	AKName     []byte        // see wire.Problem; nil as a rule
	Cause      error         // for the log only
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Detail, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Detail)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an Error with a detail that the caller will see.
func New(status int, r reason.Reason, format string, args ...any) *Error {
	return &Error{Status: status, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Malformed is a 400 for a request that cannot be understood.
func Malformed(format string, args ...any) *Error {
	return New(http.StatusBadRequest, reason.RequestMalformed, format, args...)
}

// TooLarge is a 413 that names the limit in bytes.
func TooLarge(limit int64) *Error {
	return New(http.StatusRequestEntityTooLarge, reason.RequestTooLarge, "the limit of this route is %d bytes", limit)
}

// NotFound is a 404 that names what is not there.
func NotFound(what string) *Error {
	return New(http.StatusNotFound, reason.NotFound, "there is no %s", what)
}

// Busy is a 503 with a time to come back.
func Busy(cause error, after time.Duration) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Reason: reason.ServerBusy, RetryAfter: after, Cause: cause}
}

// Document renders err for a caller. It never shows the text of an error that is not an *Error.
func Document(err error, requestID string) (wire.Problem, *Error) {
	var known *Error
	if !errors.As(err, &known) {
		known = fromEcho(err)
	}
	row, ok := reason.Lookup(known.Reason)
	if !ok {
		known = &Error{Status: http.StatusInternalServerError, Reason: reason.Internal, Cause: err}
		row, _ = reason.Lookup(reason.Internal)
	}
	return wire.Problem{
		Type: "https://cordon-ota.github.io/reasons#" + string(known.Reason), Title: row.Title, Status: known.Status,
		Detail: clip(known.Detail), Reason: known.Reason, RequestID: requestID, Next: row.Remedy, AKName: known.AKName,
	}, known
}

// maxDetail bounds how much of its own request a caller gets back.
const maxDetail = 1024

// clip bounds a detail and makes it text: it may repeat bytes of a path or a body.
func clip(detail string) string {
	return strings.ToValidUTF8(detail[:min(len(detail), maxDetail)], "?")
}

// fromEcho says what an error that is no *Error may show: what echo itself refused, and that we cannot decide now.
func fromEcho(err error) *Error {
	var he *echo.HTTPError
	if errors.As(err, &he) {
		switch he.Code {
		case http.StatusNotFound:
			return New(he.Code, reason.NotFound, "there is no such route")
		case http.StatusMethodNotAllowed:
			return New(he.Code, reason.NotFound, "the route does not take this method")
		case http.StatusRequestEntityTooLarge:
			return New(he.Code, reason.RequestTooLarge, "the request is larger than this route allows")
		}
	}
	if errors.Is(err, store.ErrUnavailable) {
		return Busy(err, 5*time.Second)
	}
	if errors.Is(err, artifacts.ErrUnavailable) {
		return Busy(err, 10*time.Second)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Busy(err, time.Second)
	}
	return &Error{Status: http.StatusInternalServerError, Reason: reason.Internal, Cause: err}
}

// RequestIDHeader carries the request id in every answer. A caller's own value is never taken over.
const RequestIDHeader = "X-Request-Id"

// Handler is the one place where echo writes an error.
func Handler(log *slog.Logger) echo.HTTPErrorHandler {
	return func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		id := c.Response().Header().Get(RequestIDHeader)
		doc, known := Document(err, id)
		// A server without a root says so to whoever asks; that is a state, and logging it for each would be a flood.
		if known.Status >= http.StatusInternalServerError && known.Reason != reason.ServerUninitialised {
			log.ErrorContext(c.Request().Context(), "request failed", "request_id", id, "path", c.Path(), "error", err)
		}
		if known.RetryAfter > 0 {
			c.Response().Header().Set("Retry-After", strconv.Itoa(max(1, int(known.RetryAfter.Round(time.Second)/time.Second))))
		}
		body, err := json.Marshal(doc)
		if err != nil {
			log.ErrorContext(c.Request().Context(), "cannot write a problem document", "request_id", id, "error", err)
			return
		}
		if c.Request().Method == http.MethodHead {
			_ = c.NoContent(known.Status)
			return
		}
		_ = c.Blob(known.Status, ContentType, body)
	}
}
