package problem_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

func TestDocuments(t *testing.T) {
	t.Parallel()
	const secret = "password of the database"
	tests := map[string]struct {
		err    error
		status int
		reason reason.Reason
		retry  string
	}{
		"own":                {problem.New(http.StatusForbidden, reason.DeviceRetired, "gone"), 403, reason.DeviceRetired, ""},
		"wrapped":            {fmt.Errorf("in between: %w", problem.Malformed("bad")), 400, reason.RequestMalformed, ""},
		"too large":          {problem.TooLarge(7), 413, reason.RequestTooLarge, ""},
		"busy":               {problem.Busy(errors.New(secret), 90*time.Second), 503, reason.ServerBusy, "90"},
		"busy for a moment":  {problem.Busy(errors.New(secret), time.Millisecond), 503, reason.ServerBusy, "1"},
		"unknown":            {errors.New(secret), 500, reason.Internal, ""},
		"database down":      {fmt.Errorf("%s: %w", secret, store.ErrUnavailable), 503, reason.ServerBusy, "5"},
		"object store away":  {fmt.Errorf("%s: %w", secret, artifacts.ErrUnavailable), 503, reason.ServerBusy, "10"},
		"out of time":        {fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), 503, reason.ServerBusy, "1"},
		"no route":           {echo.ErrNotFound, 404, reason.NotFound, ""},
		"no method":          {echo.ErrMethodNotAllowed, 405, reason.NotFound, ""},
		"echo's own":         {echo.NewHTTPError(http.StatusTeapot, secret), 500, reason.Internal, ""},
		"reason of nowhere":  {problem.New(http.StatusForbidden, "no_such_reason", "%s", secret), 500, reason.Internal, ""},
		"echo's body limit":  {echo.ErrStatusRequestEntityTooLarge, 413, reason.RequestTooLarge, ""},
		"own beats its root": {&problem.Error{Status: 409, Reason: reason.Conflict, Cause: store.ErrUnavailable}, 409, reason.Conflict, ""},
	}
	for name, test := range tests {
		e := echo.New()
		e.HTTPErrorHandler = problem.Handler(slog.New(slog.DiscardHandler))
		e.GET("/", func(c echo.Context) error {
			c.Response().Header().Set(problem.RequestIDHeader, "id-1")
			return test.err
		})
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
		var doc wire.Problem
		if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if rec.Code != test.status || doc.Status != test.status || doc.Reason != test.reason || rec.Header().Get("Content-Type") != problem.ContentType ||
			doc.RequestID != "id-1" || doc.Title == "" || rec.Header().Get("Retry-After") != test.retry {
			t.Errorf("%s: got %d, %+v, retry %q", name, rec.Code, doc, rec.Header().Get("Retry-After"))
		}
		if strings.Contains(rec.Body.String(), secret) {
			t.Errorf("%s: tells what is inside: %s", name, rec.Body)
		}
	}
}

func TestNothingIsWrittenAfterAnAnswerHasBegun(t *testing.T) {
	t.Parallel()
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(slog.New(slog.DiscardHandler))
	e.GET("/", func(c echo.Context) error {
		if err := c.String(http.StatusOK, "begun"); err != nil {
			return err
		}
		return errors.New("late")
	})
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	if rec.Code != http.StatusOK || rec.Body.String() != "begun" {
		t.Errorf("got %d %q", rec.Code, rec.Body)
	}
}
