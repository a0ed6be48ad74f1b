package adminapi

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// What auditors read: events and the report.

func (s *Server) events(c echo.Context, _ authn.Caller) error {
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	var after int64
	if text := c.QueryParam("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return problem.Malformed("after must be an event number")
		}
	}
	events, err := s.Store.Events(c.Request().Context(), store.EventFilter{Subject: c.QueryParam("subject")}, after, limit)
	if err != nil {
		return err
	}
	page := api.Page[api.Event]{}
	if page.Items, err = viewEvents(events); err != nil {
		return err
	}
	if len(events) == limit {
		page.Next = strconv.FormatInt(events[len(events)-1].Number, 10)
	}
	return render(c, page)
}

func viewEvents(events []store.StoredEvent) ([]api.Event, error) {
	out := []api.Event{}
	for _, e := range events {
		view, err := report.ViewEvent(e)
		if err != nil {
			return nil, err
		}
		out = append(out, view)
	}
	return out, nil
}

// report answers with the signed report, whose bytes stay as they were signed.
func (s *Server) report(c echo.Context, caller authn.Caller) error {
	from, err := timeParam(c, "from", s.Now().AddDate(0, 0, -30))
	if err != nil {
		return err
	}
	to, err := timeParam(c, "to", s.Now())
	if err != nil {
		return err
	}
	if !from.Before(to) {
		return problem.Malformed("from must be before to")
	}
	body, err := s.Reports.Make(c.Request().Context(), caller.Name, from, to, c.QueryParam("product"))
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, body)
}
