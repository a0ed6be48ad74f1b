package adminapi

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// Stored appraisals, one by one: for whoever wants to reach a verdict again without a whole report.

// stored finds the appraisal that the path names, by its id or by its number.
func (s *Server) stored(c echo.Context) (store.Appraisal, error) {
	name, ctx := c.Param("id"), c.Request().Context()
	if id, err := digest.Parse(name); err == nil {
		a, err := s.Store.Appraisal(ctx, id)
		return a, missing(err, "appraisal "+name)
	}
	number, err := strconv.ParseInt(name, 10, 64)
	if err != nil || number < 1 || strconv.FormatInt(number, 10) != name {
		return store.Appraisal{}, problem.Malformed("an appraisal is named by its number or by 64 lower-case hex digits")
	}
	a, err := s.Store.AppraisalNumber(ctx, number)
	return a, missing(err, "appraisal "+name)
}

func (s *Server) appraisal(c echo.Context, _ authn.Caller) error {
	a, err := s.stored(c)
	if err != nil {
		return err
	}
	view, err := report.ViewAppraisal(a)
	if err != nil {
		return err
	}
	return render(c, view)
}

// appraisalLog answers with the event log that the appraised quote commits to.
func (s *Server) appraisalLog(c echo.Context, _ authn.Caller) error {
	a, err := s.stored(c)
	if err != nil {
		return err
	}
	view, err := report.ViewAppraisal(a)
	if err != nil {
		return err
	}
	log, err := s.Store.Log(c.Request().Context(), view.Input.Evidence.LogDigest)
	if err != nil {
		return missing(err, "event log "+view.Input.Evidence.LogDigest.String())
	}
	return c.Blob(http.StatusOK, echo.MIMEOctetStream, log)
}

// listAppraisals lists a device's, the newest first.
func (s *Server) listAppraisals(c echo.Context, _ authn.Caller) error {
	d, err := s.device(c)
	if err != nil {
		return err
	}
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	var before int64
	if text := c.QueryParam("after"); text != "" { // further down the list, which is towards lower numbers
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return problem.Malformed("after must be the number of an appraisal")
		}
	}
	limit = min(limit, maxAppraisals)
	rows, err := s.Store.AppraisalsOf(c.Request().Context(), d.ID, before, limit)
	if err != nil {
		return err
	}
	page := api.Page[api.AppraisalSummary]{Items: []api.AppraisalSummary{}}
	for _, row := range rows {
		view, err := viewSummary(row)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, view)
	}
	if len(rows) == limit {
		page.Next = strconv.FormatInt(rows[len(rows)-1].Number, 10)
	}
	return render(c, page)
}

// maxAppraisals bounds a page: every row is read with all that led to it.
const maxAppraisals = 200

func viewSummary(a store.Appraisal) (api.AppraisalSummary, error) {
	out := api.AppraisalSummary{
		Number: a.Number, ID: a.ID, Device: a.Device, At: a.At.UTC(), Outcome: a.Outcome, Release: a.Release, Verifier: a.Verifier,
		PolicySHA256: a.Policy, BaselineSHA256: a.Baseline, Repeats: a.Repeats,
	}
	var verdict attestation.Verdict
	if err := json.Unmarshal(a.Verdict, &verdict); err != nil {
		return out, fmt.Errorf("cannot read stored appraisal %d: %w", a.Number, err)
	}
	out.Reasons, out.Evidence = verdict.Reasons(), verdict.Evidence
	return out, nil
}
