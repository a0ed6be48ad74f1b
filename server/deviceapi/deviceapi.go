// Package deviceapi is the device API at the edge: echo handlers that decode, ask one service, and render.
//
// It authenticates a device by the TLS key of the connection, whatever the certificate's age: a stale, expired or
// quarantined device may poll, be challenged and fetch recovery. TLS ends here, since quotes are bound to the
// connection's keying material.
package deviceapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what the artifact door reads and writes; contract as in package store.
type Store interface {
	DeviceByTLSKey(ctx context.Context, key digest.SHA256) (fleet.Device, error)
	OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error)
	DenialsInForce(ctx context.Context) ([]fleet.Denial, error)
	Commit(ctx context.Context, change store.Change) error
}

// Server answers the device API.
type Server struct {
	Polls    *appraise.Service
	Enroll   *enroll.Service
	Store    Store
	Blobs    artifacts.Blobs
	Files    *repository.Files
	Door     *segment.Door
	Enforcer *segment.Enforcer
	Places   *segment.Learner // Optional: keeps where polls come from
	Catalog  func() *repository.Catalog
	Now      func() time.Time
	Log      *slog.Logger

	Redirects Redirects

	limits        sync.Once
	refused, sent *limit.Limiter // events of the door; made by limits
	presigned     *limit.Limiter
}

// Register adds the routes. Every body has a limit; every route but the open metadata asks for a client key.
func (s *Server) Register(e *echo.Echo) {
	e.POST(wire.PathEnroll, s.enroll)
	e.POST(wire.PathActivate, s.activate)
	e.POST(wire.PathPoll, s.poll)
	e.GET(wire.PathArtifacts+"/:sha256", s.artifact)
	s.Files.Register(e)
}

// read takes the whole body up to the limit.
func read(c echo.Context, limit int64) ([]byte, error) {
	if c.Request().ContentLength > limit {
		return nil, problem.TooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, problem.TooLarge(limit)
	}
	if err != nil {
		return nil, problem.Malformed("the body ended early")
	}
	return body, nil
}

func decode(c echo.Context, limit int64, into any) error {
	body, err := read(c, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return problem.Malformed("the body is not valid JSON of this route: %v", err)
	}
	return nil
}

// connection is what the TLS connection proves: the client's key, and keying material that only its two ends know.
type connection struct {
	spki     []byte
	key      digest.SHA256
	exporter []byte
}

func connectionOf(state *tls.ConnectionState) (connection, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return connection{}, problem.New(http.StatusUnauthorized, reason.Unauthenticated, "connect with the device's TLS key as client certificate")
	}
	exporter, err := state.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	if err != nil {
		return connection{}, problem.New(http.StatusBadRequest, reason.Unauthenticated, "the connection has no keying material: TLS 1.3 is needed")
	}
	spki := state.PeerCertificates[0].RawSubjectPublicKeyInfo
	return connection{spki: spki, key: digest.Of(spki), exporter: exporter}, nil
}

func (s *Server) enroll(c echo.Context) error {
	conn, err := connectionOf(c.Request().TLS)
	if err != nil {
		return err
	}
	var req wire.EnrollRequest
	if err := decode(c, wire.MaxEnrollBytes, &req); err != nil {
		return err
	}
	answer, err := s.Enroll.Start(c.Request().Context(), conn.spki, req)
	if err != nil {
		return err
	}
	return render(c, answer)
}

func (s *Server) activate(c echo.Context) error {
	conn, err := connectionOf(c.Request().TLS)
	if err != nil {
		return err
	}
	var req wire.ActivateRequest
	if err := decode(c, wire.MaxEnrollBytes, &req); err != nil {
		return err
	}
	answer, err := s.Enroll.Finish(c.Request().Context(), conn.spki, conn.exporter, req)
	if err != nil {
		return err
	}
	return render(c, answer)
}

func (s *Server) poll(c echo.Context) error {
	conn, err := connectionOf(c.Request().TLS)
	if err != nil {
		return err
	}
	body, err := read(c, wire.MaxPollBytes)
	if err != nil {
		return err
	}
	answer, err := s.Polls.Poll(c.Request().Context(), conn.key, conn.exporter, body)
	if err != nil {
		return err
	}
	if s.Places != nil && answer.Device != "" {
		s.Places.Seen(c.Request().Context(), answer.Device, c.Request().RemoteAddr)
	}
	if answer.Changed != nil {
		s.Enforcer.Wake()
	}
	h := c.Response().Header()
	h.Set(wire.HeaderNextPoll, strconv.Itoa(int(answer.NextPoll/time.Second)))
	h.Set(wire.HeaderTime, answer.Time.UTC().Format(time.RFC3339))
	if answer.Body == nil {
		return c.NoContent(http.StatusNoContent)
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, answer.Body)
}

func render(c echo.Context, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, body)
}
