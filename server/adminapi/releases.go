package adminapi

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Headers of a resumable upload.
const (
	headerOffset = "Upload-Offset"
	headerLength = "Upload-Length"
)

// retryStore is how long a caller waits before it asks a busy store again.
const retryStore = 10 * time.Second

func (s *Server) status(c echo.Context, _ authn.Caller) error {
	out := s.Status()
	catalog := s.Repository.Catalog()
	out.Initialised = catalog.Initialised()
	if catalog != nil {
		out.ImageRoot, out.DirectorRoot, out.Targets = int64(len(catalog.ImageRoots)), int64(len(catalog.DirectorRoots)), catalog.Targets
	}
	return render(c, out)
}

func (s *Server) openAPI(c echo.Context, _ authn.Caller) error {
	return c.Blob(http.StatusOK, "application/yaml", api.OpenAPI())
}

func (s *Server) ceremony(c echo.Context, caller authn.Caller) error {
	var req api.Ceremony
	if err := decode(c, &req); err != nil {
		return err
	}
	result, err := s.Repository.Apply(c.Request().Context(), caller.Name, req)
	if err != nil {
		return conflict(err, "the repository changed in between; try again")
	}
	return render(c, result)
}

func (s *Server) blob(c echo.Context) (sum digest.SHA256, length int64, err error) {
	if sum, err = digest.Parse(c.Param("sha256")); err != nil {
		return sum, 0, problem.Malformed("a blob is named by 64 lower-case hex digits")
	}
	length, err = strconv.ParseInt(c.Request().Header.Get(headerLength), 10, 64)
	if err != nil || length < 1 || length > artifacts.MaxImageBytes {
		return sum, 0, problem.Malformed("the header %s must be 1 to %d", headerLength, int64(artifacts.MaxImageBytes))
	}
	return sum, length, nil
}

// headBlob says how far an upload has come.
func (s *Server) headBlob(c echo.Context, _ authn.Caller) error {
	sum, length, err := s.blob(c)
	if err != nil {
		return err
	}
	offset, err := s.Blobs.Uploaded(c.Request().Context(), sum, length)
	if err != nil {
		return uploadError(err)
	}
	setUpload(c, offset, length)
	return c.NoContent(http.StatusNoContent)
}

func setUpload(c echo.Context, offset, length int64) {
	c.Response().Header().Set(headerOffset, strconv.FormatInt(offset, 10))
	c.Response().Header().Set(headerLength, strconv.FormatInt(length, 10))
}

// putBlob continues an upload. A chunk that does not continue where the upload stands is 409 with the right offset.
func (s *Server) putBlob(c echo.Context, _ authn.Caller) error {
	sum, length, err := s.blob(c)
	if err != nil {
		return err
	}
	offset, err := strconv.ParseInt(c.Request().Header.Get(headerOffset), 10, 64)
	if err != nil || offset < 0 || offset > length {
		return problem.Malformed("the header %s must be 0 to %d", headerOffset, length)
	}
	now, err := s.Blobs.Write(c.Request().Context(), sum, length, offset, c.Request().Body)
	setUpload(c, now, length)
	if err != nil {
		return uploadError(err)
	}
	return c.NoContent(http.StatusNoContent)
}

func uploadError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return problem.TooLarge(tooLarge.Limit)
	case errors.Is(err, artifacts.ErrOffset):
		return problem.New(http.StatusConflict, reason.Conflict, "the upload stands at another offset; continue there")
	case errors.Is(err, artifacts.ErrDigestMismatch), errors.Is(err, artifacts.ErrLengthMismatch):
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "the bytes are not those of the announced digest and length; the upload starts over")
	}
	return problem.Busy(fmt.Errorf("cannot store the blob: %w", err), retryStore)
}

func (s *Server) publish(c echo.Context, caller authn.Caller) error {
	var req api.PublishRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	out, err := s.Repository.Publish(c.Request().Context(), caller.Name, req)
	if err != nil {
		return conflict(err, "the repository changed in between; try again")
	}
	return render(c, out)
}

func (s *Server) listReleases(c echo.Context, _ authn.Caller) error {
	rows, err := s.Store.ListReleases(c.Request().Context(), c.QueryParam("product"))
	if err != nil {
		return err
	}
	page := api.Page[api.Release]{Items: []api.Release{}}
	for _, row := range rows {
		view, err := s.Repository.View(c.Request().Context(), row, false)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, view)
	}
	return render(c, page)
}

func releaseName(c echo.Context) string {
	return artifacts.ReleaseName(c.Param("product"), c.Param("version"))
}

func (s *Server) getRelease(c echo.Context, _ authn.Caller) error {
	row, err := s.Store.Release(c.Request().Context(), releaseName(c))
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(http.StatusNotFound, reason.ReleaseUnknown, "there is no release %s", releaseName(c))
	}
	if err != nil {
		return err
	}
	view, err := s.Repository.View(c.Request().Context(), row, false)
	if err != nil {
		return err
	}
	return render(c, view)
}

func (s *Server) approveRelease(c echo.Context, caller authn.Caller) error {
	return s.releaseAnswer(c)(s.Repository.Approve(c.Request().Context(), caller.Name, releaseName(c)))
}

func (s *Server) holdRelease(c echo.Context, caller authn.Caller) error {
	var req api.HoldRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if req.Detail == "" || len(req.Detail) > maxDetail {
		return problem.Malformed("say why in detail, in at most %d bytes", maxDetail)
	}
	return s.releaseAnswer(c)(s.Repository.Hold(c.Request().Context(), caller.Name, releaseName(c), req.Detail))
}

func (s *Server) resumeRelease(c echo.Context, caller authn.Caller) error {
	return s.releaseAnswer(c)(s.Repository.Resume(c.Request().Context(), caller.Name, releaseName(c)))
}

func (s *Server) releaseAnswer(c echo.Context) func(api.Release, error) error {
	return func(out api.Release, err error) error {
		if err != nil {
			return conflict(err, "the release changed in between; look at it again")
		}
		s.Enforcer.Wake()
		return render(c, out)
	}
}
