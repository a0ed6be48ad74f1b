package adminapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/segment"
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
	return api.InventoryEntry{Device: e.Device, Product: e.Product, HardwareID: e.HardwareID, Profile: e.Profile, Addresses: e.Addresses, MACs: e.MACs}
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
	if entry.Addresses, err = places(req.Addresses, "address", plainIP); err != nil {
		return err
	}
	if entry.MACs, err = places(req.MACs, "mac", segment.ParseMAC); err != nil {
		return err
	}
	data := map[string]any{"product": entry.Product, "hardware_id": entry.HardwareID, "profile": entry.Profile}
	if len(entry.Addresses) > 0 || len(entry.MACs) > 0 {
		data["addresses"], data["macs"] = entry.Addresses, entry.MACs
	}
	change := store.Change{
		Writes: []store.Write{store.PutInventory{Entry: entry}},
		Events: []store.Event{s.event(caller, audit.InventorySet, entry.Device, data)},
	}
	before, err := s.Store.Inventory(c.Request().Context(), entry.Device)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := s.relocate(c.Request().Context(), &change, entry.Device, before, entry); err != nil {
		return err
	}
	if err := s.Store.Commit(c.Request().Context(), change); err != nil {
		return err
	}
	s.Enforcer.Wake()
	return render(c, viewEntry(entry))
}

// relocate tells the network points when an entry moves a device. An entry must not loosen what two people have to loosen:
// an address that a device in quarantine is kept out by cannot be taken from it, nor given to another device beside it.
func (s *Server) relocate(ctx context.Context, change *store.Change, device string, before, after store.Inventory) error {
	old, now := slices.Concat(before.Addresses, before.MACs), slices.Concat(after.Addresses, after.MACs)
	if slices.Equal(old, now) {
		return nil
	}
	q, err := store.QuarantineOf(ctx, s.Store, device)
	if err != nil {
		return err
	}
	for _, a := range old {
		if q != nil && !slices.Contains(now, a) {
			return problem.New(http.StatusConflict, reason.DeviceQuarantined, "the device is in quarantine: %s cannot be taken from it before it is released", a)
		}
	}
	for _, a := range now {
		if slices.Contains(old, a) {
			continue
		}
		if err := s.unclaimed(ctx, a, device); err != nil {
			return err
		}
	}
	return segment.Relocate(ctx, s.Store, s.rules(), change, device, slices.Concat(old, now), s.Now())
}

// unclaimed refuses an address that the inventory gives to another device, unless that one is retired, and one that keeps
// another device in quarantine out, whoever said where that is.
func (s *Server) unclaimed(ctx context.Context, address, device string) error {
	others, err := s.Store.DevicesAt(ctx, address, device, maxNeighbours)
	if err != nil {
		return err
	}
	if len(others) == maxNeighbours {
		return problem.New(http.StatusConflict, reason.Conflict, "%s is shown by %d devices and more: it is not the address of one", address, maxNeighbours)
	}
	for _, id := range others {
		d, err := s.Store.Device(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if d.Lifecycle == fleet.Retired {
			continue
		}
		if err := s.unclaimedBy(ctx, address, id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) unclaimedBy(ctx context.Context, address, id string) error {
	entry, err := s.Store.Inventory(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if slices.Contains(slices.Concat(entry.Addresses, entry.MACs), address) {
		return problem.New(http.StatusConflict, reason.Conflict, "%s is that of device %s: take it from there, or retire that device", address, id)
	}
	q, err := store.QuarantineOf(ctx, s.Store, id)
	if err != nil || q == nil {
		return err
	}
	held, err := segment.Holds(ctx, s.Store, id, address)
	if err == nil && held {
		err = problem.New(http.StatusConflict, reason.DeviceQuarantined, "device %s is in quarantine and was seen at %s: it cannot be given to another before that one is released or retired", id, address)
	}
	return err
}

// maxNeighbours is how many devices may show an address that an entry gives to another one.
const maxNeighbours = 256

// maxPlaces is how many addresses of a kind a device may have.
const maxPlaces = 16

// places reads addresses: written in one way, sorted, each once.
func places(texts []string, what string, parse func(string) (string, error)) ([]string, error) {
	if len(texts) > maxPlaces {
		return nil, problem.Malformed("a device has at most %d addresses of a kind", maxPlaces)
	}
	var out []string
	for _, text := range texts {
		place, err := parse(text)
		if err != nil {
			return nil, problem.Malformed("%s: %v", what, err)
		}
		out = append(out, place)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func plainIP(text string) (string, error) {
	a, err := segment.ParseAddress(text)
	return a.String(), err
}

func (s *Server) removeInventory(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	e, err := s.Store.Inventory(ctx, c.Param("device"))
	if err != nil {
		return missing(err, "inventory entry for "+c.Param("device"))
	}
	change := store.Change{
		Writes: []store.Write{store.RemoveInventory{Device: e.Device}},
		Events: []store.Event{s.event(caller, audit.InventoryRemoved, e.Device, nil)},
	}
	if err := s.relocate(ctx, &change, e.Device, e, store.Inventory{}); err != nil {
		return err
	}
	if err := s.Store.Commit(ctx, change); err != nil {
		return err
	}
	s.Enforcer.Wake()
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
