package adminapi

import (
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/authz"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

const (
	defaultDays = 90
	maxDays     = 400
	maxRoles    = 8
)

func (s *Server) listPeople(c echo.Context, _ authn.Caller) error {
	people, err := s.Store.ListPeople(c.Request().Context())
	if err != nil {
		return err
	}
	page := api.Page[api.Person]{Items: []api.Person{}}
	for _, p := range people {
		view, err := s.viewPerson(c, p)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, view)
	}
	return render(c, page)
}

func (s *Server) viewPerson(c echo.Context, p store.Person) (api.Person, error) {
	out := api.Person{Name: p.Name, Roles: p.Roles, CreatedAt: p.At.UTC(), Disabled: p.Disabled}
	tokens, err := s.Store.TokensOf(c.Request().Context(), p.Name)
	for _, t := range tokens {
		if t.Revoked.IsZero() && t.Expires.After(out.ExpiresAt) {
			out.ExpiresAt = t.Expires.UTC()
		}
	}
	return out, err
}

func (s *Server) addPerson(c echo.Context, caller authn.Caller) error {
	var req api.PersonRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := checkPerson(&req); err != nil {
		return err
	}
	now := s.Now()
	person := store.Person{Name: req.Name, Roles: req.Roles, At: now}
	token := authn.NewToken()
	change := store.Change{
		Expect: []store.Expect{{Table: store.People, Key: req.Name, Version: 0}},
		Writes: []store.Write{
			store.PutPerson{Person: person},
			store.AddToken{Token: store.Token{Hash: authn.Hash(token), Person: req.Name, At: now, Expires: now.AddDate(0, 0, req.Days)}},
		},
		Events: []store.Event{s.event(caller, audit.PersonAdded, req.Name, map[string]any{"roles": req.Roles, "days": req.Days})},
	}
	if caller.Name == authn.Bootstrap {
		if err := s.countBootstrap(c, &change, person); err != nil {
			return err
		}
	}
	if err := s.Store.Commit(c.Request().Context(), change); err != nil {
		return conflict(err, "a person of that name exists already, or somebody else is using the one-time token now")
	}
	view, err := s.viewPerson(c, person)
	if err != nil {
		return err
	}
	return render(c, api.PersonCreated{Person: view, Token: token})
}

// countBootstrap makes the uses of the one-time token follow each other, and ends it with the last one.
func (s *Server) countBootstrap(c echo.Context, change *store.Change, added store.Person) error {
	ctx := c.Request().Context()
	value, version, err := s.Store.Setting(ctx, authn.SettingBootstrap)
	if err != nil {
		return err
	}
	people, err := s.Store.ListPeople(ctx)
	if err != nil {
		return err
	}
	if len(people) >= authn.BootstrapPeople { // it was let in before somebody else used the token for the last time
		return problem.New(http.StatusUnauthorized, reason.TokenExpired, "the one-time token has made its people")
	}
	if len(people)+1 >= authn.BootstrapPeople {
		isAdmin := func(p store.Person) bool { return slices.Contains(p.Roles, api.RoleAdmin) && !p.Disabled }
		if !slices.ContainsFunc(append(people, added), isAdmin) {
			return problem.Malformed("one of the first %d people needs the role %s: nobody else could add people later", authn.BootstrapPeople, api.RoleAdmin)
		}
		value = []byte("void")
	}
	change.Expect = append(change.Expect, store.Expect{Table: store.Settings, Key: authn.SettingBootstrap, Version: version})
	change.Writes = append(change.Writes, store.PutSetting{Name: authn.SettingBootstrap, Value: value})
	return nil
}

func checkPerson(req *api.PersonRequest) error {
	if err := artifacts.ValidName(req.Name); err != nil || reserved(req.Name) {
		return problem.Malformed("the name %q cannot be used: lower-case letters, digits, . _ -, at most 63", req.Name)
	}
	if len(req.Roles) == 0 || len(req.Roles) > maxRoles {
		return problem.Malformed("name 1 to %d roles out of %v", maxRoles, authz.Roles())
	}
	for i, r := range req.Roles {
		if slices.Contains(req.Roles[:i], r) {
			return problem.Malformed("the role %q is there twice", r)
		}
		if !slices.Contains(authz.Roles(), r) {
			return problem.Malformed("the role %q is none of %v", r, authz.Roles())
		}
	}
	if slices.Contains(req.Roles, api.RoleCI) && len(req.Roles) > 1 {
		return problem.Malformed("the role ci stands alone: whoever publishes must not approve")
	}
	return checkDays(&req.Days)
}

// reserved names stand for the server, its parts and devices where audit events and quarantines say who did it.
func reserved(name string) bool {
	_, notADevice := identity.ParseDeviceID(name)
	parts := []string{authn.Bootstrap, "server", "verifier", "sweeper", "door", "enroll", "inventory", "token", "ceremony"}
	return notADevice == nil || slices.Contains(parts, name)
}

func checkDays(days *int) error {
	if *days == 0 {
		*days = defaultDays
	}
	if *days < 1 || *days > maxDays {
		return problem.Malformed("days must be 1 to %d", maxDays)
	}
	return nil
}

// newToken replaces a person's tokens by a new one.
func (s *Server) newToken(c echo.Context, caller authn.Caller) error {
	var req struct {
		Days int `json:"days"`
	}
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := checkDays(&req.Days); err != nil {
		return err
	}
	ctx, now := c.Request().Context(), s.Now()
	person, err := s.Store.Person(ctx, c.Param("name"))
	if err != nil {
		return missing(err, "person "+c.Param("name"))
	}
	if person.Disabled {
		return problem.New(http.StatusConflict, reason.Conflict, "the account %s is disabled", person.Name)
	}
	if caller.Name == authn.Bootstrap {
		return problem.New(http.StatusForbidden, reason.PermissionDenied, "the one-time token creates people only")
	}
	token := authn.NewToken()
	err = s.Store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.People, Key: person.Name, Version: person.Version}},
		Writes: []store.Write{
			store.RevokeTokens{Person: person.Name, At: now},
			store.AddToken{Token: store.Token{Hash: authn.Hash(token), Person: person.Name, At: now, Expires: now.AddDate(0, 0, req.Days)}},
		},
		Events: []store.Event{s.event(caller, audit.TokenIssued, person.Name, map[string]any{"days": req.Days})},
	})
	if err != nil {
		return conflict(err, "the account changed in between")
	}
	view, err := s.viewPerson(c, person)
	if err != nil {
		return err
	}
	return render(c, api.PersonCreated{Person: view, Token: token})
}

func (s *Server) disablePerson(c echo.Context, caller authn.Caller) error {
	ctx := c.Request().Context()
	if caller.Name == authn.Bootstrap {
		return problem.New(http.StatusForbidden, reason.PermissionDenied, "the one-time token creates people only")
	}
	if caller.Name == c.Param("name") {
		return problem.New(http.StatusForbidden, reason.SamePerson, "nobody disables the own account")
	}
	person, err := s.Store.Person(ctx, c.Param("name"))
	if err != nil {
		return missing(err, "person "+c.Param("name"))
	}
	version := person.Version
	person.Disabled = true
	err = s.Store.Commit(ctx, store.Change{
		Expect: []store.Expect{{Table: store.People, Key: person.Name, Version: version}},
		Writes: []store.Write{store.PutPerson{Person: person}, store.RevokeTokens{Person: person.Name, At: s.Now()}},
		Events: []store.Event{s.event(caller, audit.PersonDisabled, person.Name, nil)},
	})
	if err != nil {
		return conflict(err, "the account changed in between")
	}
	view, err := s.viewPerson(c, person)
	if err != nil {
		return err
	}
	return render(c, view)
}
