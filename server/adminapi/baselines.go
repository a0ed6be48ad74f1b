package adminapi

import (
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/problem"
)

func (s *Server) listBaselines(c echo.Context, _ authn.Caller) error {
	items, err := s.Repository.ListBaselines(c.Request().Context(), c.QueryParam("product"), c.QueryParam("profile"))
	if err != nil {
		return err
	}
	return render(c, api.Page[api.Baseline]{Items: items})
}

func (s *Server) getBaseline(c echo.Context, _ authn.Caller) error {
	generation := uint64(0)
	if text := c.QueryParam("generation"); text != "" {
		var err error
		if generation, err = strconv.ParseUint(text, 10, 53); err != nil || generation == 0 {
			return problem.Malformed("generation must be a number from 1 on")
		}
	}
	out, err := s.Repository.Baseline(c.Request().Context(), c.Param("product"), c.Param("profile"), generation)
	if err != nil {
		return err
	}
	return render(c, out)
}

func (s *Server) addBaseline(c echo.Context, caller authn.Caller) error {
	var req api.BaselineRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if len(req.Bundles) > provenance.MaxBundles {
		return problem.Malformed("there are more than %d bundles", provenance.MaxBundles)
	}
	out, err := s.Repository.AddBaseline(c.Request().Context(), caller.Name, req.Bundles)
	if err != nil {
		return conflict(err, "the repository changed in between; try again")
	}
	return render(c, out)
}

func (s *Server) learnBaseline(c echo.Context, _ authn.Caller) error {
	q := platform.Query{Product: c.Param("product"), Profile: c.Param("profile"), Devices: platform.DefaultDevices, Name: c.QueryParam("name")}
	if text := c.QueryParam("devices"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return problem.Malformed("devices must be a number")
		}
		q.Devices = n
	}
	var err error
	if q.Exclude, err = listParam(c, "exclude"); err != nil {
		return err
	}
	if q.Drop, err = listParam(c, "drop"); err != nil {
		return err
	}
	out, err := s.Platform.Learn(c.Request().Context(), q)
	if err != nil {
		return err
	}
	return render(c, out)
}

// listParam reads names with commas between them.
func listParam(c echo.Context, name string) ([]string, error) {
	text := c.QueryParam(name)
	if text == "" {
		return nil, nil
	}
	out := strings.Split(text, ",")
	for _, v := range out {
		if err := artifacts.ValidName(v); err != nil || len(out) > artifacts.MaxBaselineDevices {
			return nil, problem.Malformed("%s must be at most %d names with commas between them", name, artifacts.MaxBaselineDevices)
		}
	}
	return out, nil
}

func (s *Server) dryRunRelease(c echo.Context, _ authn.Caller) error {
	limit, err := limitParam(c)
	if err != nil {
		return err
	}
	device := c.QueryParam("device")
	if device != "" {
		if _, err := identity.ParseDeviceID(device); err != nil {
			return problem.Malformed("%q is not a device id (26 characters of a-z 2-7)", device)
		}
	}
	out, err := s.Platform.DryRun(c.Request().Context(), releaseName(c), device, c.QueryParam("after"), limit)
	if err != nil {
		return err
	}
	return render(c, out)
}
