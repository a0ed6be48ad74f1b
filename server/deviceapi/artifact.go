package deviceapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// writeTimeout bounds how long one piece of a body may take to leave: a reader that stands still is let go.
const writeTimeout = 30 * time.Second

// piece is how much is sent between two looks at the door.
const piece = 256 << 10

// artifact is the door: one range of firmware bytes, authorised against the current state.
func (s *Server) artifact(c echo.Context) error {
	ctx := c.Request().Context()
	sum, err := digest.Parse(c.Param("sha256"))
	if err != nil {
		return problem.Malformed("the artifact is named by 64 lower-case hex digits")
	}
	grant, err := s.authorise(ctx, c, sum)
	if err != nil {
		return err
	}
	size, err := s.Blobs.Stat(ctx, sum)
	if err == nil && size != grant.Length {
		err = artifacts.ErrLengthMismatch
	}
	if err != nil {
		return problem.Busy(fmt.Errorf("cannot serve %s of %s: %w", sum, grant.Release, err), time.Minute)
	}
	from, to, err := parseRange(c.Request().Header.Get("Range"), size)
	if err != nil {
		c.Response().Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return err
	}
	// The stream is known to the door before the state is asked once more: whoever changes it in between either is seen
	// here or cuts the stream.
	ctx, done := s.Door.Open(ctx, grant)
	defer done()
	if again, err := s.authorise(ctx, c, sum); err != nil {
		return err
	} else if again != grant {
		return problem.Busy(errors.New("the grant changed while the stream opened"), time.Second)
	}
	part := span{from: from, to: to, size: size}
	if u := s.redirect(ctx, c, grant, sum, part); u != "" {
		c.Response().Header().Set("Cache-Control", "private, no-store")
		return c.Redirect(http.StatusTemporaryRedirect, u)
	}
	return s.send(ctx, c, grant, sum, part)
}

func (s *Server) authorise(ctx context.Context, c echo.Context, sum digest.SHA256) (segment.Grant, error) {
	conn, err := connectionOf(c.Request().TLS)
	if err != nil {
		return segment.Grant{}, err
	}
	d, err := s.Store.DeviceByTLSKey(ctx, conn.key)
	if errors.Is(err, store.ErrNotFound) {
		return segment.Grant{}, problem.New(http.StatusUnauthorized, reason.DeviceUnknown, "no device is enrolled with this key")
	}
	if err != nil {
		return segment.Grant{}, fmt.Errorf("cannot load the device: %w", err)
	}
	q, err := store.QuarantineOf(ctx, s.Store, d.ID)
	if err != nil {
		return segment.Grant{}, err
	}
	denials, err := s.Store.DenialsInForce(ctx)
	if err != nil {
		return segment.Grant{}, fmt.Errorf("cannot read the deny list: %w", err)
	}
	grant, err := segment.Allow(d, q, s.Catalog().Products[d.Product], sum, s.Now())
	if _, denied := fleet.Denied(d, denials); denied && q == nil { // in quarantine it may have what every such device may
		grant, err = segment.Grant{}, problem.New(http.StatusForbidden, reason.EKRevoked, "the device's TPM is on the deny list")
	}
	if d.KeyForgotten() { // not even the recovery release: the device enrolls first
		grant, err = segment.Grant{}, problem.New(http.StatusForbidden, reason.AKUnknown, "the attestation key of the device was forgotten")
	}
	var refused *problem.Error
	if errors.As(err, &refused) {
		s.event(ctx, s.refusals(), audit.ArtifactRefused, d.ID, map[string]any{"artifact": sum, "reason": refused.Reason})
	}
	return grant, err
}

// A device may ask the door as often as it likes, the pending one of a stranger too. Only so many answers become events;
// the next one says how many were left out.
const (
	eventBurst = 32
	eventEvery = time.Minute
	eventKeys  = 4096
)

func (s *Server) refusals() *limit.Limiter { s.limit(); return s.refused }

func (s *Server) served() *limit.Limiter { s.limit(); return s.sent }

func (s *Server) redirected() *limit.Limiter { s.limit(); return s.presigned }

func (s *Server) limit() {
	s.limits.Do(func() {
		s.refused, s.sent = limit.New(eventBurst, eventEvery, eventKeys), limit.New(eventBurst, eventEvery, eventKeys)
		s.presigned = limit.New(eventBurst, eventEvery, eventKeys)
	})
}

// event writes an event of the door. The door's answer does not depend on it: a refusal stands whether or not it can be
// written down, and a failure is logged for people.
func (s *Server) event(ctx context.Context, limited *limit.Limiter, kind, device string, data map[string]any) {
	ok, suppressed, _ := limited.Allow(device, s.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		data["suppressed"] = suppressed
	}
	ctx = context.WithoutCancel(ctx) // hanging up must not take the event along
	crash.Here(crash.DoorDecided)
	err := s.Store.Commit(ctx, store.Change{Events: []store.Event{{At: s.Now(), Type: kind, Actor: "door", Subject: device, Data: data}}})
	crash.Here(crash.DoorRecorded)
	if err != nil {
		s.Log.ErrorContext(ctx, "cannot write an audit event of the door", "type", kind, "error", err)
	}
}

// span is [from, to) of an artifact of size bytes.
type span struct{ from, to, size int64 }

func (s *Server) send(ctx context.Context, c echo.Context, grant segment.Grant, sum digest.SHA256, part span) error {
	length := part.to - part.from
	r, err := s.Blobs.Open(ctx, sum, part.from, length)
	if ctx.Err() != nil {
		return context.Cause(ctx) // cut before the first byte
	}
	if err != nil {
		return problem.Busy(err, time.Minute)
	}
	defer r.Close()
	h := c.Response().Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	h.Set("Cache-Control", "private, no-store")
	status := http.StatusOK
	if c.Request().Header.Get("Range") != "" {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.from, part.to-1, part.size))
	}
	c.Response().WriteHeader(status)
	if err := pump(ctx, c.Response(), r, length); err != nil {
		s.Log.InfoContext(ctx, "artifact stream ended early", "device", grant.Device, "release", grant.Release, "error", err)
		panic(http.ErrAbortHandler) // the connection is broken on purpose: a short body must not look complete
	}
	if part.to == part.size {
		s.event(ctx, s.served(), audit.ArtifactServed, grant.Device, map[string]any{"artifact": sum, "release": grant.Release})
	}
	return nil
}

// pump copies n bytes in pieces and stops as soon as the context ends or a piece does not leave in time.
func pump(ctx context.Context, w *echo.Response, r io.Reader, n int64) error {
	control := http.NewResponseController(w)
	defer control.SetWriteDeadline(time.Time{}) // the connection lives on; unsupported only where setting it was
	for n > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		m, err := io.CopyN(w, r, min(n, piece))
		n -= m
		if err != nil {
			return err
		}
		w.Flush()
	}
	return nil
}

// parseRange understands one range of the form bytes=A- or bytes=A-B; no header is the whole artifact. It returns
// [from, to).
func parseRange(header string, size int64) (from, to int64, err error) {
	if header == "" {
		return 0, size, nil
	}
	bad := problem.New(http.StatusRequestedRangeNotSatisfiable, reason.RequestMalformed, "the range must be bytes=A- or bytes=A-B within the artifact")
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return 0, 0, bad
	}
	number := func(s string) (int64, error) {
		n, err := strconv.ParseUint(s, 10, 63) // takes no sign
		return int64(n), err
	}
	if from, err = number(first); err != nil || from >= size {
		return 0, 0, bad
	}
	if last == "" {
		return from, size, nil
	}
	end, err := number(last)
	if err != nil || end < from {
		return 0, 0, bad
	}
	return from, min(end, size-1) + 1, nil
}
