package problem_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/problem"
)

// A path may hold any bytes. One that repeats them in its refusal must stay a refusal: an empty 200 would be an answer,
// and an error line per request would let anybody flood the log.
func TestForeignBytesInADetailStayARefusal(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(slog.New(slog.NewTextHandler(&log, nil)))
	e.GET("/repo/:file", func(c echo.Context) error { return problem.NotFound("file " + c.Param("file")) })
	e.GET("/early", func(echo.Context) error {
		return problem.New(http.StatusServiceUnavailable, reason.ServerUninitialised, "no root yet")
	})
	e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/early", nil))
	for _, path := range []string{"/repo/%ff", "/repo/" + strings.Repeat("%fe", 4000)} {
		record := httptest.NewRecorder()
		e.ServeHTTP(record, httptest.NewRequest(http.MethodGet, path, nil))
		var doc wire.Problem
		if err := json.Unmarshal(record.Body.Bytes(), &doc); err != nil || record.Code != http.StatusNotFound {
			t.Errorf("%.20s: got %d %q, %v", path, record.Code, record.Body, err)
		}
		if len(doc.Detail) > 2048 {
			t.Errorf("%.20s: a detail of %d bytes came back", path, len(doc.Detail))
		}
	}
	if log.Len() > 0 {
		t.Errorf("anybody can write to the log: %s", log.String())
	}
}
