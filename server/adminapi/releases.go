package adminapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
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
	if err := saysWhy("detail", req.Detail); err != nil {
		return err
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
