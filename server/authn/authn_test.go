package authn_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "cordon.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func reasonOf(err error) reason.Reason {
	var known *problem.Error
	if errors.As(err, &known) {
		return known.Reason
	}
	return ""
}

func TestTokensAreRandomAndKnownByHashOnly(t *testing.T) {
	t.Parallel()
	a, b := authn.NewToken(), authn.NewToken()
	if a == b || len(a) < 50 || !strings.HasPrefix(a, "cordon_") {
		t.Errorf("tokens: %q and %q", a, b)
	}
	if authn.Hash(a) != digest.Of([]byte(a)) || authn.Hash(a) == authn.Hash(b) {
		t.Error("the hash is not the SHA-256 of the token")
	}
}

func TestTokenEndsAtItsInstant(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := noon
	service := authn.New(s, func() time.Time { return now })
	token := authn.NewToken()
	err := s.Commit(t.Context(), store.Change{Writes: []store.Write{
		store.PutPerson{Person: store.Person{Name: "alice", Roles: []string{api.RoleAdmin}, At: noon}},
		store.AddToken{Token: store.Token{Hash: authn.Hash(token), Person: "alice", At: noon, Expires: noon.Add(time.Hour)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  reason.Reason
	}{{0, ""}, {time.Hour - time.Microsecond, ""}, {time.Hour, reason.TokenExpired}, {2 * time.Hour, reason.TokenExpired}} {
		now = noon.Add(c.after)
		caller, err := service.Caller(t.Context(), "Bearer "+token)
		if reasonOf(err) != c.want || c.want == "" && (err != nil || caller.Name != "alice") {
			t.Errorf("after %v: got %+v, %v, want %q", c.after, caller, err, c.want)
		}
	}
}

func TestOneTimeTokenEndsWithTheSecondPerson(t *testing.T) {
	t.Parallel()
	s := open(t)
	service := authn.New(s, func() time.Time { return noon })
	token := authn.NewToken()
	hash := authn.Hash(token)
	put := func(w ...store.Write) {
		t.Helper()
		if err := s.Commit(t.Context(), store.Change{Writes: w}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := service.Caller(t.Context(), "Bearer "+token); reasonOf(err) != reason.Unauthenticated {
		t.Errorf("before the setting is there: %v", err)
	}
	put(store.PutSetting{Name: authn.SettingBootstrap, Value: hash[:]})
	for i, name := range []string{"alice", "bob"} {
		if caller, err := service.Caller(t.Context(), "Bearer "+token); err != nil || caller.Name != authn.Bootstrap {
			t.Errorf("person %d: got %+v, %v", i+1, caller, err)
		}
		if _, err := service.Caller(t.Context(), "Bearer "+authn.NewToken()); reasonOf(err) != reason.Unauthenticated {
			t.Errorf("another token: %v", err)
		}
		put(store.PutPerson{Person: store.Person{Name: name, Roles: []string{api.RoleAdmin}, At: noon}})
	}
	if _, err := service.Caller(t.Context(), "Bearer "+token); reasonOf(err) != reason.TokenExpired {
		t.Errorf("after two people: %v", err)
	}
	// A void setting opens nothing, whatever its value is the hash of.
	put(store.PutSetting{Name: authn.SettingBootstrap, Value: []byte("void")})
	if _, err := service.Caller(t.Context(), "Bearer "+token); reasonOf(err) != reason.Unauthenticated {
		t.Errorf("void: %v", err)
	}
}

// A database that cannot be asked is an error, never an unknown caller: nothing was decided.
func TestUnreachableDatabaseDecidesNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := authn.New(s, func() time.Time { return noon }).Caller(context.Background(), "Bearer "+authn.NewToken())
	if err == nil || reasonOf(err) != "" {
		t.Errorf("got %v", err)
	}
}
