package adminapi

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

const (
	defaultTokenMinutes = 60
	maxTokenMinutes     = 7 * 24 * 60
)

func (s *Server) listInventory(c echo.Context, _ authn.Caller) error {
	rows, err := s.Store.ListInventory(c.Request().Context())
	if err != nil {
		return err
	}
	page := api.Page[api.InventoryEntry]{Items: []api.InventoryEntry{}}
	for _, e := range rows {
		page.Items = append(page.Items, viewEntry(e))
	}
	return render(c, page)
}

func viewEntry(e store.Inventory) api.InventoryEntry {
	return api.InventoryEntry{Device: e.Device, Product: e.Product, HardwareID: e.HardwareID, Profile: e.Profile}
}

func (s *Server) getInventory(c echo.Context, _ authn.Caller) error {
	e, err := s.Store.Inventory(c.Request().Context(), c.Param("device"))
	if err != nil {
		return missing(err, "inventory entry for "+c.Param("device"))
	}
	return render(c, viewEntry(e))
}

func (s *Server) setInventory(c echo.Context, caller authn.Caller) error {
	var req api.InventoryEntry
	if err := decode(c, &req); err != nil {
		return err
	}
	id, err := identity.ParseDeviceID(c.Param("device"))
	if err != nil || req.Device != "" && req.Device != id.String() {
		return problem.Malformed("the path must name a device id (26 characters of a-z 2-7), the same as the body")
	}
	if err := s.checkEntry(req); err != nil {
		return err
	}
	entry := store.Inventory{Device: id.String(), Product: req.Product, HardwareID: req.HardwareID, Profile: req.Profile, By: caller.Name, At: s.Now()}
	err = s.Store.Commit(c.Request().Context(), store.Change{
		Writes: []store.Write{store.PutInventory{Entry: entry}},
		Events: []store.Event{s.event(caller, audit.InventorySet, entry.Device, map[string]any{
			"product": entry.Product, "hardware_id": entry.HardwareID, "profile": entry.Profile,
		})},
	})
	if err != nil {
		return err
	}
	return render(c, viewEntry(entry))
}

func (s *Server) removeInventory(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	e, err := s.Store.Inventory(ctx, c.Param("device"))
	if err != nil {
		return missing(err, "inventory entry for "+c.Param("device"))
	}
	err = s.Store.Commit(ctx, store.Change{
		Writes: []store.Write{store.RemoveInventory{Device: e.Device}},
		Events: []store.Event{s.event(caller, audit.InventoryRemoved, e.Device, nil)},
	})
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) enrollToken(c echo.Context, caller authn.Caller) error {
	var req api.EnrollTokenRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if req.Minutes == 0 {
		req.Minutes = defaultTokenMinutes
	}
	if req.Minutes < 1 || req.Minutes > maxTokenMinutes {
		return problem.Malformed("minutes must be 1 to %d", maxTokenMinutes)
	}
	entry := api.InventoryEntry{Product: req.Product, HardwareID: req.HardwareID, Profile: req.Profile}
	if err := s.checkEntry(entry); err != nil {
		return err
	}
	token := authn.NewToken()
	t := store.EnrollToken{
		Hash: authn.Hash(token), Product: req.Product, HardwareID: req.HardwareID, Profile: req.Profile,
		By: caller.Name, Expires: s.Now().Add(time.Duration(req.Minutes) * time.Minute),
	}
	err := s.Store.Commit(c.Request().Context(), store.Change{
		Writes: []store.Write{store.AddEnrollToken{Token: t}},
		Events: []store.Event{s.event(caller, audit.EnrollTokenIssued, req.Product, map[string]any{
			"hardware_id": req.HardwareID, "profile": req.Profile, "expires": t.Expires.UTC(), "hash": t.Hash,
		})},
	})
	if err != nil {
		return err
	}
	return render(c, api.EnrollTokenCreated{Token: token, ExpiresAt: t.Expires.UTC()})
}
