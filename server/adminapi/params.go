package adminapi

import (
	"context"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/problem"
)

// Rows of one page.
const (
	defaultPage = 200
	maxPage     = 1000
)

func limitParam(c echo.Context) (int, error) {
	text := c.QueryParam("limit")
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, problem.Malformed("limit must be 1 to %d", maxPage)
	}
	return n, nil
}

// pageOf shows rows.
func pageOf[R, V any](ctx context.Context, rows []R, view func(context.Context, R) (V, error)) (api.Page[V], error) {
	page := api.Page[V]{Items: []V{}}
	for _, row := range rows {
		v, err := view(ctx, row)
		if err != nil {
			return page, err
		}
		page.Items = append(page.Items, v)
	}
	return page, nil
}

func timeParam(c echo.Context, name string, otherwise time.Time) (time.Time, error) {
	text := c.QueryParam(name)
	if text == "" {
		return otherwise, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, problem.Malformed("%s must be a time like 2026-01-31T12:00:00Z", name)
	}
	return t, nil
}
