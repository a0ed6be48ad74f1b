package adminapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/retention"
)

// retryCollect is how long a caller waits while another replica collects.
const retryCollect = time.Minute

func (s *Server) pruneRelease(c echo.Context, caller authn.Caller) error {
	var req api.PruneRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := saysWhy("detail", req.Detail); err != nil {
		return err
	}
	if !req.DryRun {
		return s.releaseAnswer(c)(s.Retention.Prune(c.Request().Context(), caller.Name, releaseName(c), req.Detail))
	}
	if err := s.Retention.MayPrune(c.Request().Context(), releaseName(c)); err != nil {
		return conflict(err, "the release changed in between; look at it again")
	}
	return s.getRelease(c, caller)
}

func (s *Server) retentionPlan(c echo.Context, _ authn.Caller) error {
	plan, err := s.Retention.Plan(c.Request().Context())
	if err != nil {
		return retentionError(err)
	}
	return render(c, plan)
}

func (s *Server) collect(c echo.Context, caller authn.Caller) error {
	done, err := s.Retention.Collect(c.Request().Context(), caller.Name)
	if err != nil {
		return retentionError(err)
	}
	return render(c, api.RetentionResult{Pruned: append([]string{}, done.Pruned...), Blobs: done.Blobs, Bytes: done.Bytes, Uploads: done.Uploads,
		Retained: done.Retained, More: done.More})
}

func retentionError(err error) error {
	switch {
	case errors.Is(err, retention.ErrBusy):
		return problem.Busy(err, retryCollect)
	case errors.Is(err, retention.ErrForeign):
		return problem.New(http.StatusConflict, reason.Conflict, "%v", err)
	}
	return conflict(err, "something was published in between; try again")
}
