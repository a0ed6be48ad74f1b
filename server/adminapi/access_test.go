package adminapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/adminapi"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/authz"
	"github.com/cordon-ota/cordon/server/store"
)

func deviceID(label string) string { return identity.DeviceIDOf([]byte(label)).String() }

// concrete fills the parameters of a route.
func concrete(path string) string {
	return "/api/v1" + strings.NewReplacer(
		":name", "nobody", ":device", deviceID("x"), ":sha256", strings.Repeat("ab", 32), ":product", "lamp", ":version", "9.9",
		"/appraisals/:id", "/appraisals/"+strings.Repeat("ab", 32), ":id", deviceID("x"),
	).Replace(path)
}

func TestEveryRoleOnEveryRoute(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.Apply(a.First(a.Policy("lamp")))
	a.auditLog.Round(t.Context())
	for _, role := range authz.Roles() {
		a.person("the-"+role, role)
	}
	a.person("the-none")
	for _, r := range adminapi.Routes() {
		if status, _, body := a.send(r.Method, concrete(r.Path), "", nil, ""); r.Permission == authz.Public {
			if status != http.StatusOK {
				t.Errorf("%s %s without a token: got %d %s", r.Method, r.Path, status, body)
			}
		} else if status != http.StatusUnauthorized {
			t.Errorf("%s %s without a token: got %d %s, want 401", r.Method, r.Path, status, body)
		}
		for _, role := range append(authz.Roles(), "none") {
			status, _, body := a.send(r.Method, concrete(r.Path), a.tokens["the-"+role], nil, "")
			denied := status == http.StatusForbidden && (r.Method == http.MethodHead || strings.Contains(body, string(reason.PermissionDenied)))
			if want := !authz.Allowed([]string{role}, r.Permission); denied != want {
				t.Errorf("%s %s as %s: got %d %s, denied should be %v", r.Method, r.Path, role, status, body, want)
			}
			if status >= http.StatusInternalServerError {
				t.Errorf("%s %s as %s: got %d %s", r.Method, r.Path, role, status, body)
			}
		}
	}
}

func TestWhoIsNotLetIn(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	alice, bob := a.person("alice", api.RoleAdmin), a.person("bob", api.RoleAuditor)
	if _, err := bob.People(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]string{
		"none": "", "another scheme": "Basic " + a.tokens["bob"], "no token": "Bearer ", "not ours": "Bearer hello",
		"unknown": "Bearer " + authn.NewToken(), "lower case": "bearer " + a.tokens["bob"], "with a space": "Bearer  " + a.tokens["bob"],
		"cut": "Bearer " + a.tokens["bob"][:20], "long": "Bearer " + a.tokens["bob"] + strings.Repeat("A", 300),
	} {
		status, _, body := a.send("GET", "/api/v1/people", "", map[string]string{"Authorization": header}, "")
		if status != http.StatusUnauthorized || !strings.Contains(body, string(reason.Unauthenticated)) {
			t.Errorf("%s: got %d %s", name, status, body)
		}
	}
	renewed, err := alice.RenewToken(t.Context(), "bob", 7)
	if err != nil {
		t.Fatal(err)
	}
	_, err = bob.People(t.Context(), "")
	wantReason(t, "the token before the new one", err, reason.TokenExpired)
	bob = a.client(renewed.Token)
	if _, err := bob.People(t.Context(), ""); err != nil {
		t.Errorf("the new token: %v", err)
	}
	a.Pass(7 * 24 * 3600e9)
	_, err = bob.People(t.Context(), "")
	wantReason(t, "an expired token", err, reason.TokenExpired)
	wantReason(t, "the own account", alice.RemovePerson(t.Context(), "alice"), reason.SamePerson)
	carol := a.person("carol", api.RoleOperator)
	if err := alice.RemovePerson(t.Context(), "carol"); err != nil {
		t.Fatal(err)
	}
	_, err = carol.People(t.Context(), "")
	wantReason(t, "a disabled person", err, reason.TokenExpired)
	_, err = alice.RenewToken(t.Context(), "carol", 7)
	wantReason(t, "a token for a disabled person", err, reason.Conflict)
	_, err = alice.RenewToken(t.Context(), "nobody", 7)
	wantReason(t, "a token for nobody", err, reason.NotFound)
	for _, token := range a.tokens {
		if strings.Contains(a.log.String(), token) {
			t.Error("the log holds a token")
		}
	}
}

// bootstrap lays the one-time token as the first start does.
func (a *admin) bootstrap() *api.Client {
	a.t.Helper()
	token := authn.NewToken()
	hash := authn.Hash(token)
	if err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.PutSetting{Name: authn.SettingBootstrap, Value: hash[:]}}}); err != nil {
		a.t.Fatal(err)
	}
	a.tokens[authn.Bootstrap] = token
	return a.client(token)
}

func TestOneTimeTokenMakesTwoPeopleEvenWhenRaced(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	first := a.bootstrap()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []string
	for i := range 8 {
		wg.Go(func() {
			out, err := first.CreatePerson(t.Context(), api.PersonRequest{Name: fmt.Sprintf("p%d", i), Roles: []string{api.RoleAdmin}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, out.Token)
			}
		})
	}
	wg.Wait()
	for i := 0; len(made) < authn.BootstrapPeople && i < 4; i++ { // all may have lost the race but one
		if out, err := first.CreatePerson(t.Context(), api.PersonRequest{Name: fmt.Sprintf("q%d", i), Roles: []string{api.RoleAdmin}}); err == nil {
			made = append(made, out.Token)
		}
	}
	people, err := a.Store.ListPeople(t.Context())
	if err != nil || len(people) != authn.BootstrapPeople || len(made) != authn.BootstrapPeople {
		t.Errorf("people: got %d rows, %d answers, %v", len(people), len(made), err)
	}
	_, err = first.CreatePerson(t.Context(), api.PersonRequest{Name: "third", Roles: []string{api.RoleAdmin}})
	if r := api.ReasonOf(err); r != reason.TokenExpired && r != reason.Unauthenticated {
		t.Errorf("the third person: got %v", err)
	}
	if value, _, err := a.Store.Setting(t.Context(), authn.SettingBootstrap); err != nil || string(value) != "void" {
		t.Errorf("the setting: got %q, %v", value, err)
	}
	if _, err := a.client(made[0]).People(t.Context(), ""); err != nil {
		t.Errorf("the first person: %v", err)
	}
}

func TestOneTimeTokenCreatesPeopleOnly(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	first := a.bootstrap()
	if _, err := first.CreatePerson(t.Context(), api.PersonRequest{Name: "robot", Roles: []string{api.RoleCI}}); err != nil {
		t.Fatal(err)
	}
	_, err := first.RenewToken(t.Context(), "robot", 0)
	wantReason(t, "a token", err, reason.PermissionDenied)
	wantReason(t, "an end", first.RemovePerson(t.Context(), "robot"), reason.PermissionDenied)
	_, err = first.CreatePerson(t.Context(), api.PersonRequest{Name: "oscar", Roles: []string{api.RoleOperator}})
	wantReason(t, "two people without an admin", err, reason.RequestMalformed)
	if _, err := first.CreatePerson(t.Context(), api.PersonRequest{Name: "alice", Roles: []string{api.RoleAdmin, api.RoleOperator}}); err != nil {
		t.Error(err)
	}
}

func TestPeopleRules(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	alice := a.person("alice", api.RoleAdmin)
	for name, req := range map[string]api.PersonRequest{
		"name with a slash": {Name: "a/b", Roles: []string{api.RoleCI}}, "upper case": {Name: "Bob", Roles: []string{api.RoleCI}},
		"name of the one-time token": {Name: authn.Bootstrap, Roles: []string{api.RoleAdmin}}, "no name": {Roles: []string{api.RoleCI}},
		"no role": {Name: "bob"}, "unknown role": {Name: "bob", Roles: []string{"root"}},
		"ci that approves": {Name: "bob", Roles: []string{api.RoleCI, api.RoleOperator}}, "a role twice": {Name: "bob", Roles: []string{api.RoleAdmin, api.RoleAdmin}},
		"too long": {Name: "bob", Roles: []string{api.RoleAdmin}, Days: 401}, "negative": {Name: "bob", Roles: []string{api.RoleAdmin}, Days: -1},
	} {
		_, err := alice.CreatePerson(t.Context(), req)
		wantReason(t, name, err, reason.RequestMalformed)
	}
	bob, err := alice.CreatePerson(t.Context(), api.PersonRequest{Name: "bob", Roles: []string{api.RoleOperator}})
	if err != nil || !strings.HasPrefix(bob.Token, "cordon_") {
		t.Fatalf("got %+v, %v", bob, err)
	}
	_, err = alice.CreatePerson(t.Context(), api.PersonRequest{Name: "bob", Roles: []string{api.RoleOperator}})
	wantReason(t, "a name twice", err, reason.Conflict)
	page, err := alice.People(t.Context(), "")
	if err != nil || len(page.Items) != 2 || !slices.Equal(page.Items[1].Roles, []string{api.RoleOperator}) || page.Items[1].ExpiresAt.IsZero() {
		t.Errorf("people: got %+v, %v", page, err)
	}
	events, err := a.Store.LastEvents(t.Context(), "bob", 5)
	if err != nil || len(events) != 1 || events[0].Actor != "alice" || strings.Contains(string(events[0].Leaf), bob.Token) {
		t.Errorf("events: %v, %v", events, err)
	}
	if tokens, err := a.Store.TokensOf(t.Context(), "bob"); err != nil || len(tokens) != 1 || tokens[0].Hash != authn.Hash(bob.Token) {
		t.Errorf("only the hash of the token is kept: %v, %v", tokens, err)
	}
	if strings.Contains(a.log.String(), bob.Token) {
		t.Error("the log holds a token")
	}
}

func TestBodiesAreStrictAndBounded(t *testing.T) {
	t.Parallel()
	a := newAdmin(t)
	a.person("alice", api.RoleAdmin, api.RoleOperator)
	a.person("robot", api.RoleCI)
	for _, r := range adminapi.Routes() {
		token := a.tokens["alice"]
		if r.Permission == authz.BlobWrite || r.Permission == authz.ReleasePublish {
			token = a.tokens["robot"]
		}
		if r.Limit > 8<<20 || r.Permission == authz.ReportMake {
			continue
		}
		status, _, body := a.send(r.Method, concrete(r.Path), token, map[string]string{"Upload-Length": "99999999", "Upload-Offset": "0"}, strings.Repeat(" ", int(r.Limit)+1))
		if status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s %s with %d bytes: got %d %s", r.Method, r.Path, r.Limit+1, status, body)
		}
	}
	for name, body := range map[string]string{
		"unknown field": `{"name":"bob","roles":["operator"],"password":"x"}`, "a field twice": `{"name":"bob","name":"eve","roles":["operator"]}`,
		"trailing bytes": `{"name":"bob","roles":["operator"]} {}`, "other case": `{"Name":"bob","roles":["operator"]}`, "nothing": ``, "no JSON": `name=bob`,
	} {
		status, _, answer := a.send("POST", "/api/v1/people", a.tokens["alice"], nil, body)
		if status != http.StatusBadRequest || !strings.Contains(answer, string(reason.RequestMalformed)) {
			t.Errorf("%s: got %d %s", name, status, answer)
		}
	}
}
